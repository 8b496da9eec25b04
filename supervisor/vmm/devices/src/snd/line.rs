//! One stream between the guest and a host: its life, its messages, its run.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use casemate_sound_wire::MAX_FRAMES;

use super::flow::Flow;
use super::host::{Gone, Host, News};
use super::message::{Command, Status};
use super::pace::Pacer;
use super::parameters::Parameters;
use super::pending::{Message, Parts};
use super::round::Round;
use super::stream::{Effect, Stream};
use crate::event_loop::{Interest, Registrar};
use crate::scatter::Buffers;
use crate::virtio::{ActiveQueue, Memory, QueueError};

/// News heard in one turn: a flood of it does not hold the loop.
const TURN: usize = 32;

/// How long a stream goes on by itself before a host that was silent is asked again. Each time costs the guest a stall.
const REJOIN: Duration = Duration::from_secs(2);

/// One stream. Its messages are in the order in which the guest queued them.
pub(super) struct Line<F> {
    stream: Stream,
    flow: F,
    host: Option<Attached>,
    /// Number of the current or last run.
    run: u32,
    /// There while the stream runs.
    pacer: Option<Pacer>,
    /// The host was told of the run.
    begun: bool,
    /// When to tell it again, if it was not.
    rejoin: Duration,
    /// The host was not told that the last run has ended.
    unsaid: bool,
    messages: VecDeque<Message>,
    /// Bytes of samples of all messages.
    bytes: u64,
    /// How many of these, from the first on, are dealt with; fewer than the first message has, between two turns.
    done: u64,
    /// Keeps the guest from missing that its buffer went round.
    round: Round,
    /// Bytes, of the last news.
    latency: u32,
    samples: Box<[u8; MAX_FRAMES]>,
}

struct Attached {
    host: Box<dyn Host>,
    watched: bool,
}

impl<F> fmt::Debug for Line<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Line")
            .field("stream", &self.stream)
            .field("messages", &self.messages.len())
            .finish_non_exhaustive()
    }
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing more to do now.
    Idle,
    /// There is more in the queue, or more news; others come first.
    BudgetSpent,
}

impl<F: Flow> Line<F> {
    pub(super) fn new() -> Self {
        Self {
            stream: Stream::default(),
            flow: F::default(),
            host: None,
            run: 0,
            pacer: None,
            begun: false,
            rejoin: Duration::ZERO,
            unsaid: false,
            messages: VecDeque::new(),
            bytes: 0,
            done: 0,
            round: Round::default(),
            latency: 0,
            samples: Box::new([0; MAX_FRAMES]),
        }
    }

    /// Where the stream is in its life.
    pub(super) fn stream(&self) -> Stream {
        self.stream
    }

    /// Puts the stream where it was when it was saved; before any activation.
    pub(super) fn restore(&mut self, stream: Stream) {
        self.stream = stream;
    }

    /// Whether there is somebody at the other end.
    pub(super) fn has_host(&self) -> bool {
        self.host.is_some()
    }

    /// Somebody new is at the other end, or nobody: then also nothing that came before is given to the guest.
    pub(super) fn attach(
        &mut self,
        host: Option<Box<dyn Host>>,
        now: Duration,
        registrar: &mut Registrar<'_>,
    ) {
        self.detach(registrar);
        self.flow.forget(self.done);
        self.unsaid = false;
        self.begun = false;
        self.host = host.map(|host| Attached {
            host,
            watched: false,
        });
        if let Some(parameters) = self.stream.running() {
            self.begin(parameters, now);
        }
    }

    /// Closes what is at the other end.
    fn detach(&mut self, registrar: &mut Registrar<'_>) {
        if let Some(attached) = self.host.take()
            && attached.watched
        {
            let _ = registrar.remove(&attached.host.descriptor());
        }
    }

    /// The driver is there: a stream that was saved while it ran goes on.
    pub(super) fn activate(&mut self, now: Duration) {
        if let (Some(parameters), None) = (self.stream.running(), &self.pacer) {
            self.begin(parameters, now);
        }
    }

    /// Back to where it was new; the host stays, and is told of the end by [`Line::catch_up`]: a reset may come on a
    /// vCPU's thread, which must not send.
    pub(super) fn reset(&mut self, registrar: &mut Registrar<'_>) {
        if let Some(attached) = &mut self.host
            && std::mem::take(&mut attached.watched)
        {
            let _ = registrar.remove(&attached.host.descriptor());
        }
        self.pacer = None;
        self.unsaid = std::mem::take(&mut self.begun);
        self.stream = Stream::Unset;
        self.forget_messages();
    }

    /// Tells the host what a reset could not.
    pub(super) fn catch_up(&mut self) {
        if std::mem::take(&mut self.unsaid) && self.pacer.is_none() {
            self.begun = true;
            self.tell_end();
        }
    }

    fn forget_messages(&mut self) {
        self.messages.clear();
        self.bytes = 0;
        self.done = 0;
        self.round = Round::default();
        self.flow.forget(0);
    }

