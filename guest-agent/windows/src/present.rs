//! From an app's commit to the host's: asks for slots, draws what changed, copies it, commits. One frame per
//! window at a time, and only when the host can take it.

use std::time::{Duration, Instant};

use casemate_window_wire::{
    Commit, Format, ToHost, WindowId,
    limits::{MAX_BUFFER, MAX_EXTENT},
};

use crate::{
    agent::Agent,
    canvas::{self, Canvas},
    window::{Role, Window},
};

/// Slots asked for: one shown, one drawn.
const SLOTS: u8 = 2;

/// How long a window without room for its pixels waits before it asks again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// When to ask again after a refusal that came now.
pub(crate) fn ask_again_at() -> Instant {
    Instant::now() + ASK_AGAIN
}

/// What to do for a window.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing can or need be done now.
    Wait,
    /// Ask for slots of this size.
    Ask((u32, u32)),
    /// Draw into this slot.
    Draw(u8),
}

impl Agent {
    /// Gives the host every content that changed.
    pub(crate) fn present_windows(&mut self, now: Instant) {
        if !self.is_ready() {
            return;
        }
        for (_, window) in self.windows.iter_mut() {
            if window.host.ask_again.take_if(|at| *at <= now).is_some() {
                window.dirty = true;
            }
        }
        for id in self.windows.ids() {
            let congested = self
                .connection
                .as_ref()
                .is_none_or(|connection| connection.congested());
            if congested {
                return;
            }
            self.present(id, now);
        }
    }

    fn present(&mut self, id: WindowId, now: Instant) {
        let Some(window) = self.windows.get_mut(id) else {
            return;
        };
        if !window.dirty || window.host.announced.is_none() {
            return;
        }
        let Some(geometry) = canvas::geometry(window.surface()) else {
            window.dirty = false;
            if std::mem::take(&mut window.host.shown) {
                self.tell(&ToHost::Unmap { id });
            }
            return;
        };
        let size = (geometry.size.w, geometry.size.h);
        match step(window, size) {
            Step::Wait => {}
            Step::Ask((width, height)) => {
                window.host.requested = Some((width, height));
                // The host voids earlier slots as soon as it answers: none may be committed meanwhile.
                window.host.slots = None;
                window.canvas = None;
                let format = format(&window.role);
                self.tell(&ToHost::BufferRequest {
                    id,
                    width,
                    height,
                    format,
                    count: SLOTS,
                });
            }
            Step::Draw(slot) => {
                if let Err(error) = self.draw(id, slot, geometry, now) {
                    tracing::warn!(id = id.0, %error, "cannot draw a window");
                }
            }
        }
    }

    fn draw(
        &mut self,
        id: WindowId,
        slot: u8,
        geometry: smithay::utils::Rectangle<i32, smithay::utils::Logical>,
        now: Instant,
    ) -> Result<(), canvas::DrawError> {
        let Some(window) = self.windows.get_mut(id) else {
            return Ok(());
        };
        window.dirty = false;
        let size = (geometry.size.w, geometry.size.h);
        let format = format(&window.role);
        let mut canvas = match window.canvas.take().filter(|canvas| canvas.size() == size) {
            Some(canvas) => canvas,
            None => Canvas::new(&mut self.renderer, size, format)?,
        };
        let damage = canvas.draw(&mut self.renderer, window.surface(), geometry)?;
        let source = canvas.source();
        let news =
            !damage.is_empty() || !window.host.shown || window.in_force != window.host.committed;
        let Some(slots) = window.host.slots.as_mut().filter(|_| news) else {
            window.canvas = Some(canvas);
            return Ok(());
        };
        let generation = slots.generation();
        let filled = slots.fill(slot, &damage, source, &mut self.memory);
        window.canvas = Some(canvas);
        if !filled {
            tracing::error!(id = id.0, "a checked slot could not be filled");
            return Ok(());
        }
        window.host.committed = window.in_force;
        window.host.shown = true;
        window.host.frame_owed = true;
        window.frame_due = Some(now + crate::frames::FALLBACK);
        let surface = window.surface().clone();
        let ack_serial = window.in_force;
        // Damage of a commit that shows nothing new is one pixel: an empty list would mean everything.
        let mut rects = damage.rects().to_vec();
        if rects.is_empty() {
            rects.extend(crate::damage::Damage::whole(1, 1).rects());
        }
        self.output.enter(&surface);
        self.tell(&ToHost::Commit(Commit {
            id,
            slot,
            generation,
            ack_serial,
            damage: rects,
        }));
        Ok(())
    }
}

/// Toplevels are opaque at the host anyway; popups may have round corners.
fn format(role: &Role) -> Format {
    match role {
        Role::Toplevel(_) => Format::Xrgb8888,
        Role::Popup(_) => Format::Argb8888,
    }
}

fn step(window: &Window, (width, height): (i32, i32)) -> Step {
    let host = &window.host;
    let (Ok(width), Ok(height)) = (u32::try_from(width), u32::try_from(height)) else {
        return Step::Wait;
    };
    if let Some(slots) = host
        .slots
        .as_ref()
        .filter(|slots| slots.size() == (width, height))
    {
        return slots.free().map_or(Step::Wait, Step::Draw);
    }
    if host.requested.is_some() || host.ask_again.is_some() {
        return Step::Wait;
    }
    let bytes = u64::from(width) * u64::from(height) * 4;
    if width > MAX_EXTENT || height > MAX_EXTENT || bytes > MAX_BUFFER {
        return Step::Wait;
    }
    Step::Ask((width, height))
}
