//! Waiting for a line of a guest without using the processor: the lab may have only one, and counts.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use casemate_vmm_control::ring_log::{HEADER_LEN, RingLog};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Where a guest prints.
#[derive(Debug)]
pub enum Console {
    /// The ring log that our monitor writes, in a file that is watched.
    Ring {
        /// The log.
        file: File,
        /// Told of each write.
        watch: OwnedFd,
        /// Told of the end of the monitor, once it is known.
        process: Option<OwnedFd>,
    },
    /// The standard output of another monitor.
    Pipe {
        /// Its read end.
        pipe: File,
        /// All that came so far.
        said: Vec<u8>,
    },
}

impl Console {
    /// Watches the ring log at `path`, which must be in the lab's memory file system.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ring(path: &Path) -> Result<Self> {
        let watch = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        add_watch(&watch, path, WatchFlags::MODIFY)?;
        let file = File::open(path)?;
        Ok(Self::Ring {
            file,
            watch,
            process: None,
        })
    }

    /// From now on the end of the process `pid` ends every wait for more of its log.
    ///
    /// # Errors
    /// When it has gone.
    pub fn watch_process(&mut self, pid: Pid) -> Result<()> {
        if let Self::Ring { process, .. } = self {
            *process = Some(pidfd_open(pid, PidfdFlags::empty())?);
        }
        Ok(())
    }

    /// Reads what a monitor prints.
    #[must_use]
    pub fn pipe(pipe: impl Into<OwnedFd>) -> Self {
        Self::Pipe {
            pipe: File::from(pipe.into()),
            said: Vec::new(),
        }
    }

    /// Waits until `text` has been said, and gives all that was.
    ///
    /// # Errors
    /// When it is not said within `limit`, or the monitor ends first; the message holds the last lines.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        self.wait(limit, text, |said| said.contains(text))
    }

    /// Waits until `wanted` likes all that has been said.
    ///
    /// # Errors
    /// As [`Self::wait_for`]; `what` names what did not come.
    pub fn wait(
        &mut self,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let end = Instant::now() + limit;
        loop {
            let said = self.said()?;
            if wanted(&said) {
                return Ok(said);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("waited {limit:?} for {what:?}; {}", tail(&said));
            }
            self.more(left)
                .with_context(|| format!("while waiting for {what:?}; {}", tail(&said)))?;
        }
    }

    /// All that has been said.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn said(&self) -> Result<String> {
        let bytes = match self {
            Self::Ring { file, .. } => {
                let mut bytes = vec![0; HEADER_LEN + 65536];
                let len = rustix::io::pread(file, &mut bytes, 0)?;
                bytes.truncate(len);
                // Before the monitor has begun it.
                RingLog::read_all(&bytes).unwrap_or_default()
            }
            Self::Pipe { said, .. } => said.clone(),
        };
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Sleeps until there may be more.
    fn more(&mut self, limit: Duration) -> Result<()> {
        match self {
            Self::Ring { watch, process, .. } => {
                let ended = process.as_ref().map(OwnedFd::as_fd);
                match readable(watch.as_fd(), ended, limit)? {
                    Ready::Source => {
                        let mut events = [0_u8; 4096];
                        // What they say is known: the file was written to.
                        let _ = rustix::io::read(watch, &mut events);
                    }
                    Ready::Ended => bail!("the monitor has ended"),
                    Ready::Nothing => {}
                }
            }
            Self::Pipe { pipe, said } => {
                if readable(pipe.as_fd(), None, limit)? == Ready::Source {
                    let mut piece = [0_u8; 4096];
                    match pipe.read(&mut piece)? {
                        0 => bail!("the monitor has ended"),
                        len => said.extend_from_slice(piece.get(..len).unwrap_or_default()),
                    }
                }
            }
        }
        Ok(())
    }
}

/// What a sleep ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ready {
    Source,
    Ended,
    Nothing,
}

/// Waits for bytes of `source`, which come first, or for `ended`.
fn readable(
    source: BorrowedFd<'_>,
    ended: Option<BorrowedFd<'_>>,
    limit: Duration,
) -> Result<Ready> {
    let mut polled = vec![PollFd::from_borrowed_fd(source, PollFlags::IN)];
    polled.extend(ended.map(|ended| PollFd::from_borrowed_fd(ended, PollFlags::IN)));
    let limit = rustix::time::Timespec::try_from(limit)?;
    poll(&mut polled, Some(&limit))?;
    let ready = |index: usize| {
        let one = polled.get(index);
        one.is_some_and(|one| !one.revents().is_empty())
    };
    Ok(match (ready(0), ready(1)) {
        (true, _) => Ready::Source,
        (_, true) => Ready::Ended,
        _ => Ready::Nothing,
    })
}

/// The last lines, for an error message.
fn tail(said: &str) -> String {
    let lines: Vec<&str> = said.lines().rev().take(6).collect();
    let lines: Vec<&str> = lines.into_iter().rev().collect();
    format!("it last said {:?}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn a_pipe_is_read_until_the_line_is_there_or_it_ends() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut console = Console::pipe(ours);
        theirs.write_all(b"one\ntw").unwrap();
        let writer = std::thread::spawn(move || theirs.write_all(b"o\nthree").unwrap());
        assert!(
            console
                .wait_for("two\n", LIMIT)
                .unwrap()
                .starts_with("one\ntwo\n")
        );
        writer.join().unwrap();
        let error = console.wait_for("four", LIMIT).unwrap_err();
        assert!(format!("{error:#}").contains("has ended"), "{error:#}");
        assert!(format!("{error:#}").contains("three"), "{error:#}");
    }

    #[test]
    fn a_ring_log_is_watched() {
        let folder = std::env::temp_dir().join(format!("ring-{}", std::process::id()));
        let file = File::create_new(&folder).unwrap();
        let mut console = Console::ring(&folder).unwrap();
        let writer = std::thread::spawn(move || {
            let mut log = RingLog::new();
            for text in ["up", " and", " running"] {
                for (offset, bytes) in log.append(text.as_bytes()) {
                    file.write_all_at(bytes, offset).unwrap();
                }
                file.write_all_at(&log.encode(), 0).unwrap();
            }
        });
        assert_eq!(
            console.wait_for("running", LIMIT).unwrap(),
            "up and running"
        );
        writer.join().unwrap();
        assert!(console.wait_for("ever", Duration::from_millis(1)).is_err());
        std::fs::remove_file(folder).unwrap();
    }
}