    /// Takes a command of the guest; with `buffers`, after the messages that it has queued.
    pub(super) fn command(
        &mut self,
        command: Command,
        now: Duration,
        queue: &mut ActiveQueue,
        memory: &Memory,
        buffers: Option<&mut Buffers>,
    ) -> Result<Status, QueueError> {
        if let Some(buffers) = buffers {
            self.take_messages(queue, memory, buffers)?;
        }
        let effect = match self.stream.take(command) {
            Ok(effect) => effect,
            Err(status) => return Ok(status),
        };
        match effect {
            Effect::GiveBack => self.give_back(Status::Ok, queue, memory)?,
            Effect::End => self.end(),
            Effect::Begin => {
                if let Some(parameters) = self.stream.running() {
                    self.begin(parameters, now);
                }
            }
        }
        Ok(Status::Ok)
    }

    /// Gives all messages back: the guest releases the stream, or is about to be saved.
    pub(super) fn give_back(
        &mut self,
        status: Status,
        queue: &mut ActiveQueue,
        memory: &Memory,
    ) -> Result<(), QueueError> {
        let messages = std::mem::take(&mut self.messages);
        self.forget_messages();
        for message in messages {
            message.complete(0, status, 0, queue, memory)?;
        }
        queue.notify(memory)
    }

    /// A run begins with what waits and is not done.
    fn begin(&mut self, parameters: Parameters, now: Duration) {
        self.flow.restart(self.done);
        self.tell_begin(parameters, now);
        self.pacer = Some(Pacer::new(
            parameters.shape.frame_bytes(),
            parameters.shape.bytes_per_second(),
            [parameters.buffer, parameters.period],
            self.begun,
            now,
        ));
    }

    fn tell_begin(&mut self, parameters: Parameters, now: Duration) {
        self.run = self.run.wrapping_add(1);
        self.latency = 0;
        self.rejoin = now.saturating_add(REJOIN);
        let (run, shape, period) = (self.run, parameters.shape, parameters.period);
        let attached = self.host.as_mut();
        let told = attached.map(|attached| attached.host.begin(run, shape, period));
        // That it is gone is found out by reading, too, and there it is taken off the loop.
        self.begun = told == Some(Ok(true));
    }

    fn tell_end(&mut self) {
        if let Some(attached) = &mut self.host
            && std::mem::take(&mut self.begun)
        {
            // What cannot be said now is said by the next begin.
            let _ = attached.host.end(self.run);
        }
    }

    fn end(&mut self) {
        self.pacer = None;
        self.flow.restart(self.done);
        self.tell_end();
    }

    /// Hears the host, moves samples, gives messages back that are done.
    pub(super) fn turn(
        &mut self,
        now: Duration,
        queue: &mut ActiveQueue,
        memory: &Memory,
        registrar: &mut Registrar<'_>,
        token: u32,
    ) -> Result<Turn, QueueError> {
        let mut turn = Turn::Idle;
        if let Some(parameters) = self.stream.running() {
            match self.run(parameters, now, queue, memory)? {
                Ok(Turn::Idle) => {}
                Ok(Turn::BudgetSpent) => turn = Turn::BudgetSpent,
                Err(Gone) => {
                    self.lose(now, registrar);
                    tracing::warn!(direction = ?F::DIRECTION, "the mixer is gone; sound goes nowhere");
                }
            }
        }
        self.watch(registrar, token);
        queue.notify(memory)?;
        Ok(turn)
    }

    /// Takes messages of the guest; those that can be none are given back at once.
    pub(super) fn take_messages(
        &mut self,
        queue: &mut ActiveQueue,
        memory: &Memory,
        buffers: &mut Buffers,
    ) -> Result<Turn, QueueError> {
        for _ in 0..queue.budget() {
            let Some(chain) = queue.pop(memory)? else {
                if queue.rearm(memory)? {
                    continue;
                }
                return Ok(Turn::Idle);
            };
            let head = chain.head_index();
            let loaded = buffers.load(chain, memory).is_ok();
            let parts = loaded.then(|| Parts::of(F::DIRECTION, buffers)).flatten();
            let Some(parts) = parts else {
                queue.complete(memory, head, 0)?;
                continue;
            };
            match self.stream.accepting() {
                Some(parameters) if parts.is_for(F::DIRECTION, parameters, memory) => {
                    let message = parts.keep(head);
                    self.bytes = self.bytes.saturating_add(message.len());
                    self.round.queued(message.len());
                    self.messages.push_back(message);
                }
                _ => parts.refuse(head, queue, memory)?,
            }
        }
        Ok(Turn::BudgetSpent)
    }

    /// One turn of a running stream.
    fn run(
        &mut self,
        parameters: Parameters,
        now: Duration,
        queue: &mut ActiveQueue,
        memory: &Memory,
    ) -> Result<Result<Turn, Gone>, QueueError> {
        // Even if the host is gone: what it has heard is done.
        let heard = self.hear(parameters, now);
        let fed = self.feed(memory);
        self.advance(parameters, now, queue, memory)?;
        Ok(heard.and_then(|turn| fed.map(|()| turn)))
    }

