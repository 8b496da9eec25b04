//! When apps may draw their next frame: when the host says so, and otherwise slowly, so that no app hangs because
//! nobody looks at it.

use std::time::{Duration, Instant};

use casemate_window_wire::WindowId;
use smithay::{
    desktop::utils::{
        OutputPresentationFeedback, send_frames_surface_tree,
        take_presentation_feedback_surface_tree, with_surfaces_surface_tree,
    },
    reexports::{
        wayland_protocols::wp::presentation_time::server::wp_presentation_feedback::Kind,
        wayland_server::protocol::wl_surface::WlSurface,
    },
    utils::{Clock, Monotonic},
    wayland::{compositor::SurfaceAttributes, presentation::Refresh},
};

use crate::{agent::Agent, window::Window};

/// The longest that an app waits for a frame callback.
pub(crate) const FALLBACK: Duration = Duration::from_secs(1);

/// Shortest time between frames of an app that asks for callbacks but changes nothing.
const IDLE_FRAME: Duration = Duration::from_millis(16);

impl Agent {
    /// The host wants the next frame of a window.
    pub(crate) fn host_frame(&mut self, id: WindowId, time_ms: u32) {
        let Some(window) = self.windows.get_mut(id) else {
            return;
        };
        window.host.frame_owed = false;
        window.frame_due = None;
        let surface = window.surface().clone();
        self.send_frames(&surface, time_ms);
    }

    /// Sees to it that every app that waits for a callback gets one, and sends those that are due.
    pub(crate) fn send_due_frames(&mut self, now: Instant) {
        let connected = self.is_ready();
        let mut due = Vec::new();
        for (_, window) in self.windows.iter_mut() {
            match window.frame_due {
                Some(at) if at <= now => {
                    window.frame_due = None;
                    window.host.frame_owed = false;
                    due.push(window.surface().clone());
                }
                Some(_) => {}
                None if wants_frame(window.surface()) => {
                    window.frame_due = Some(now + patience(window, connected));
                }
                None => {}
            }
        }
        let time = u32::try_from(self.started.elapsed().as_millis() & 0xffff_ffff).unwrap_or(0);
        for surface in due {
            self.send_frames(&surface, time);
        }
    }

    fn send_frames(&mut self, surface: &WlSurface, time_ms: u32) {
        self.presented = self.presented.wrapping_add(1);
        let mut feedback = OutputPresentationFeedback::new(&self.output);
        take_presentation_feedback_surface_tree(
            surface,
            &mut feedback,
            |_, _| Some(self.output.clone()),
            |_, _| Kind::empty(),
        );
        let refresh = self
            .output
            .current_mode()
            .and_then(|mode| u64::try_from(mode.refresh).ok())
            .and_then(|millihertz| 1_000_000_000_000_u64.checked_div(millihertz))
            .map_or(Refresh::Unknown, |nanoseconds| {
                Refresh::fixed(Duration::from_nanos(nanoseconds))
            });
        let clock = Clock::<Monotonic>::new();
        feedback.presented(clock.now(), refresh, self.presented, Kind::Vsync);
        send_frames_surface_tree(
            surface,
            &self.output,
            Duration::from_millis(u64::from(time_ms)),
            None,
            |_, _| Some(self.output.clone()),
        );
    }
}

/// How long a window's app waits when the host does not speak first.
fn patience(window: &Window, connected: bool) -> Duration {
    let nothing_to_show = connected && window.host.shown && !window.dirty;
    if nothing_to_show && !window.host.frame_owed {
        IDLE_FRAME
    } else {
        FALLBACK
    }
}

fn wants_frame(surface: &WlSurface) -> bool {
    let mut wants = false;
    with_surfaces_surface_tree(surface, |_, states| {
        let mut guard = states.cached_state.get::<SurfaceAttributes>();
        wants |= !guard.current().frame_callbacks.is_empty();
    });
    wants
}
