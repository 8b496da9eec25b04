//! The loop of a call's service end: one thread moves everything, never blocks on one stream for another, and buffers one
//! frame a direction. A slow reader at either end therefore stops its writer and nobody else.
//!
//! The order at the end is fixed (specification of qrexec, 1.4): both output streams ended, process reaped, then the exit
//! code, then the connection is closed.

use std::{
    io,
    net::Shutdown,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    process::{Child, ExitStatus},
    sync::Arc,
    time::Duration,
};

use casemate_qrexec_stream::{DataReader, FrameBuffer, Passed, Passing, Piece, Transit, invalid};
use casemate_qrexec_wire::FrameType;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, ioctl_fionbio, write},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};

use super::{
    ends::{Ends, Input, Output, Source, put},
    linger::Lingering,
};

/// Frames that one direction may move before the other has its turn.
const TURN: usize = 16;

/// How long a process whose caller is lost may still write.
const GRACE: Duration = Duration::from_secs(2);

/// A process, until it is reaped.
#[derive(Debug)]
struct Process {
    child: Child,
    handle: OwnedFd,
}

impl Process {
    fn ends_within(&self, time: Duration) -> bool {
        let mut fds = [PollFd::new(&self.handle, PollFlags::IN)];
        Timespec::try_from(time).is_ok_and(|time| poll(&mut fds, Some(&time)).is_ok_and(|n| n > 0))
    }
}

/// A call being served.
#[derive(Debug)]
pub(super) struct Relay {
    reader: DataReader,
    frame: FrameBuffer,
    /// What of the frame has not been sent.
    unsent: std::ops::Range<usize>,
    /// The body that follows it from a pipe.
    passing: Option<(Arc<OwnedFd>, Passing)>,
    input: Input,
    /// The input takes no more for now.
    input_full: bool,
    preamble: Vec<u8>,
    /// Bodies on their way into an input that is a socket.
    transit: Option<Transit>,
    sources: [(FrameType, Source); 2],
    process: Option<Process>,
    is_socket: bool,
    switch: Option<Arc<OwnedFd>>,
    switched: bool,
    ends_on: (bool, bool),
    code: Option<i32>,
    code_sent: bool,
}

impl Relay {
    /// Connects a data stream to the ends of a call.
    ///
    /// # Errors
    /// When descriptors run out.
    pub(super) fn new(mut reader: DataReader, ends: Ends) -> io::Result<Self> {
        reader.stream().set_nonblocking(true)?;
        reader.may_pass(true);
        for fd in [ends.input.fd(), Some(&ends.output), ends.errors.as_ref()]
            .into_iter()
            .flatten()
        {
            ioctl_fionbio(fd, true)?;
        }
        let process = match ends.child {
            None => None,
            Some(child) => {
                let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
                Some(Process { child, handle })
            }
        };
        Ok(Self {
            frame: FrameBuffer::new(reader.version()),
            reader,
            unsent: 0..0,
            passing: None,
            transit: None,
            input: ends.input,
            input_full: false,
            preamble: ends.preamble,
            sources: [
                (
                    FrameType::DataStdout,
                    Source::Open(Output::new(ends.output)),
                ),
                (
                    FrameType::DataStderr,
                    ends.errors
                        .map_or(Source::Ending, |fd| Source::Open(Output::new(fd))),
                ),
            ],
            // A socket has no exit code; 0 says that it ended.
            code: process.is_none().then_some(0),
            is_socket: process.is_none(),
            process,
            switch: ends.switch,
            switched: false,
            ends_on: ends.ends_on,
            code_sent: false,
        })
    }

    /// Moves everything until the call is over. A caller that is lost is an error; its process is told by SIGHUP.
    ///
    /// # Errors
    /// When the caller is lost or breaks the protocol.
    pub(super) fn run(mut self) -> io::Result<Lingering> {
        let Err(lost) = self.until_over() else {
            return Ok(Lingering(self.reader.into_stream()));
        };
        if let Some(mut process) = self.process.take() {
            // The caller is gone: what it started has nobody to work for.
            let _ = kill_process_group(Pid::from_child(&process.child), Signal::HUP);
            self.input.close();
            std::thread::spawn(move || {
                // Its last words must not kill it while it tidies up; after that its output breaks.
                process.ends_within(GRACE);
                drop(self);
                // A process that does not mind is its own master; it is reaped whenever it ends.
                process.child.wait()
            });
        }
        Err(lost)
    }

    fn until_over(&mut self) -> io::Result<()> {
        loop {
            self.inbound()?;
            self.outbound()?;
            if self.code_sent && self.unsent.is_empty() {
                return self.reader.stream().shutdown(Shutdown::Write);
            }
            self.wait()?;
        }
    }

