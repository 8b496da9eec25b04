//! The test's side of the command channel: programs that run in the lab, and what they say.

use std::collections::HashMap;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::wire::{CHUNK, Exit, Frame, Kind, Ready, Spawn};

/// How long a program may take when the test does not say: four times what the slowest usual one
/// takes on an idle machine.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);

/// The channel to `lab-guest`; clones are the same channel.
#[derive(Debug, Clone)]
pub struct Guest(Arc<Channel>);

#[derive(Debug)]
struct Channel {
    writer: Mutex<UnixStream>,
    state: Mutex<State>,
    changed: Condvar,
    next: AtomicU32,
}

#[derive(Debug, Default)]
struct State {
    ready: Option<Ready>,
    /// Why the channel ended.
    closed: Option<String>,
    processes: HashMap<u32, Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    exit: Option<Exit>,
}

/// What a program said and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: Vec<u8>,
}

/// What a running program has said since it was last asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// New bytes of its standard output.
    pub stdout: Vec<u8>,
    /// New bytes of its standard error.
    pub stderr: Vec<u8>,
    /// How it ended, when it has. Nothing follows then.
    pub exit: Option<Exit>,
}

/// A program that is about to be started.
#[derive(Debug)]
pub struct Command {
    guest: Guest,
    spawn: Spawn,
    stdin: Vec<u8>,
    timeout: Duration,
}

/// A program that was started. Dropping it forgets what it says, and leaves it running.
#[derive(Debug)]
pub struct Process {
    guest: Guest,
    number: u32,
}

impl Guest {
    /// Speaks over `stream`, whose other end QEMU joins to the virtio port.
    pub(crate) fn new(stream: UnixStream) -> Result<Self> {
        let mut reader = stream.try_clone()?;
        let guest = Self(Arc::new(Channel {
            writer: Mutex::new(stream),
            state: Mutex::default(),
            changed: Condvar::new(),
            next: AtomicU32::new(1),
        }));
        let channel = Arc::downgrade(&guest.0);
        thread::spawn(move || {
            loop {
                let frame = Frame::read(&mut reader);
                let Some(channel) = channel.upgrade() else {
                    return;
                };
                let ended = frame.is_err();
                channel.take(frame);
                if ended {
                    return;
                }
            }
        });
        Ok(guest)
    }

