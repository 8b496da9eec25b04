//! What differs between playing and recording: who counts, and where samples are between guest and host.

use std::collections::VecDeque;

use vm_memory::GuestMemoryMmap;

use casemate_sound_wire::MAX_AHEAD;

use super::host::{Gone, Host, News};
use super::parameters::{Direction, Parameters};
use super::pending::Message;

/// One direction. `done` is how many bytes of the messages that wait, from the first one's start, are dealt with.
pub(super) trait Flow: Default {
    /// Which.
    const DIRECTION: Direction;

    /// A run begins or has ended: nothing is on its way.
    fn restart(&mut self, done: u64);

    /// What the host says of the current run; `samples` are recorded ones. Returns the latency it names.
    ///
    /// # Errors
    /// [`Gone`] when a host of this direction may not say that.
    fn hear(
        &mut self,
        news: News,
        samples: &[u8],
        done: u64,
        parameters: Parameters,
    ) -> Result<u32, Gone>;

    /// Gives the host what it may have.
    ///
    /// # Errors
    /// [`Gone`].
    fn feed(
        &mut self,
        host: &mut dyn Host,
        run: u32,
        memory: &GuestMemoryMmap,
        messages: &VecDeque<Message>,
        done: u64,
    ) -> Result<(), Gone>;

    /// Bytes after the first `done` that the host has dealt with.
    fn available(&self, done: u64) -> u64;

    /// `count` bytes more are dealt with, by the host or without it; `done` includes them.
    fn advance(&mut self, count: u64, done: u64);

    /// The first message is done; returns how many bytes of samples were put into it.
    fn finish(&mut self, message: &Message, memory: &GuestMemoryMmap) -> u32;

    /// Forgets what came from a host that has no right to be heard any more.
    fn forget(&mut self, done: u64);
}

/// Guest to host.
#[derive(Debug, Default)]
pub(super) struct Playing {
    /// Bytes from the first message's start that the host was given.
    sent: u64,
    /// What the host said last.
    total: u64,
    /// Bytes that it has heard and that are not `done` yet.
    heard: u64,
}

impl Flow for Playing {
    const DIRECTION: Direction = Direction::Playback;

    fn restart(&mut self, done: u64) {
        *self = Self {
            sent: done,
            ..Self::default()
        };
    }

    fn hear(
        &mut self,
        news: News,
        _samples: &[u8],
        done: u64,
        _parameters: Parameters,
    ) -> Result<u32, Gone> {
        let News::Heard { total, latency, .. } = news else {
            return Err(Gone);
        };
        let more = total.saturating_sub(self.total);
        self.total = self.total.max(total);
        // It cannot have heard what it was not given.
        let given = self.sent.saturating_sub(done);
        self.heard = self.heard.saturating_add(more).min(given);
        Ok(latency)
    }

    fn feed(
        &mut self,
        host: &mut dyn Host,
        run: u32,
        memory: &GuestMemoryMmap,
        messages: &VecDeque<Message>,
        done: u64,
    ) -> Result<(), Gone> {
        let mut start = 0_u64;
        for message in messages {
            let end = start.saturating_add(message.len());
            while self.sent < end {
                let ahead = self.sent.saturating_sub(done).saturating_sub(self.heard);
                // Whole frames, whatever the host has heard: their lengths divide eight.
                let room = u64::from(MAX_AHEAD).saturating_sub(ahead) & !7;
                let skip = usize::try_from(self.sent.saturating_sub(start)).unwrap_or(usize::MAX);
                let rest = message.data().after(skip);
                let (now, _) = rest.split_at(usize::try_from(room).unwrap_or(usize::MAX));
                if now.is_empty() {
                    return Ok(());
                }
                let taken = host.play(run, memory, now)?;
                if taken == 0 {
                    return Ok(());
                }
                let taken = u64::try_from(taken).unwrap_or(u64::MAX);
                self.sent = self.sent.saturating_add(taken).min(end);
            }
            start = end;
        }
        Ok(())
    }

    fn available(&self, _done: u64) -> u64 {
        self.heard
    }

    fn advance(&mut self, count: u64, done: u64) {
        self.heard = self.heard.saturating_sub(count);
        self.sent = self.sent.max(done);
    }

    fn finish(&mut self, message: &Message, _memory: &GuestMemoryMmap) -> u32 {
        self.sent = self.sent.saturating_sub(message.len());
        0
    }

    fn forget(&mut self, done: u64) {
        self.restart(done);
    }
}

/// Host to guest.
#[derive(Debug, Default)]
pub(super) struct Recording {
    /// Samples from the first message's start on: those that are done, and some more.
    backlog: VecDeque<u8>,
}

impl Recording {
    fn cut(&mut self, done: u64) {
        self.backlog
            .truncate(usize::try_from(done).unwrap_or(usize::MAX));
    }
}

impl Flow for Recording {
    const DIRECTION: Direction = Direction::Capture;

    fn restart(&mut self, done: u64) {
        self.cut(done);
    }

    fn hear(
        &mut self,
        news: News,
        samples: &[u8],
        done: u64,
        parameters: Parameters,
    ) -> Result<u32, Gone> {
        let News::Recorded { latency, .. } = news else {
            return Err(Gone);
        };
        let frame = usize::try_from(parameters.shape.frame_bytes()).map_err(|_| Gone)?;
        if !samples.len().is_multiple_of(frame) {
            return Err(Gone);
        }
        // Who reads too slowly loses what came first; what is done stays.
        let done = usize::try_from(done).unwrap_or(usize::MAX);
        let most = usize::try_from(parameters.buffer).unwrap_or(0);
        let held = self.backlog.len().saturating_sub(done);
        let excess = held.saturating_add(samples.len()).saturating_sub(most);
        let lost = excess.min(held);
        if lost > 0 {
            let end = done.saturating_add(lost);
            drop(self.backlog.drain(done..end));
        }
        let room = most.saturating_sub(held.saturating_sub(lost));
        let skip = samples.len().saturating_sub(room);
        self.backlog.extend(samples.get(skip..).unwrap_or_default());
        Ok(latency)
    }

    fn feed(
        &mut self,
        _host: &mut dyn Host,
        _run: u32,
        _memory: &GuestMemoryMmap,
        _messages: &VecDeque<Message>,
        _done: u64,
    ) -> Result<(), Gone> {
        Ok(())
    }

    fn available(&self, done: u64) -> u64 {
        let held = u64::try_from(self.backlog.len()).unwrap_or(u64::MAX);
        held.saturating_sub(done)
    }

    fn advance(&mut self, _count: u64, done: u64) {
        // What nobody recorded is silence.
        let done = usize::try_from(done).unwrap_or(usize::MAX);
        if self.backlog.len() < done {
            self.backlog.resize(done, 0);
        }
    }

    fn finish(&mut self, message: &Message, memory: &GuestMemoryMmap) -> u32 {
        let len = message.data().len().min(self.backlog.len());
        let samples = self.backlog.make_contiguous();
        let written = message
            .data()
            .write(memory, samples.get(..len).unwrap_or_default());
        drop(self.backlog.drain(..len));
        u32::try_from(written).unwrap_or(0)
    }

    fn forget(&mut self, done: u64) {
        self.cut(done);
        self.backlog.iter_mut().for_each(|byte| *byte = 0);
    }
}
