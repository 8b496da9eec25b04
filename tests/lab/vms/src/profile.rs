//! Which threads did a work of a guest, and what KVM counted meanwhile: read while the guest is silent before and after.
//!
//! The scheduler accounts to each thread what ran on its behalf, in nanoseconds, which are instructions here: to a vCPU's
//! thread also the guest, the exits that it caused, and the waking of others.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::console::Console;
use crate::guest::{BEGINS, DONE, FAILED, TOOK};

/// What KVM counts of all VMs that there are.
const KVM: &str = "/sys/kernel/debug/kvm";

/// What one thread has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Used {
    nanoseconds: u64,
    /// It waited for something.
    slept: u64,
    /// Another took the processor from it.
    displaced: u64,
}

/// All that is counted, at one moment.
#[derive(Debug, Default)]
struct Sample {
    threads: BTreeMap<String, Used>,
    kvm: BTreeMap<String, u64>,
}

/// Says on standard error, after each work that the guest begins, what was used for one operation of it; until the guest is
/// done.
#[expect(
    clippy::print_stderr,
    reason = "a report for a person, beside the figures"
)]
pub(crate) fn follow(console: &mut Console, who: &str, pid: u32, limit: Duration) -> Result<()> {
    for number in 0.. {
        let said = console.wait(limit, BEGINS, |said| {
            nth(said, number).is_some() || said.contains(DONE)
        })?;
        let Some((work, count)) = nth(&said, number) else {
            break;
        };
        let before = Sample::take(pid)?;
        let ended = |said: &str| {
            [TOOK, FAILED].iter().any(|word| {
                let begin = format!("{word} {work}");
                let line = said.split(&begin).nth(1);
                line.is_some_and(|rest| rest.contains('\n'))
            })
        };
        console.wait(limit, TOOK, ended)?;
        let after = Sample::take(pid)?;
        for line in after.since(&before, count) {
            eprintln!("profile: {work} by {who}: {line}");
        }
    }
    Ok(())
}

/// Name and number of operations of the work that was begun after `number` others, once its line is whole.
fn nth(said: &str, number: usize) -> Option<(String, u32)> {
    let rest = said.split(BEGINS).nth(number + 1)?;
    let (line, _) = rest.split_once('\n')?;
    let (work, count) = line.trim().split_once(' ')?;
    Some((work.to_owned(), count.parse().ok()?))
}

impl Sample {
    /// Counts the threads of the monitor `pid`, and ours, which are the other ends of its devices.
    fn take(pid: u32) -> Result<Self> {
        let mut sample = Self::default();
        for (owner, folder) in [
            ("monitor", format!("/proc/{pid}/task")),
            ("other end", "/proc/self/task".to_owned()),
        ] {
            for entry in fs::read_dir(&folder).with_context(|| folder.clone())? {
                let path = entry?.path();
                let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
                let number = path.file_name().unwrap_or_default().to_string_lossy();
                let name = format!("{owner}, {} {number}", read("comm").trim());
                let used = Used::parse(&read("schedstat"), &read("status"));
                sample.threads.insert(name, used);
            }
        }
        for entry in fs::read_dir(KVM).into_iter().flatten().flatten() {
            let value = fs::read_to_string(entry.path()).unwrap_or_default();
            if let Ok(value) = value.trim().parse() {
                let name = entry.file_name().to_string_lossy().into_owned();
                sample.kvm.insert(name, value);
            }
        }
        Ok(sample)
    }

    /// Lines of what came since `before`, for each of `count` operations.
    fn since(&self, before: &Self, count: u32) -> Vec<String> {
        let each = |now: u64, before: u64| per(now.saturating_sub(before), count);
        let mut lines = Vec::new();
        for (name, now) in &self.threads {
            let then = before.threads.get(name).copied().unwrap_or_default();
            if now.nanoseconds == then.nanoseconds {
                continue;
            }
            lines.push(format!(
                "{name}: {:.2} kinstr, slept {:.2}, displaced {:.2}",
                each(now.nanoseconds, then.nanoseconds) / 1000.0,
                each(now.slept, then.slept),
                each(now.displaced, then.displaced),
            ));
        }
        let kvm = self.kvm.iter().filter_map(|(name, now)| {
            let then = before.kvm.get(name).copied().unwrap_or_default();
            let each = each(*now, then);
            (each >= 0.05).then(|| format!("{name} {each:.2}"))
        });
        lines.push(format!("kvm: {}", kvm.collect::<Vec<_>>().join(", ")));
        lines
    }
}

impl Used {
    fn parse(schedstat: &str, status: &str) -> Self {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse().ok())
                .unwrap_or_default()
        };
        let first = schedstat.split_whitespace().next();
        Self {
            nanoseconds: first.and_then(|word| word.parse().ok()).unwrap_or_default(),
            slept: field("voluntary_ctxt_switches:"),
            displaced: field("nonvoluntary_ctxt_switches:"),
        }
    }
}

/// A share of a sum.
fn per(sum: u64, count: u32) -> f64 {
    // Sums of one work: far below what a float holds exactly.
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    let sum = sum as f64;
    sum / f64::from(count.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn works_are_found_in_their_order_once_their_lines_are_whole() {
        let said = format!("x\n{BEGINS} doorbell 1000\r\n{TOOK} doorbell 5\n{BEGINS} net 2");
        assert_eq!(nth(&said, 0), Some(("doorbell".to_owned(), 1000)));
        assert_eq!(nth(&said, 1), None);
        assert_eq!(nth(&format!("{said}0\n"), 1), Some(("net".to_owned(), 20)));
    }

    #[test]
    fn a_sample_is_told_by_the_operation() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t4\n";
        let used = Used::parse("7000 5 1\n", status);
        assert_eq!(
            (used.nanoseconds, used.slept, used.displaced),
            (7000, 12, 4)
        );
        let sample = |used| Sample {
            threads: BTreeMap::from([("monitor, loop 3".to_owned(), used)]),
            kvm: BTreeMap::from([("exits".to_owned(), used.slept)]),
        };
        let lines = sample(used).since(&sample(Used::default()), 4);
        assert_eq!(
            lines,
            [
                "monitor, loop 3: 1.75 kinstr, slept 3.00, displaced 1.00",
                "kvm: exits 3.00"
            ]
        );
        assert_eq!(sample(used).since(&sample(used), 4), ["kvm: "]);
    }
}