    fn hear(&mut self, parameters: Parameters, now: Duration) -> Result<Turn, Gone> {
        let (Some(attached), Some(pacer)) = (&mut self.host, &mut self.pacer) else {
            return Ok(Turn::Idle);
        };
        for _ in 0..TURN {
            let Some(news) = attached.host.next(&mut self.samples)? else {
                return Ok(Turn::Idle);
            };
            let (run, len) = match news {
                News::Heard { run, .. } => (run, 0),
                News::Recorded { run, len, .. } => (run, len),
            };
            if run != self.run || !self.begun {
                continue;
            }
            let samples = self.samples.get(..len).ok_or(Gone)?;
            if pacer.is_own() {
                // Nothing of this run was given to it yet.
                self.flow.restart(self.done);
                pacer.follow(now);
            }
            let latency = self.flow.hear(news, samples, self.done, parameters)?;
            self.latency = latency.min(parameters.shape.bytes_per_second());
        }
        Ok(Turn::BudgetSpent)
    }

    fn feed(&mut self, memory: &Memory) -> Result<(), Gone> {
        match (&mut self.host, &self.pacer) {
            (Some(attached), Some(pacer)) if self.begun && !pacer.is_own() => self.flow.feed(
                attached.host.as_mut(),
                self.run,
                memory,
                &self.messages,
                self.done,
            ),
            _ => Ok(()),
        }
    }

    fn advance(
        &mut self,
        parameters: Parameters,
        now: Duration,
        queue: &mut ActiveQueue,
        memory: &Memory,
    ) -> Result<(), QueueError> {
        let Some(pacer) = &mut self.pacer else {
            return Ok(());
        };
        let seen = queue.is_seen(memory)?;
        let lengths = self.messages.iter().map(Message::len);
        let frame = parameters.shape.frame_bytes();
        let free = self
            .round
            .free(lengths, [parameters.buffer, frame], seen, now);
        let wanted = free.min(self.bytes).saturating_sub(self.done);
        let followed = !pacer.is_own();
        let due = pacer.due(wanted, self.flow.available(self.done), now);
        let is_own = pacer.is_own();
        self.done = self.done.saturating_add(due);
        self.flow.advance(due, self.done);
        if is_own && followed {
            tracing::debug!(direction = ?F::DIRECTION, "the mixer says nothing; going on without it");
            self.tell_end();
            self.latency = 0;
            self.rejoin = now.saturating_add(REJOIN);
        } else if is_own && !self.begun && self.has_host() && now >= self.rejoin {
            self.tell_begin(parameters, now);
        }
        while let Some(first) = self.messages.front()
            && first.len() <= self.done
        {
            let len = first.len();
            let recorded = self.flow.finish(first, memory);
            self.done = self.done.saturating_sub(len);
            self.bytes = self.bytes.saturating_sub(len);
            self.round.returned(len, now);
            if let Some(first) = self.messages.pop_front() {
                first.complete(recorded, Status::Ok, self.latency, queue, memory)?;
            }
        }
        Ok(())
    }

    /// Goes on without a host that is gone.
    fn lose(&mut self, now: Duration, registrar: &mut Registrar<'_>) {
        self.detach(registrar);
        self.begun = false;
        self.latency = 0;
        self.flow.forget(self.done);
        if let Some(pacer) = &mut self.pacer {
            pacer.lose(now);
        }
    }

    /// Watches the host while the stream runs; not else, because one that is gone would be reported for ever.
    fn watch(&mut self, registrar: &mut Registrar<'_>, token: u32) {
        let wanted = self.pacer.is_some();
        let Some(attached) = &mut self.host else {
            return;
        };
        if attached.watched == wanted {
            return;
        }
        let descriptor = attached.host.descriptor();
        let changed = if wanted {
            registrar.add(&descriptor, token, Interest::Read)
        } else {
            registrar.remove(&descriptor)
        };
        match changed {
            Ok(()) => attached.watched = wanted,
            Err(error) => tracing::warn!(%error, "the mixer's socket cannot be watched"),
        }
    }

    /// When something is to be done although nobody has said anything.
    pub(super) fn wait(&self, now: Duration) -> Option<Duration> {
        let (pacer, first) = (self.pacer.as_ref()?, self.messages.front()?);
        let wait = pacer.wait(first.len().saturating_sub(self.done), now);
        Some(self.round.wait().unwrap_or(wait))
    }

    /// What is true between any two turns.
    #[cfg(test)]
    pub(super) fn verify_invariants(&self) {
        let sum: u64 = self.messages.iter().map(Message::len).sum();
        assert_eq!(self.bytes, sum, "bytes of the messages");
        let first = self.messages.front().map_or(1, Message::len);
        assert!(self.done < first, "{} of {first} done", self.done);
        assert_eq!(self.pacer.is_some(), self.stream.running().is_some());
        if self.stream.accepting().is_none() {
            assert!(self.messages.is_empty(), "nobody may queue anything");
        }
        if self.begun {
            assert!(self.host.is_some() && self.pacer.is_some());
        }
    }
}
