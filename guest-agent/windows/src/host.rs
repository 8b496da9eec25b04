//! What the host says, carried out. Numbers of windows that are gone meanwhile mean nothing and are no error.

use casemate_window_wire::{Configure, OutputInfo, SlotGrant, ToGuest, ToHost, limits::VERSION};
use smithay::{
    reexports::wayland_protocols::xdg::shell::server::xdg_toplevel::State, utils::Rectangle,
    wayland::shell::xdg::ToplevelSurface,
};

use crate::{
    agent::Agent,
    link::{LinkError, Stage},
    present,
    slots::Slots,
    window::Role,
};

impl Agent {
    /// Reads and carries out what has arrived.
    pub(crate) fn receive(&mut self) {
        let messages = match &mut self.connection {
            Some(connection) => connection.receive(),
            None => return,
        };
        for message in messages {
            tracing::trace!(?message, "host");
            if let Err(failure) = self.obey(message)
                && let Some(connection) = &mut self.connection
            {
                connection.failure = Some(failure);
                return;
            }
        }
    }

    fn obey(&mut self, message: ToGuest) -> Result<(), LinkError> {
        if let ToGuest::Welcome { version, memory } = message {
            return self.welcome(version, memory);
        }
        let welcomed = self
            .connection
            .as_ref()
            .is_some_and(|connection| connection.stage == Stage::Ready);
        if !welcomed {
            return Err(LinkError::OutOfState("spoke before it welcomed us"));
        }
        match message {
            ToGuest::Output(output) => self.output_changed(output),
            ToGuest::Keymap {
                text,
                repeat_delay,
                repeat_rate,
            } => self.keymap_changed(text, repeat_delay, repeat_rate),
            ToGuest::Configure(configure) => self.configure(configure),
            ToGuest::PopupPlaced {
                id,
                serial,
                x,
                y,
                width,
                height,
                token,
            } => {
                let size = (extent(width), extent(height));
                self.popup_placed(
                    id,
                    serial,
                    Rectangle::new((x, y).into(), size.into()),
                    token,
                );
            }
            ToGuest::Slots(grant) => self.granted(&grant)?,
            ToGuest::Release {
                id,
                generation,
                slot,
            } => {
                if let Some(window) = self.windows.get_mut(id)
                    && let Some(slots) = &mut window.host.slots
                {
                    slots.release(generation, slot);
                }
            }
            ToGuest::Frame { id, time_ms } => self.host_frame(id, time_ms),
            ToGuest::Close { id } => match self.windows.get(id).map(|window| &window.role) {
                Some(Role::Toplevel(toplevel)) => toplevel.send_close(),
                Some(Role::Popup(_)) => self.dismiss_tree(id),
                None => {}
            },
            ToGuest::KeyEnter {
                id,
                held,
                modifiers,
            } => self.key_enter(id, &held, modifiers),
            ToGuest::Key {
                code,
                pressed,
                serial,
                time_ms,
            } => self.key(code, pressed, serial, time_ms),
            ToGuest::Modifiers { masks } => self.modifiers(masks),
            ToGuest::KeyLeave => self.release_keyboard(),
            ToGuest::PointerMotion { id, x, y, time_ms } => {
                self.pointer_motion(id, x, y, time_ms);
            }
            ToGuest::PointerButton {
                code,
                pressed,
                serial,
                time_ms,
            } => self.pointer_button(code, pressed, serial, time_ms),
            ToGuest::PointerAxis {
                x,
                y,
                x120,
                y120,
                time_ms,
            } => self.pointer_axis((x, y), (x120, y120), time_ms),
            ToGuest::PointerLeave => self.leave_pointer(),
            ToGuest::Ping { nonce } => self.tell(&ToHost::Pong { nonce }),
            ToGuest::Welcome { .. } => {}
        }
        Ok(())
    }

    fn welcome(&mut self, version: u16, memory: u64) -> Result<(), LinkError> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        if connection.stage == Stage::Ready {
            return Err(LinkError::OutOfState("welcomed us twice"));
        }
        if version != VERSION {
            return Err(LinkError::OutOfState("speaks another version"));
        }
        if usize::try_from(memory).map_or(true, |memory| memory > self.memory.len()) {
            return Err(LinkError::OutOfState(
                "has a larger window memory than this VM",
            ));
        }
        connection.stage = Stage::Ready;
        self.backoff.succeeded();
        tracing::info!("the host shows our windows");
        Ok(())
    }

    fn output_changed(&mut self, output: OutputInfo) {
        let (width, height) = (extent(output.width), extent(output.height));
        if width > 0 && height > 0 {
            self.set_output(width, height, extent(output.refresh_mhz));
        }
    }

    fn configure(&mut self, configure: Configure) {
        let Some(window) = self.windows.get_mut(configure.id) else {
            return;
        };
        if window.host.announced.is_none() {
            return;
        }
        let Role::Toplevel(toplevel) = &window.role else {
            return;
        };
        window.host.configured = true;
        window.configure = Some(configure);
        // A hidden window hears of it when it wants to be shown again.
        if window.wants_configure {
            let sent = send_configure(toplevel, &configure);
            window.unanswered.push((sent, configure.serial));
        }
    }

    fn granted(&mut self, grant: &SlotGrant) -> Result<(), LinkError> {
        let Some(window) = self.windows.get_mut(grant.id) else {
            return Ok(());
        };
        let slots = Slots::new(grant, self.memory.len())
            .map_err(|_| LinkError::OutOfState("granted slots outside of the window memory"))?;
        let host = &mut window.host;
        // Answers come in the order of the requests; only the last one's size is still of use.
        if host.requested == Some((grant.width, grant.height)) || slots.is_none() {
            host.requested = None;
        }
        if slots.is_none() {
            host.ask_again = Some(present::ask_again_at());
        }
        host.slots = slots;
        window.dirty = true;
        Ok(())
    }
}

/// Passes the host's wish on to the app.
pub(crate) fn send_configure(
    toplevel: &ToplevelSurface,
    configure: &Configure,
) -> smithay::utils::Serial {
    toplevel.with_pending_state(|state| {
        let size = (extent(configure.width), extent(configure.height));
        state.size = (size != (0, 0)).then(|| size.into());
        let bounds = (extent(configure.bounds.0), extent(configure.bounds.1));
        state.bounds = (bounds.0 > 0 && bounds.1 > 0).then(|| bounds.into());
        let flags = [
            (State::Activated, configure.activated),
            (State::Maximized, configure.maximized),
            (State::Fullscreen, configure.fullscreen),
            (State::Suspended, configure.suspended),
            // The host frames every window: no app needs shadows, round corners or resize edges of its own.
            (State::TiledTop, true),
            (State::TiledBottom, true),
            (State::TiledLeft, true),
            (State::TiledRight, true),
        ];
        for (flag, on) in flags {
            if on {
                state.states.set(flag);
            } else {
                state.states.unset(flag);
            }
        }
    });
    toplevel.send_configure()
}

/// A size of the wire as Wayland counts it.
fn extent(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
