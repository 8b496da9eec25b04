//! When a monitor begins: as its process calls `exec`. What the one who starts it does before, a copy of itself among other
//! things, is not the monitor's.
#![expect(unsafe_code, reason = "what runs between fork and exec")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::time::{ClockId, clock_gettime};

/// Reads the clock in a process that is about to become another program.
#[derive(Debug)]
pub(crate) struct ExecTime(File);

impl ExecTime {
    /// Of a command that is not started yet.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn of(command: &mut Command) -> Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut writer = File::from(writer);
        let tell = move || writer.write_all(&nanoseconds().to_le_bytes());
        // SAFETY: between fork and exec it only reads a clock and writes eight bytes to a pipe that has room for them; it
        // allocates nothing and takes no lock.
        unsafe { command.pre_exec(tell) };
        Ok(Self(File::from(reader)))
    }

    /// The time of the `exec`, once the command was started.
    ///
    /// # Errors
    /// When it was not.
    pub(crate) fn get(mut self) -> Result<Instant> {
        let mut then = [0; 8];
        self.0.read_exact(&mut then).context("it has not begun")?;
        let ago = nanoseconds().saturating_sub(u64::from_le_bytes(then));
        Instant::now()
            .checked_sub(Duration::from_nanos(ago))
            .context("a time before all times")
    }
}

fn nanoseconds() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let part = |number: i64| u64::try_from(number).unwrap_or_default();
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_between_the_start_and_the_end() {
        let before = Instant::now();
        let mut command = Command::new("true");
        let time = ExecTime::of(&mut command).unwrap();
        command.status().unwrap();
        let at = time.get().unwrap();
        assert!(at >= before && at <= Instant::now());
    }
}
