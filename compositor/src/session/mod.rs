//! One window session: the talk with the window agent of one VM over one stream.
//!
//! ```text
//! offered -- the guest connects, Hello --> Ready -- malformed, illegal, or the end --> over
//! ```
//!
//! Every message is checked here or in the model before anything happens. The first wrong one ends the session
//! with an [`End`]: the VM's windows go, the VM itself goes on, and [`Attachment`] offers a new stream, later and
//! later for a guest that keeps failing.

mod attachment;
mod memory;
mod rate;
mod slots;
mod stream;
mod surface;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    os::{fd::OwnedFd, unix::net::UnixStream},
    time::Duration,
};

use casemate_window_wire::{
    CursorShape, Malformed, Request, SlotGrant, ToGuest, ToHost, WindowId, limits,
};

pub(crate) use attachment::Attachment;
pub(crate) use memory::{MapError, WindowMemory};

use crate::{
    geometry::Size,
    scene::Content,
    windows::{Violation, Windows},
    words::{Time, VmKey, WindowKey, millis},
};
use rate::Bucket;
use slots::Allocator;
use stream::Stream;
use surface::Surface;

/// Most bytes that one VM's commits may make the host copy for one frame; the rest waits for the next frame.
/// Stops a VM with many large windows from slowing the others.
const MAX_COPY: u64 = 64 * 1024 * 1024;

/// Most bytes of private copies of one VM's windows: slots can be used again, copies stay, so the window memory
/// alone does not bound them.
const MAX_CONTENTS: u64 = 512 * 1024 * 1024;

/// Messages handled before other VMs get their turn.
const TURN: usize = 128;

/// How old a press may be that a request refers to.
const RECENT_PRESS: Duration = Duration::from_secs(5);

/// Presses remembered for that.
const PRESSES: usize = 16;

/// A ping that waits longer marks the VM's windows as not responding.
const PONG: Duration = Duration::from_secs(10);

/// Shortest time between pings.
const PING_PAUSE: Duration = Duration::from_secs(2);

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum End {
    #[error("the guest closed the stream")]
    Closed,
    #[error("malformed: {0}")]
    Malformed(#[from] Malformed),
    #[error("illegal: {0}")]
    Violation(#[from] Violation),
    #[error("illegal: {0}")]
    Protocol(&'static str),
    #[error("stream error: {0}")]
    Io(std::io::ErrorKind),
}

/// A guest's wish that a person's press allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) key: WindowKey,
    pub(crate) what: Request,
}

/// What came of a turn.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// There may be more to read at once.
    pub(crate) more: bool,
    /// The guest has used up its rate; look again then.
    pub(crate) throttled: Option<Time>,
    /// Something on the screen may have changed.
    pub(crate) changed: bool,
    /// Wishes to be granted by the desktop.
    pub(crate) wishes: Vec<Wish>,
    /// Windows that are gone.
    pub(crate) gone: Vec<WindowKey>,
}

/// What every guest is told about the screen and the keyboard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) output: Size,
    pub(crate) refresh_mhz: u32,
    pub(crate) keymap: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    AwaitHello,
    Ready,
}

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    stream: Stream,
    phase: Phase,
    began: Time,
    allocator: Allocator,
    surfaces: BTreeMap<WindowId, Surface>,
    /// Windows with a waiting commit, oldest first.
    waiting: VecDeque<WindowId>,
    /// Windows that get a frame message once the frame is on the screen.
    frames: BTreeSet<WindowId>,
    rate: Bucket,
    presses: VecDeque<(u32, Time)>,
    cursor: CursorShape,
    ping: Option<(u32, Time)>,
    last_ping: Option<Time>,
    next_nonce: u32,
}

impl Session {
    fn new(socket: UnixStream, memory: &WindowMemory, now: Time) -> std::io::Result<Self> {
        Ok(Self {
            stream: Stream::new(socket)?,
            phase: Phase::AwaitHello,
            began: now,
            allocator: Allocator::new(memory.len()),
            surfaces: BTreeMap::new(),
            waiting: VecDeque::new(),
            frames: BTreeSet::new(),
            rate: Bucket::new(now),
            presses: VecDeque::new(),
            cursor: CursorShape::Default,
            ping: None,
            last_ping: None,
            next_nonce: 1,
        })
    }

    /// A second descriptor of the stream, for the event loop to watch.
    pub(crate) fn watch(&self) -> std::io::Result<OwnedFd> {
        self.stream.socket().try_clone().map(OwnedFd::from)
    }

    /// The event loop says that the stream can be read or written.
    pub(crate) fn wake(&mut self) {
        self.stream.wake();
    }

