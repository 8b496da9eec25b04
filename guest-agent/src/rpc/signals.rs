//! SIGUSR1 of a service (specification of qrexec, 1.4): from now on its stdin, a socket, is its stdout too.
//!
//! All calls share the agent's process, so the sender's number tells which call is meant: the process of the call, or
//! one below it.

use std::{
    collections::HashMap,
    fs,
    os::fd::OwnedFd,
    process::Child,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::SignalFd,
};

/// How far up the line of parents a sender's call is looked for: a script's helper is near, a forged chain is not
/// followed for ever.
const MAX_GENERATIONS: usize = 16;

/// The calls that may be switched, by their process.
#[derive(Debug, Default)]
pub(crate) struct Switches {
    known: Mutex<HashMap<u32, Arc<OwnedFd>>>,
}

/// A call is known until this is dropped.
#[derive(Debug)]
pub(crate) struct Wish<'a> {
    switches: &'a Switches,
    process: u32,
}

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        self.switches.lock().remove(&self.process);
    }
}

impl Switches {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Arc<OwnedFd>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a process; `event` is told when it or one below it sends SIGUSR1, however early.
    ///
    /// # Errors
    /// Those of `spawn`.
    pub(crate) fn start<E>(
        &self,
        event: Arc<OwnedFd>,
        spawn: impl FnOnce() -> Result<Child, E>,
    ) -> Result<(Child, Wish<'_>), E> {
        let mut known = self.lock();
        let child = spawn()?;
        let process = child.id();
        known.insert(process, event);
        let wish = Wish {
            switches: self,
            process,
        };
        Ok((child, wish))
    }

    /// Tells the call that `sender` belongs to.
    fn tell(&self, sender: u32) {
        let mut process = sender;
        for _ in 0..MAX_GENERATIONS {
            if let Some(event) = self.lock().get(&process) {
                // It is full when it has been told already.
                let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
                return;
            }
            match parent(process) {
                Some(above) => process = above,
                None => break,
            }
        }
        tracing::info!(sender, "SIGUSR1 from a process that serves no call");
    }

    /// Takes SIGUSR1 for the whole process; to be called before there are other threads.
    ///
    /// # Errors
    /// When the system gives no signal descriptor.
    pub(crate) fn listen(self: Arc<Self>) -> nix::Result<()> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGUSR1);
        set.thread_block()?;
        let signals = SignalFd::new(&set)?;
        thread::spawn(move || {
            while let Ok(signal) = signals.read_signal() {
                if let Some(signal) = signal {
                    self.tell(signal.ssi_pid);
                }
            }
        });
        Ok(())
    }
}

/// The parent of a process; `None` when there is none.
fn parent(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold anything, also parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace()
        .nth(1)?
        .parse()
        .ok()
        .filter(|parent| *parent > 1)
}
