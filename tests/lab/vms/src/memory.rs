//! What a process holds besides the memory of its guest.

use anyhow::{Context as _, Result};

/// Memory of one process in KiB, without the mappings that are a guest's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overhead {
    /// Pages that are there.
    pub resident: u64,
    /// Pages that are its own and written to.
    pub private_dirty: u64,
}

/// Adds up `/proc/PID/smaps`, leaving out every mapping of at least three quarters of `guest_mib`. Code is never dirty: nobody
/// can write to it, though the kernel counts each page of a file in memory, where the lab has the programs, as written.
///
/// # Errors
/// When it cannot be read: the process is gone, or we are not root.
pub fn overhead(pid: u32, guest_mib: u32) -> Result<Overhead> {
    let path = format!("/proc/{pid}/smaps");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(add_up(&text, u64::from(guest_mib) * 1024 * 3 / 4))
}

fn add_up(smaps: &str, limit: u64) -> Overhead {
    let mut sum = Overhead::default();
    let (mut counts, mut code) = (false, false);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (key, number) = (words.next().unwrap_or_default(), words.next());
        let number = number.and_then(|word| word.parse::<u64>().ok());
        match (key, number) {
            // The first field of each mapping.
            ("Size:", Some(size)) => counts = size < limit,
            ("Rss:", Some(size)) if counts => sum.resident += size,
            ("Private_Dirty:", Some(size)) if counts && !code => sum.private_dirty += size,
            // The line that begins a mapping: its addresses, and what may be done with it.
            (addresses, None) if addresses.contains('-') => {
                code = line.split_whitespace().nth(1) == Some("r-xp");
            }
            _ => {}
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_memory_does_not_count() {
        let smaps = "\
7f0000000000-7f0010000000 rw-p 00000000 00:00 0
Size:             262144 kB
KernelPageSize:        4 kB
Rss:               78000 kB
Private_Dirty:     78000 kB
7f1000000000-7f1000100000 r-xp 00000000 00:00 0    /usr/bin/vmm
Size:               1024 kB
Rss:                 700 kB
Private_Clean:         0 kB
Private_Dirty:       700 kB
7f2000000000-7f2000004000 rw-p 00000000 00:00 0    [heap]
Size:                 16 kB
Rss:                  12 kB
Private_Dirty:         8 kB
VmFlags: rd wr mr mw me ac
";
        let expected = Overhead {
            resident: 712,
            private_dirty: 8,
        };
        assert_eq!(add_up(smaps, 256 * 1024 * 3 / 4), expected);
        assert_eq!(add_up(smaps, 1 << 20).resident, 78_712);
    }
}