    pub(crate) fn cursor(&self) -> CursorShape {
        self.cursor
    }

    /// Sends a message; nothing before the guest has said hello.
    pub(crate) fn send(&mut self, message: &ToGuest) -> Result<(), End> {
        match self.phase {
            Phase::AwaitHello => Ok(()),
            Phase::Ready => self.stream.send(message),
        }
    }

    /// Writes as much as the guest takes.
    pub(crate) fn flush(&mut self) -> Result<(), End> {
        self.stream.flush()
    }

    /// A press went to this guest: it may refer to it, and must show that it is alive.
    pub(crate) fn note_press(&mut self, serial: u32, now: Time) -> Result<(), End> {
        if self.presses.len() >= PRESSES {
            self.presses.pop_front();
        }
        self.presses.push_back((serial, now));
        let due = self
            .last_ping
            .is_none_or(|last| now.saturating_sub(last) >= PING_PAUSE);
        if self.ping.is_none() && due {
            let nonce = self.next_nonce;
            self.next_nonce = self.next_nonce.wrapping_add(1);
            self.ping = Some((nonce, now));
            self.last_ping = Some(now);
            self.send(&ToGuest::Ping { nonce })?;
        }
        Ok(())
    }

    /// When an unanswered ping makes the VM count as not responding.
    pub(crate) fn pong_deadline(&self) -> Option<Time> {
        self.ping.map(|(_, sent)| sent + PONG)
    }

    /// Reads and handles some messages.
    pub(crate) fn turn(
        &mut self,
        vm: VmKey,
        windows: &mut Windows,
        surroundings: Surroundings<'_>,
        now: Time,
    ) -> Result<Turn, End> {
        let mut turn = Turn::default();
        for _ in 0..TURN {
            if let Err(wait) = self.rate.take(now) {
                turn.throttled = Some(now + wait);
                return Ok(turn);
            }
            let Some(message) = self.stream.receive()? else {
                self.rate.give_back();
                return Ok(turn);
            };
            self.handle(vm, message, windows, surroundings, now, &mut turn)?;
        }
        turn.more = true;
        Ok(turn)
    }

    fn handle(
        &mut self,
        vm: VmKey,
        message: ToHost,
        windows: &mut Windows,
        surroundings: Surroundings<'_>,
        now: Time,
        turn: &mut Turn,
    ) -> Result<(), End> {
        match (self.phase, &message) {
            (Phase::AwaitHello, ToHost::Hello { .. }) => {}
            (Phase::AwaitHello, _) => return Err(End::Protocol("a message before hello")),
            (Phase::Ready, ToHost::Hello { .. }) => return Err(End::Protocol("a second hello")),
            (Phase::Ready, _) => {}
        }
        match message {
            ToHost::Hello {
                magic,
                oldest,
                newest,
            } => self.greet(magic, oldest, newest, surroundings)?,
            ToHost::Window(window) => {
                windows.declare(vm, &window)?;
                self.surfaces.entry(window.id).or_default();
                turn.changed = true;
            }
            ToHost::Position(position) => {
                windows.position(vm, &position)?;
                turn.changed = true;
            }
            ToHost::BufferRequest {
                id,
                width,
                height,
                format,
                count,
            } => {
                let Some(surface) = self.surfaces.get_mut(&id) else {
                    return windows.tolerate(WindowKey::new(vm, id)).map_err(End::from);
                };
                let (generation, stride, offsets) =
                    surface.request(&mut self.allocator, (width, height), format, count);
                self.stream.send(&ToGuest::Slots(SlotGrant {
                    id,
                    generation,
                    width,
                    height,
                    stride,
                    offsets,
                }))?;
            }
            ToHost::Commit(commit) => {
                let key = WindowKey::new(vm, commit.id);
                windows.may_commit(key, commit.ack_serial)?;
                let Some(surface) = self.surfaces.get_mut(&commit.id) else {
                    return windows.tolerate(key).map_err(End::from);
                };
                let released = surface.commit(&mut self.allocator, &commit)?;
                if !self.waiting.contains(&commit.id) {
                    self.waiting.push_back(commit.id);
                }
                self.release(commit.id, released)?;
                turn.changed = true;
            }
            ToHost::Unmap { id } => {
                let key = WindowKey::new(vm, id);
                windows.unmap(key)?;
                if let Some(surface) = self.surfaces.get_mut(&id) {
                    let released = surface.skip(&mut self.allocator);
                    self.release(id, released)?;
                }
                turn.changed = true;
            }
            ToHost::Destroy { id } => {
                for gone in windows.destroy(WindowKey::new(vm, id))? {
                    if let Some(surface) = self.surfaces.remove(&gone.id) {
                        surface.end(&mut self.allocator);
                    }
                    self.waiting.retain(|&other| other != gone.id);
                    self.frames.remove(&gone.id);
                    turn.gone.push(gone);
                }
                turn.changed = true;
            }
            ToHost::Cursor { shape } => {
                turn.changed |= self.cursor != shape;
                self.cursor = shape;
            }
            ToHost::Request { id, what, serial } => {
                let key = WindowKey::new(vm, id);
                let recent = self.presses.iter().any(|&(pressed, at)| {
                    pressed == serial && now.saturating_sub(at) <= RECENT_PRESS
                });
                windows.tolerate(key)?;
                if recent {
                    turn.wishes.push(Wish { key, what });
                }
            }
            ToHost::Pong { nonce } => {
                if self.ping.is_some_and(|(sent, _)| sent == nonce) {
                    self.ping = None;
                    turn.changed |= windows.set_stuck(vm, false);
                }
            }
        }
        Ok(())
    }

