//! What a monitor does from its `exec` until a guest of it runs: its system calls by the clock of the lab's kernel, which
//! counts instructions. To trace costs some thousands for each call.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// Where the kernel is told what to trace.
const TRACING: &str = "/sys/kernel/debug/tracing";
/// Enough for the calls of a monitor until a guest runs, in KiB.
const BUFFER: &str = "16384";
/// How many calls are told by name, those that took longest.
const TOLD: usize = 12;

const EXEC: &str = "sched_process_exec: ";
const ENTRY: &str = "kvm_entry: ";

/// A trace that is being made; it ends by itself when a guest first runs.
#[derive(Debug)]
pub(crate) struct Trace(());

fn set(name: &str, value: &str) -> Result<()> {
    let path = Path::new(TRACING).join(name);
    fs::write(&path, value).with_context(|| path.display().to_string())
}

impl Trace {
    /// Begins.
    ///
    /// # Errors
    /// When the lab's kernel cannot trace.
    pub(crate) fn begin() -> Result<Self> {
        let trace = Self(());
        set("tracing_on", "0")?;
        for (name, value) in [
            ("buffer_size_kb", BUFFER),
            ("trace", ""),
            ("trace_clock", "mono"),
            ("events/sched/sched_process_exec/enable", "1"),
            ("events/syscalls/enable", "1"),
            ("events/kvm/kvm_entry/enable", "1"),
            ("events/kvm/kvm_entry/trigger", "traceoff"),
            ("tracing_on", "1"),
        ] {
            set(name, value)?;
        }
        Ok(trace)
    }

    /// Ends, and says for what the time was spent: one line for the whole, one for each of the longest calls.
    ///
    /// # Errors
    /// When there was neither an `exec` of `program` nor a guest.
    pub(crate) fn end(self, program: &str) -> Result<Vec<String>> {
        set("tracing_on", "0")?;
        let path = Path::new(TRACING).join("trace");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(lines(&spent(&text, program)?))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        for (name, value) in [
            ("events/enable", "0"),
            ("events/kvm/kvm_entry/trigger", "!traceoff"),
        ] {
            // What is traced on costs the figures that follow; nothing else can be done about it.
            let _ = set(name, value);
        }
    }
}

/// For what the time was spent, in microseconds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Spent {
    whole: u64,
    /// Calls: how many, and how long in all. Those that wait count others' work, too.
    calls: BTreeMap<String, (u32, u64)>,
}

/// Reads a trace: from the first `exec` of `program` to the first entry into a guest.
fn spent(trace: &str, program: &str) -> Result<Spent> {
    let mut began = None;
    let mut spent = Spent::default();
    // When each thread entered the call that it is in.
    let mut inside: BTreeMap<&str, u64> = BTreeMap::new();
    for line in trace.lines().filter(|line| !line.starts_with('#')) {
        let Some(event) = Event::parse(line) else {
            continue;
        };
        let Some(start) = began else {
            if let Some(what) = event.what.strip_prefix(EXEC)
                && what.contains(program)
            {
                began = Some(event.at);
            }
            continue;
        };
        if event.what.starts_with(ENTRY) {
            spent.whole = event.at.saturating_sub(start);
            return Ok(spent);
        }
        if let Some((name, _)) = event.what.split_once(" -> ") {
            if let Some(entered) = inside.remove(event.thread) {
                let (count, took) = spent.calls.entry(name.to_owned()).or_default();
                *count += 1;
                *took += event.at.saturating_sub(entered);
            }
        } else if event.what.starts_with("sys_") {
            inside.insert(event.thread, event.at);
        }
    }
    bail!("no guest was entered after an exec of {program}")
}

fn lines(spent: &Spent) -> Vec<String> {
    let millions = |microseconds: u64| {
        // A boot is far below what a float holds exactly.
        f64::from(u32::try_from(microseconds).unwrap_or(u32::MAX)) / 1000.0
    };
    let mut calls: Vec<_> = spent.calls.iter().collect();
    calls.sort_by_key(|(_, (_, took))| std::cmp::Reverse(*took));
    let first = format!(
        "{:.2} Minstr from exec until a guest runs",
        millions(spent.whole)
    );
    let told = calls.iter().take(TOLD).map(|(name, (count, took))| {
        format!("{:.2} Minstr in {count} calls of {name}", millions(*took))
    });
    std::iter::once(first).chain(told).collect()
}

/// One line of a trace: `comm-pid [cpu] flags seconds: what`.
struct Event<'a> {
    thread: &'a str,
    /// In microseconds.
    at: u64,
    what: &'a str,
}

impl<'a> Event<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        // A thread's name may have spaces, but what follows it has none.
        let (thread, rest) = line.split_once(" [")?;
        let (_, rest) = rest.split_once("] ")?;
        let (time, what) = rest.split_once(": ")?;
        let (seconds, fraction) = time.split_whitespace().last()?.split_once('.')?;
        let (seconds, fraction): (u64, u64) = (seconds.parse().ok()?, fraction.parse().ok()?);
        Some(Self {
            thread: thread.trim(),
            at: seconds.checked_mul(1_000_000)?.checked_add(fraction)?,
            what,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
# tracer: nop
        lab-vms-7 [000] .....    10.000001: sys_read(fd: 3, buf: 1, count: 4)
   casemate-vmm-9 [000] .....    10.000100: sched_process_exec: filename=/payload/casemate-vmm pid=9 old_pid=9
   casemate-vmm-9 [000] .....    10.000110: sys_brk(brk: 0)
   casemate-vmm-9 [000] .....    10.000115: sys_brk -> 0x5555
   casemate-vmm-9 [000] .....    10.000200: sys_read(fd: 3, buf: 1, count: 4)
      vcpu 0-10 [000] .....    10.000250: sys_futex(uaddr: 1)
   casemate-vmm-9 [000] .....    10.001200: sys_read -> 0x4
      vcpu 0-10 [000] .....    10.001250: sys_futex -> 0x0
        lab-vms-7 [000] .....    10.001300: sys_read -> 0x4
      vcpu 0-10 [000] d....    10.002100: kvm_entry: vcpu 0, rip 0x1000000
";

    #[test]
    fn calls_between_exec_and_entry_are_summed_by_name() {
        let spent = spent(TRACE, "casemate-vmm").unwrap();
        let calls = [
            ("sys_brk", (1, 5)),
            ("sys_futex", (1, 1000)),
            ("sys_read", (1, 1000)),
        ];
        assert_eq!(
            spent,
            Spent {
                whole: 2000,
                calls: calls.map(|(name, sum)| (name.to_owned(), sum)).into(),
            }
        );
        assert_eq!(
            lines(&spent)[..2],
            [
                "2.00 Minstr from exec until a guest runs",
                "1.00 Minstr in 1 calls of sys_futex"
            ]
        );
    }

    #[test]
    fn a_trace_without_a_guest_is_none() {
        assert!(spent(TRACE, "other").is_err());
        assert!(spent("", "casemate-vmm").is_err());
    }
}
