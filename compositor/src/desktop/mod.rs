//! The one owner of everything on the screen. Knows no event loop, no device and no bus: those call it, with the
//! time, and draw what it composes.
//!
//! A key's way: [`Desktop::input`] -> a question, if one is shown -> host chords -> the window that has the focus.
//! A commit's way: [`Desktop::service`] (checked, kept waiting) -> [`Desktop::compose`] (copied once, drawn) ->
//! the backend -> [`Desktop::presented`] (the guest may draw the next).

mod api;
mod keys;
mod pointer;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
};

use casemate_window_wire::{Request as WishKind, ToGuest};

pub(crate) use api::AttachError;
use keys::Keys;
use pointer::PointerState;

use crate::{
    geometry::{Rect, Size},
    input::{InputEvent, Keyboard},
    prompt::{Notices, Overlay, Prompts},
    scene::{Content, Frame, Pointer, RenderError, Renderer, Scene, Top},
    session::{Attachment, End, Session, Surroundings, Wish},
    windows::Windows,
    words::{Time, VmKey, WindowKey},
};

/// Something that only the event loop or the backend can do.
#[derive(Debug)]
pub(crate) enum Outside {
    /// Watch this descriptor of a VM; replaces what was watched for the same purpose.
    Watch {
        vm: VmKey,
        purpose: Purpose,
        fd: OwnedFd,
    },
    /// Stop watching.
    Unwatch { vm: VmKey, purpose: Purpose },
    /// Switch to another virtual terminal.
    SwitchTerminal(i32),
}

/// Why a descriptor is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Purpose {
    Link,
    Stream,
}

/// The screen, the seat, and all VMs.
#[derive(Debug)]
pub(crate) struct Desktop {
    windows: Windows,
    attachments: BTreeMap<VmKey, Attachment>,
    contents: BTreeMap<WindowKey, Content>,
    scene: Scene,
    renderer: Renderer,
    overlay: Overlay,
    prompts: Prompts,
    notices: Notices,
    keyboard: Keyboard,
    keys: Keys,
    pointer: PointerState,
    refresh_mhz: u32,
    next_vm: u64,
    next_serial: u32,
    /// VMs whose stream may have something.
    ready: BTreeSet<VmKey>,
    /// VMs that used up their rate, and until when.
    throttled: BTreeMap<VmKey, Time>,
    /// The next frame will differ.
    dirty: bool,
    /// What changed since the backend last took a frame.
    damage: Vec<Rect>,
    outside: Vec<Outside>,
}

impl Desktop {
    pub(crate) fn new(
        output: Size,
        refresh_mhz: u32,
        keyboard: Keyboard,
    ) -> Result<Self, RenderError> {
        Ok(Self {
            windows: Windows::new(output),
            attachments: BTreeMap::new(),
            contents: BTreeMap::new(),
            scene: Scene::new(),
            renderer: Renderer::new(output)?,
            overlay: Overlay::default(),
            prompts: Prompts::default(),
            notices: Notices::default(),
            keyboard,
            keys: Keys::default(),
            pointer: PointerState::default(),
            refresh_mhz,
            next_vm: 1,
            next_serial: 1,
            ready: BTreeSet::new(),
            throttled: BTreeMap::new(),
            dirty: true,
            damage: Vec::new(),
            outside: Vec::new(),
        })
    }

    /// The output has another size now.
    pub(crate) fn set_output(&mut self, output: Size) -> Result<(), RenderError> {
        self.renderer.resize(output)?;
        self.windows.set_output(output);
        self.damage.clear();
        let keymap = self.keyboard.text().to_owned();
        let surroundings = Surroundings {
            output,
            refresh_mhz: self.refresh_mhz,
            keymap: &keymap,
        };
        for attachment in self.attachments.values_mut() {
            if let Some(session) = &mut attachment.session {
                // A failure shows again, and is handled, when the stream is next flushed.
                let _ended = session.announce_output(surroundings);
            }
        }
        self.dirty = true;
        Ok(())
    }

    /// What the event loop is to do.
    pub(crate) fn take_outside(&mut self) -> Vec<Outside> {
        std::mem::take(&mut self.outside)
    }

    /// A watched descriptor is ready.
    pub(crate) fn wake(&mut self, vm: VmKey, purpose: Purpose) {
        let Some(attachment) = self.attachments.get_mut(&vm) else {
            return;
        };
        match purpose {
            Purpose::Stream => {
                if let Some(session) = &mut attachment.session {
                    session.wake();
                    self.ready.insert(vm);
                }
            }
            Purpose::Link => {
                if !attachment.link_alive() {
                    tracing::info!(vm = %attachment.name, "the vmm closed its link");
                    self.outside.push(Outside::Unwatch { vm, purpose });
                }
            }
        }
    }