    fn greet(
        &mut self,
        magic: u32,
        oldest: u16,
        newest: u16,
        surroundings: Surroundings<'_>,
    ) -> Result<(), End> {
        if magic != limits::MAGIC {
            return Err(End::Protocol("hello of another protocol"));
        }
        if !(oldest..=newest).contains(&limits::VERSION) {
            return Err(End::Protocol("no common version"));
        }
        self.phase = Phase::Ready;
        let memory = self.allocator.len();
        self.stream.send(&ToGuest::Welcome {
            version: limits::VERSION,
            memory,
        })?;
        self.announce_output(surroundings)?;
        self.stream.send(&ToGuest::Keymap {
            text: surroundings.keymap.to_owned(),
            repeat_delay: 500,
            repeat_rate: 30,
        })
    }

    /// Tells the guest the size of the output.
    pub(crate) fn announce_output(&mut self, surroundings: Surroundings<'_>) -> Result<(), End> {
        let (width, height) = surroundings.output.to_wire();
        self.send(&ToGuest::Output(casemate_window_wire::OutputInfo {
            width,
            height,
            scale_120: 120,
            refresh_mhz: surroundings.refresh_mhz,
        }))
    }

    fn release(&mut self, id: WindowId, released: Option<surface::Released>) -> Result<(), End> {
        match released {
            Some(surface::Released { generation, slot }) => self.send(&ToGuest::Release {
                id,
                generation,
                slot,
            }),
            None => Ok(()),
        }
    }

    /// Takes the waiting commits into the frame that is about to be drawn; answers whether some had to wait longer.
    pub(crate) fn show(
        &mut self,
        vm: VmKey,
        memory: &WindowMemory,
        windows: &mut Windows,
        contents: &mut BTreeMap<WindowKey, Content>,
        now: Time,
    ) -> Result<bool, End> {
        let mut copied = 0;
        while copied < MAX_COPY {
            let Some(id) = self.waiting.pop_front() else {
                return Ok(false);
            };
            let key = WindowKey::new(vm, id);
            let Some(surface) = self.surfaces.get_mut(&id) else {
                continue;
            };
            let Some((ack, size)) = surface.pending() else {
                continue;
            };
            let released = if windows.may_commit(key, ack) == Ok(true) {
                let mut content = contents.remove(&key);
                let others: u64 = contents
                    .iter()
                    .filter(|(other, _)| other.vm == vm)
                    .map(|(_, content)| content.bytes())
                    .sum();
                let mine = u64::try_from(size.area())
                    .unwrap_or(u64::MAX)
                    .saturating_mul(4);
                if others.saturating_add(mine) > MAX_CONTENTS {
                    return Err(End::Protocol("more pixels shown than allowed"));
                }
                let (bytes, released) = surface.copy(&mut self.allocator, memory, &mut content);
                copied += bytes;
                contents.extend(content.map(|content| (key, content)));
                windows.commit(key, size, ack, now);
                released
            } else {
                surface.skip(&mut self.allocator)
            };
            self.frames.insert(id);
            self.release(id, released)?;
        }
        Ok(!self.waiting.is_empty())
    }

    /// The frame is on the screen: windows that were part of it may draw the next.
    pub(crate) fn presented(&mut self, now: Time) -> Result<(), End> {
        for id in std::mem::take(&mut self.frames) {
            self.send(&ToGuest::Frame {
                id,
                time_ms: millis(now),
            })?;
        }
        Ok(())
    }
}