    /// A program to run as `user`.
    #[must_use]
    pub fn command(&self, user: &str, argv: &[&str]) -> Command {
        Command {
            guest: self.clone(),
            spawn: Spawn {
                user: user.to_owned(),
                argv: argv.iter().map(|&word| word.to_owned()).collect(),
                ..Spawn::default()
            },
            stdin: Vec::new(),
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// Waits until the lab listens.
    ///
    /// # Errors
    /// When it takes too long or the lab ends.
    pub fn wait_ready(&self, timeout: Duration) -> Result<Ready> {
        self.wait_for(timeout, "the lab to start", |state| state.ready.take())
    }

    fn wait_for<T>(
        &self,
        timeout: Duration,
        what: &str,
        mut pick: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T> {
        let until = Instant::now() + timeout;
        let mut state = self.0.lock();
        loop {
            if let Some(found) = pick(&mut state) {
                return Ok(found);
            }
            if let Some(reason) = &state.closed {
                bail!("the lab ended while waiting for {what}: {reason}");
            }
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                bail!("waited {timeout:?} for {what}");
            };
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn send(&self, frame: &Frame) -> Result<()> {
        let mut writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        frame.write(&mut *writer).context("the lab has gone")?;
        Ok(writer.flush()?)
    }
}

impl Channel {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, frame: std::io::Result<Frame>) {
        let mut state = self.lock();
        if let Err(error) = frame.and_then(|frame| state.take(&frame)) {
            state.closed = Some(error.to_string());
        }
        self.changed.notify_all();
    }
}

impl State {
    fn take(&mut self, frame: &Frame) -> std::io::Result<()> {
        if frame.kind == Kind::Ready {
            self.ready = Some(frame.parse()?);
            return Ok(());
        }
        // The test has dropped the program that this is about.
        let Some(progress) = self.processes.get_mut(&frame.process) else {
            return Ok(());
        };
        match frame.kind {
            Kind::Stdout => progress.stdout.extend_from_slice(&frame.payload),
            Kind::Stderr => progress.stderr.extend_from_slice(&frame.payload),
            Kind::Exit => progress.exit = Some(frame.parse()?),
            Kind::Ready | Kind::Spawn | Kind::Stdin | Kind::Signal => {}
        }
        Ok(())
    }
}

impl Command {
    /// Adds to its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.spawn.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets its working directory; without it, the account's home.
    #[must_use]
    pub fn cwd(mut self, path: &str) -> Self {
        self.spawn.cwd = Some(path.to_owned());
        self
    }

    /// What [`Self::run`] gives it to read.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// How long [`Self::run`] waits for its end.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Starts it and waits for its end. A program that fails is no error here.
    ///
    /// # Errors
    /// When it takes too long or the lab ends.
    pub fn run(mut self) -> Result<Output> {
        let (stdin, timeout) = (std::mem::take(&mut self.stdin), self.timeout);
        let process = self.spawn()?;
        process.write(&stdin)?;
        process.close_stdin()?;
        process.wait(timeout)
    }

    /// Starts it and leaves it running, its standard input open.
    ///
    /// # Errors
    /// When the lab has ended.
    pub fn spawn(self) -> Result<Process> {
        let number = self.guest.0.next.fetch_add(1, Ordering::Relaxed);
        self.guest
            .0
            .lock()
            .processes
            .insert(number, Progress::default());
        let process = Process {
            guest: self.guest,
            number,
        };
        process
            .guest
            .send(&Frame::json(Kind::Spawn, number, &self.spawn))?;
        Ok(process)
    }
}

impl Process {
    /// Gives it bytes to read.
    ///
    /// # Errors
    /// When the lab has ended. A program that does not want them is no error.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        for chunk in bytes.chunks(CHUNK) {
            self.guest.send(&self.stdin_frame(chunk))?;
        }
        Ok(())
    }

    /// Ends its standard input.
    ///
    /// # Errors
    /// When the lab has ended.
    pub fn close_stdin(&self) -> Result<()> {
        self.guest.send(&self.stdin_frame(&[]))
    }

    fn stdin_frame(&self, bytes: &[u8]) -> Frame {
        Frame {
            kind: Kind::Stdin,
            process: self.number,
            payload: bytes.to_vec(),
        }
    }

    /// Sends a signal (its number) to the program and what it started in its process group.
    ///
    /// # Errors
    /// When the lab has ended.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.guest
            .send(&Frame::json(Kind::Signal, self.number, &signal))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it takes too long (the message holds what it said), or the lab ends.
    pub fn wait(&self, timeout: Duration) -> Result<Output> {
        let number = self.number;
        let ended = self.guest.wait_for(timeout, "a program to end", |state| {
            let progress = state.processes.get_mut(&number)?;
            let exit = progress.exit.clone()?;
            Some(Output {
                exit,
                stdout: std::mem::take(&mut progress.stdout),
                stderr: std::mem::take(&mut progress.stderr),
            })
        });
        ended.with_context(|| self.said())
    }

    /// Waits until `text` is in its standard output.
    ///
    /// # Errors
    /// When it takes too long, or the program or the lab ends first.
    pub fn wait_for_text(&self, text: &str, timeout: Duration) -> Result<()> {
        let number = self.number;
        let found = self.guest.wait_for(timeout, "a text", |state| {
            let progress = state.processes.get(&number)?;
            let found = String::from_utf8_lossy(&progress.stdout).contains(text);
            (found || progress.exit.is_some()).then_some(found)
        });
        if found.with_context(|| self.said())? {
            return Ok(());
        }
        bail!("the program ended without saying {text:?}; {}", self.said())
    }

    /// Takes what it has said since the last call. Waits until there is something, at most `timeout`;
    /// nothing is `None`.
    ///
    /// # Errors
    /// When the lab ends.
    pub fn next_output(&self, timeout: Duration) -> Result<Option<Said>> {
        let number = self.number;
        let until = Instant::now() + timeout;
        let taken = self.guest.wait_for(timeout, "output", |state| {
            let progress = state.processes.get_mut(&number)?;
            let silent = progress.stdout.is_empty() && progress.stderr.is_empty();
            if silent && progress.exit.is_none() {
                return None;
            }
            Some(Said {
                stdout: std::mem::take(&mut progress.stdout),
                stderr: std::mem::take(&mut progress.stderr),
                exit: progress.exit.clone(),
            })
        });
        match taken {
            Err(_) if Instant::now() >= until => Ok(None),
            taken => taken.map(Some),
        }
    }

    fn said(&self) -> String {
        let state = self.guest.0.lock();
        let Some(progress) = state.processes.get(&self.number) else {
            return String::new();
        };
        let stdout = String::from_utf8_lossy(&progress.stdout);
        let stderr = String::from_utf8_lossy(&progress.stderr);
        format!("so far it said {stdout:?} and {stderr:?}")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.guest.0.lock().processes.remove(&self.number);
    }
}

impl Output {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Whether it ended by itself with code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.exit == Exit::Code(0)
    }

    /// Itself when the program succeeded.
    ///
    /// # Errors
    /// When it did not; the message holds what it said.
    pub fn check(self) -> Result<Self> {
        if self.success() {
            return Ok(self);
        }
        let (stdout, stderr) = (self.text(), self.errors());
        bail!(
            "it ended with {:?}; stdout: {stdout:?}; stderr: {stderr:?}",
            self.exit
        )
    }
}