    /// Does everything that is due: offers, messages, expiries; sends what collected. Answers when to come back at
    /// the latest (`now` when there is more to read at once).
    pub(crate) fn service(&mut self, now: Time) -> Option<Time> {
        self.offer_streams(now);
        self.throttled.retain(|&vm, &mut until| {
            let wait = until > now;
            if !wait {
                self.ready.insert(vm);
            }
            wait
        });
        for vm in std::mem::take(&mut self.ready) {
            self.turn(vm, now);
        }
        self.check_answers(now);
        self.dirty |= self.prompts.sweep(now);
        self.dirty |= self.notices.sweep(now);
        self.sync_focus();
        self.send_outgoing(now);
        if !self.ready.is_empty() {
            return Some(now);
        }
        self.attachments
            .values()
            .flat_map(|attachment| {
                let pong = attachment
                    .session
                    .as_ref()
                    .and_then(Session::pong_deadline)
                    .filter(|&at| at > now);
                [attachment.deadline(), pong]
            })
            .chain([self.prompts.deadline(now), self.notices.deadline()])
            .chain(self.throttled.values().copied().map(Some))
            .flatten()
            .min()
    }

    /// Whether the next frame will differ from the last.
    pub(crate) fn dirty(&self, now: Time) -> bool {
        self.dirty || self.prompts.looks_old(now)
    }

    /// Composes a frame from the newest commits.
    pub(crate) fn compose(&mut self, now: Time) -> Result<(), RenderError> {
        let mut late = false;
        let mut ended = Vec::new();
        for (&vm, attachment) in &mut self.attachments {
            let Some(session) = &mut attachment.session else {
                continue;
            };
            let shown = session.show(
                vm,
                &attachment.memory,
                &mut self.windows,
                &mut self.contents,
                now,
            );
            match shown {
                Ok(more) => late |= more,
                Err(end) => ended.push((vm, end)),
            }
        }
        for (vm, end) in ended {
            self.end_session(vm, end, now);
        }
        self.windows_changed(now);
        let output = self.windows.output();
        let typesetter = &mut self.scene.typesetter;
        self.prompts
            .draw(typesetter, output, now, &mut self.overlay);
        self.notices.draw(typesetter, output, &mut self.overlay);
        let top = Top {
            pointer: self.pointer.drawn(self.prompts.shown()),
            overlay: &self.overlay,
        };
        let elements = self.scene.elements(
            &mut self.renderer.pixman,
            &self.windows,
            &self.contents,
            &top,
        )?;
        let damage = self.renderer.render(&elements)?;
        self.damage.extend(damage);
        self.dirty = late;
        self.sync_focus();
        self.send_outgoing(now);
        Ok(())
    }

    /// The composed frame, and what changed since the last call.
    pub(crate) fn take_frame(&mut self) -> (&Frame, Vec<Rect>) {
        let damage = std::mem::take(&mut self.damage);
        (self.renderer.frame(), damage)
    }

    /// Whether there is something for the backend to show.
    pub(crate) fn has_damage(&self) -> bool {
        !self.damage.is_empty()
    }

    /// The frame is on the screen.
    pub(crate) fn presented(&mut self, now: Time) {
        let mut ended = Vec::new();
        for (&vm, attachment) in &mut self.attachments {
            if let Some(session) = &mut attachment.session
                && let Err(end) = session.presented(now).and_then(|()| session.flush())
            {
                ended.push((vm, end));
            }
        }
        for (vm, end) in ended {
            self.end_session(vm, end, now);
        }
    }

    /// The person did something.
    pub(crate) fn input(&mut self, event: InputEvent, now: Time) {
        match event {
            InputEvent::Key { code, pressed } => self.key(code, pressed, now),
            InputEvent::MotionTo { x, y } => self.pointer_to(x, y, now),
            InputEvent::MotionBy { dx, dy } => self.pointer_by(dx, dy, now),
            InputEvent::Button { code, pressed } => self.button(code, pressed, now),
            InputEvent::Axis { x, y, x120, y120 } => self.axis((x, y), (x120, y120), now),
            InputEvent::Lost => self.input_lost(now),
        }
        self.sync_focus();
        self.send_outgoing(now);
    }

    fn offer_streams(&mut self, now: Time) {
        for (&vm, attachment) in &mut self.attachments {
            match attachment.offer(now) {
                Ok(false) => {}
                Ok(true) => {
                    let watch = attachment.session.as_ref().map(Session::watch);
                    match watch {
                        Some(Ok(fd)) => self.outside.push(Outside::Watch {
                            vm,
                            purpose: Purpose::Stream,
                            fd,
                        }),
                        Some(Err(error)) => {
                            tracing::error!(vm = %attachment.name, %error, "cannot watch a stream");
                            attachment.end(End::Io(error.kind()), now);
                        }
                        None => {}
                    }
                }
                Err(gone) => tracing::info!(vm = %attachment.name, %gone),
            }
        }
    }