    /// Caller to input, as far as it goes.
    fn inbound(&mut self) -> io::Result<()> {
        for turn in 0..=TURN {
            if !self.flush_preamble() || !self.flush_transit() {
                return Ok(());
            }
            while let Some(piece) = self.reader.peek().map_err(invalid)? {
                match piece {
                    // The reference takes input by either name, and so must we.
                    Piece::Bytes(FrameType::DataStdin | FrameType::DataStdout, bytes) => {
                        let len = bytes.len();
                        match put(&mut self.input, bytes) {
                            Some(written) => self.reader.take(written),
                            // Nobody reads it: dropped, so that output still flows.
                            None if self.input.is_closed() => self.reader.take(len),
                            None => {
                                self.input_full = true;
                                return Ok(());
                            }
                        }
                    }
                    Piece::Bytes(_, bytes) => {
                        let len = bytes.len();
                        self.reader.take(len);
                    }
                    Piece::End(FrameType::DataStdin | FrameType::DataStdout) => {
                        self.input.close();
                        if self.ends_on.0 {
                            self.end_now();
                        }
                    }
                    Piece::End(_) | Piece::ExitCode(_) => {}
                }
            }
            // Not before what was read has been handed on: nothing else would come back to it.
            if turn == TURN {
                return Ok(());
            }
            match self.pass_input()? {
                Passed::Some(_) => continue,
                Passed::Empty => return Ok(()),
                Passed::Full => {
                    self.input_full = true;
                    return Ok(());
                }
                Passed::Unread => self.input.close(),
                Passed::Unable => {}
            }
            match self.reader.fill() {
                Ok(true) => {}
                Ok(false) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Moves a large body on without reading it, if one comes next and can be moved to the input.
    fn pass_input(&mut self) -> io::Result<Passed> {
        let Some(FrameType::DataStdin | FrameType::DataStdout) = self.reader.passable() else {
            return Ok(Passed::Unable);
        };
        let passed = match &self.input {
            Input::Pipe(pipe) => self.reader.pass(pipe)?,
            Input::Socket(_) => {
                let transit = match self.transit.take() {
                    Some(transit) => transit,
                    None => Transit::new()?,
                };
                self.transit.insert(transit).take(&mut self.reader)?
            }
            Input::Shut(_) | Input::Closed => Passed::Unable,
        };
        if passed == Passed::Unable {
            self.reader.may_pass(false);
        }
        Ok(passed)
    }

    /// Whether nothing is on its way to the input's socket any more.
    fn flush_transit(&mut self) -> bool {
        let Some(transit) = &mut self.transit else {
            return true;
        };
        while !transit.is_empty() {
            let flushed = match self.input.fd() {
                Some(socket) => transit.flush(socket),
                None => Ok(Passed::Unread),
            };
            match flushed {
                Ok(Passed::Some(_)) => {}
                Ok(Passed::Full) => {
                    self.input_full = true;
                    return false;
                }
                Ok(Passed::Empty | Passed::Unread | Passed::Unable) | Err(_) => {
                    // Nobody reads it: dropped, so that output still flows.
                    self.input.close();
                    self.transit = None;
                    return true;
                }
            }
        }
        true
    }

    /// Whether nothing of the preamble is left.
    fn flush_preamble(&mut self) -> bool {
        while !self.preamble.is_empty() {
            match put(&mut self.input, &self.preamble) {
                Some(written) => drop(self.preamble.drain(..written)),
                None if self.input.is_closed() => self.preamble.clear(),
                None => {
                    self.input_full = true;
                    return false;
                }
            }
        }
        true
    }

    /// Output to caller, as far as it goes.
    fn outbound(&mut self) -> io::Result<()> {
        for _ in 0..TURN {
            while !self.unsent.is_empty() {
                match write(self.reader.stream(), self.frame.bytes(self.unsent.clone())) {
                    Ok(written) => self.unsent.start += written,
                    Err(Errno::AGAIN) => return Ok(()),
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if !self.pass_output()? || !self.next_frame() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether nothing of an announced body is left.
    fn pass_output(&mut self) -> io::Result<bool> {
        let Some((pipe, passing)) = &mut self.passing else {
            return Ok(true);
        };
        while !passing.is_over() {
            match passing.go_on(&*pipe, self.reader.stream())? {
                Passed::Some(_) => {}
                Passed::Full => return Ok(false),
                // Somebody else has read what was announced; the frame cannot be sent any more.
                Passed::Empty | Passed::Unread | Passed::Unable => {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
        }
        self.passing = None;
        Ok(true)
    }

    /// Makes the next frame, if there is one.
    fn next_frame(&mut self) -> bool {
        for (kind, source) in &mut self.sources {
            if let Source::Open(output) = source
                && output.in_bulk
                && let Some(passing) = Passing::announce(&output.fd, *kind, &mut self.frame)
            {
                self.unsent = 0..Passing::HEADER;
                self.passing = Some((Arc::clone(&output.fd), passing));
                self.sources.swap(0, 1);
                return true;
            }
            let read = match source {
                Source::Ended => continue,
                Source::Ending => 0,
                Source::Open(output) => match output.read(self.frame.body()) {
                    Ok(read) => read,
                    Err(Errno::AGAIN | Errno::INTR) => continue,
                    // A socket that was reset has ended, too.
                    Err(_) => 0,
                },
            };
            self.unsent = 0..self.frame.close(*kind, read);
            if read == 0 {
                *source = Source::Ended;
                if *kind == FrameType::DataStdout && self.ends_on.1 {
                    self.end_now();
                }
            } else {
                // The other one has its turn next.
                self.sources.swap(0, 1);
            }
            return true;
        }
        let ended = self
            .sources
            .iter()
            .all(|(_, source)| matches!(source, Source::Ended));
        // A socket ends with both directions, a process when it is reaped.
        let over = ended && (!self.is_socket || self.input.is_closed());
        match self.code {
            Some(code) if over && !self.code_sent => {
                if let Some(place) = self.frame.body().first_chunk_mut() {
                    *place = code.to_le_bytes();
                }
                self.unsent = 0..self.frame.close(FrameType::DataExitCode, 4);
                self.code_sent = true;
                true
            }
            _ => false,
        }
    }

    /// Ends the call with what has been sent so far.
    fn end_now(&mut self) {
        self.input.close();
        self.input_full = false;
        for (_, source) in &mut self.sources {
            if matches!(source, Source::Open(_)) {
                *source = Source::Ending;
            }
        }
    }

    /// Waits until something can move.
    fn wait(&mut self) -> io::Result<()> {
        let mut caller = PollFlags::empty();
        if !self.input_full {
            caller |= PollFlags::IN;
        }
        let sending = !self.unsent.is_empty() || self.passing.is_some();
        if sending {
            caller |= PollFlags::OUT;
        }
        let mut fds = vec![PollFd::new(self.reader.stream(), caller)];
        let input = self.input.fd().map(|fd| {
            // Also when there is nothing to write: an error or a hang-up says that nobody reads.
            let full = if self.input_full {
                PollFlags::OUT
            } else {
                PollFlags::empty()
            };
            fds.push(PollFd::new(fd, full));
            fds.len() - 1
        });
        if !sending {
            for (_, source) in &self.sources {
                if let Source::Open(output) = source {
                    fds.push(PollFd::new(&*output.fd, PollFlags::IN));
                }
            }
        }
        let process = self.process.as_ref().map(|process| {
            fds.push(PollFd::new(&process.handle, PollFlags::IN));
            fds.len() - 1
        });
        let switch = self.switch.as_ref().map(|switch| {
            fds.push(PollFd::new(&**switch, PollFlags::IN));
            fds.len() - 1
        });
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let events = |index: Option<usize>| {
            index
                .and_then(|index| fds.get(index))
                .map_or(PollFlags::empty(), PollFd::revents)
        };
        let gone = events(Some(0)).intersects(PollFlags::HUP | PollFlags::ERR);
        let (input, process, switch) = (events(input), events(process), events(switch));
        if gone && self.input_full {
            // Its last input has nowhere to go, and nothing else would tell.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !input.is_empty() {
            self.input_full = false;
        }
        if input.intersects(PollFlags::ERR | PollFlags::HUP) {
            self.input.close();
        }
        if !switch.is_empty() {
            self.merge()?;
        }
        if !process.is_empty() {
            self.reap()?;
        }
        Ok(())
    }

    /// The process has ended: it reads no more input, but what it started may still write.
    fn reap(&mut self) -> io::Result<()> {
        if let Some(mut process) = self.process.take() {
            self.code = Some(exit_code(process.child.wait()?));
            if !self.switched {
                self.input.close();
                self.input_full = false;
            }
        }
        Ok(())
    }

    /// From now on the input's socket is the output too; the former output may be closed.
    fn merge(&mut self) -> io::Result<()> {
        self.switch = None;
        if let Input::Socket(fd) | Input::Shut(fd) = &self.input {
            let output = fd.try_clone()?;
            self.switched = true;
            for (kind, source) in &mut self.sources {
                if *kind == FrameType::DataStdout && !matches!(source, Source::Ended) {
                    *source = Source::Open(Output::new(output));
                    break;
                }
            }
        }
        Ok(())
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

#[cfg(test)]
mod tests;
