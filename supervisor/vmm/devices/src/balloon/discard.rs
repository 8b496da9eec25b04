//! Gives pages of guest RAM back to the kernel; afterwards they read as zeroes.
//!
//! How depends on what is mapped, and a wrong way is a leak or worse:
//!
//! | mapping | how | why not otherwise |
//! |---|---|---|
//! | private, anonymous | `MADV_DONTNEED` | |
//! | private, of a file (a restored VM) | fresh anonymous memory over the range | `MADV_DONTNEED` would bring back what the snapshot's file holds there |
//! | shared (memfd) | `MADV_REMOVE`, a hole in the file | `MADV_DONTNEED` would free nothing |
#![expect(
    unsafe_code,
    reason = "madvise and mmap on guest memory, to which no Rust reference exists"
)]

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use vm_memory::{
    GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap, GuestMemoryRegion as _, GuestRegionMmap,
};

/// The unit of the device, whatever the guest's pages are.
pub const PAGE: u64 = 4096;

/// Most fresh mappings over a restored VM's memory. The kernel has 65530 for the whole process, and a guest that gives
/// back every second page could use them all; what comes beyond stays where it is.
const MAX_FRESH: usize = 16_384;

static FRESH: AtomicUsize = AtomicUsize::new(0);

/// Gives back the whole pages inside `len` bytes from `start`; what is not RAM is left alone. Returns the bytes given.
///
/// # Errors
/// The kernel's; part may have been given back.
pub fn discard(memory: &GuestMemoryMmap, start: u64, len: u64) -> io::Result<u64> {
    let Some(end) = start.checked_add(len).map(|end| end & !(PAGE - 1)) else {
        return Ok(0);
    };
    let Some(mut at) = start.checked_next_multiple_of(PAGE) else {
        return Ok(0);
    };
    let mut given = 0_u64;
    while at < end {
        let Some(region) = memory.find_region(GuestAddress(at)) else {
            // The next RAM that begins inside the range, if there is any.
            let next = memory.iter().map(|region| region.start_addr().0);
            match next.filter(|next| (at..end).contains(next)).min() {
                Some(next) => at = next,
                None => break,
            }
            continue;
        };
        let last = region.last_addr().0;
        let stop = end.min(last.saturating_add(1));
        let part = stop.saturating_sub(at);
        if part < PAGE {
            break;
        }
        give(region, at, part)?;
        given = given.saturating_add(part);
        at = stop;
    }
    Ok(given)
}

/// Gives back `len` bytes from guest address `at`, all inside `region`.
fn give(region: &GuestRegionMmap, at: u64, len: u64) -> io::Result<()> {
    let offset = at.saturating_sub(region.start_addr().0);
    let (Ok(offset), Ok(len)) = (usize::try_from(offset), usize::try_from(len)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    if offset
        .checked_add(len)
        .is_none_or(|end| end > region.size())
    {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let host = region.as_ptr().wrapping_add(offset).cast::<libc::c_void>();
    let flags = region.flags();
    if flags & libc::MAP_SHARED != 0 {
        return advise(host, len, libc::MADV_REMOVE);
    }
    if flags & libc::MAP_ANONYMOUS != 0 {
        return advise(host, len, libc::MADV_DONTNEED);
    }
    if FRESH.fetch_add(1, Ordering::Relaxed) >= MAX_FRESH {
        FRESH.fetch_sub(1, Ordering::Relaxed);
        return Ok(());
    }
    let fresh = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the range lies inside one mapping of guest RAM that lives as long as `region`, was checked against its
    // size, and is replaced by memory of the same length and protection; nothing refers to its contents.
    let mapped = unsafe { libc::mmap(host, len, protection, fresh, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn advise(host: *mut libc::c_void, len: usize, advice: libc::c_int) -> io::Result<()> {
    // SAFETY: the range lies inside one mapping of guest RAM, checked by the caller; both kinds of advice only change
    // its contents, which the guest owns.
    if unsafe { libc::madvise(host, len, advice) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