    fn turn(&mut self, vm: VmKey, now: Time) {
        if self.throttled.contains_key(&vm) {
            return;
        }
        let Some(session) = self
            .attachments
            .get_mut(&vm)
            .and_then(|attachment| attachment.session.as_mut())
        else {
            return;
        };
        let surroundings = Surroundings {
            output: self.windows.output(),
            refresh_mhz: self.refresh_mhz,
            keymap: self.keyboard.text(),
        };
        let result = session
            .turn(vm, &mut self.windows, surroundings, now)
            .and_then(|turn| session.flush().map(|()| turn));
        let turn = match result {
            Ok(turn) => turn,
            Err(end) => return self.end_session(vm, end, now),
        };
        if turn.more {
            self.ready.insert(vm);
        }
        if let Some(until) = turn.throttled {
            self.throttled.insert(vm, until);
        }
        for gone in turn.gone {
            self.contents.remove(&gone);
        }
        for wish in turn.wishes {
            self.grant(wish);
        }
        if turn.changed {
            self.windows_changed(now);
            self.dirty = true;
        }
    }

    /// A wish whose serial was that of a recent press in the VM.
    fn grant(&mut self, wish: Wish) {
        let Wish { key, what } = wish;
        let at = self.pointer.at();
        // Moving and resizing need the button that is still down in that very window.
        let held = self.pointer.holds(key);
        match what {
            WishKind::Move if held => {
                self.pointer.hand_over();
                self.windows.begin_move(key, at);
            }
            WishKind::Resize if held => {
                self.pointer.hand_over();
                self.windows.begin_resize(key, None, at);
            }
            WishKind::Maximize => self.windows.toggle_maximized(key),
            WishKind::Activate => self.windows.request_activation(key),
            // There is no place to minimize to; the window stays.
            WishKind::Move | WishKind::Resize | WishKind::Minimize => {}
        }
        self.dirty = true;
    }

    /// Windows came, went or moved by other than the pointer: what lies under it may have changed.
    fn windows_changed(&mut self, now: Time) {
        self.refresh_hover(now);
    }

    fn check_answers(&mut self, now: Time) {
        for (&vm, attachment) in &self.attachments {
            let late = attachment
                .session
                .as_ref()
                .and_then(Session::pong_deadline)
                .is_some_and(|at| at <= now);
            if late && self.windows.set_stuck(vm, true) {
                tracing::warn!(vm = %attachment.name, "windows do not respond");
                self.dirty = true;
            }
        }
    }

    /// Sends one message; a guest that cannot take it loses its session.
    fn tell(&mut self, vm: VmKey, message: &ToGuest, now: Time) {
        let result = match self.session(vm) {
            Some(session) => session.send(message),
            None => Ok(()),
        };
        if let Err(end) = result {
            self.end_session(vm, end, now);
        }
    }

    fn session(&mut self, vm: VmKey) -> Option<&mut Session> {
        self.attachments.get_mut(&vm)?.session.as_mut()
    }

    fn send_outgoing(&mut self, now: Time) {
        for (vm, message) in self.windows.take_outgoing() {
            self.tell(vm, &message, now);
        }
        let mut ended = Vec::new();
        for (&vm, attachment) in &mut self.attachments {
            if let Some(Err(end)) = attachment.session.as_mut().map(Session::flush) {
                ended.push((vm, end));
            }
        }
        for (vm, end) in ended {
            self.end_session(vm, end, now);
        }
    }

    fn end_session(&mut self, vm: VmKey, end: End, now: Time) {
        if let Some(attachment) = self.attachments.get_mut(&vm) {
            attachment.end(end, now);
        }
        self.outside.push(Outside::Unwatch {
            vm,
            purpose: Purpose::Stream,
        });
        self.windows.clear_vm(vm);
        self.windows.set_stuck(vm, false);
        self.contents.retain(|key, _| key.vm != vm);
        self.throttled.remove(&vm);
        self.ready.remove(&vm);
        self.keys.forget(vm);
        self.pointer.forget(vm);
        self.dirty = true;
    }

    fn serial(&mut self) -> u32 {
        let serial = self.next_serial;
        self.next_serial = self.next_serial.checked_add(1).unwrap_or(1);
        serial
    }
}

impl PointerState {
    /// The pointer as it is drawn; the host's own arrow over its own things.
    fn drawn(&self, prompt: bool) -> Option<Pointer> {
        self.seen().then(|| Pointer {
            at: self.at(),
            shape: if prompt {
                casemate_window_wire::CursorShape::Default
            } else {
                self.shape()
            },
        })
    }
}

#[cfg(test)]
impl Desktop {
    /// Panics when the model contradicts itself.
    pub(crate) fn verify(&self) {
        self.windows.verify();
    }

    pub(crate) fn windows(&self) -> &Windows {
        &self.windows
    }

    pub(crate) fn prompts(&self) -> &Prompts {
        &self.prompts
    }
}
