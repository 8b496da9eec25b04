//! The pointer: the host's place in a window's content, to the app's surface under it, subsurfaces included.

use casemate_window_wire::{CursorShape, ToHost, WindowId};
use smithay::{
    backend::input::{Axis, AxisSource, ButtonState},
    desktop::{WindowSurfaceType, utils::under_from_surface_tree},
    input::pointer::{AxisFrame, ButtonEvent, CursorIcon, CursorImageStatus, MotionEvent},
    reexports::wayland_server::protocol::wl_surface::WlSurface,
    utils::{IsAlive as _, Logical, Point, SERIAL_COUNTER},
};

use crate::{agent::Agent, canvas};

/// Where the pointer is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PointerPlace {
    /// In the space of the toplevel's content.
    at: Point<f64, Logical>,
    time_ms: u32,
}

/// A surface and where its corner is, in the space of the toplevel's content.
type Focus = (WlSurface, Point<f64, Logical>);

impl Agent {
    /// The pointer entered or moved in a window.
    pub(crate) fn pointer_motion(&mut self, id: WindowId, x: i32, y: i32, time_ms: u32) {
        let inside = Point::from((fixed(x), fixed(y)));
        let at = self.windows.origin(id).to_f64() + inside;
        let focus = self.surface_under(id, inside);
        self.pointer_at = Some(PointerPlace { at, time_ms });
        self.move_pointer(focus, at, time_ms);
    }

    fn surface_under(&self, id: WindowId, inside: Point<f64, Logical>) -> Option<Focus> {
        let window = self.windows.get(id)?;
        let geometry = canvas::geometry(window.surface())?;
        // The content begins inside of the surface, past the shadow.
        let corner = self.windows.origin(id) - geometry.loc;
        let (surface, place) = under_from_surface_tree(
            window.surface(),
            inside + geometry.loc.to_f64(),
            (0, 0),
            WindowSurfaceType::ALL,
        )?;
        Some((surface, (corner + place).to_f64()))
    }

    fn move_pointer(&mut self, focus: Option<Focus>, location: Point<f64, Logical>, time: u32) {
        let Some(pointer) = self.seat.get_pointer() else {
            return;
        };
        let event = MotionEvent {
            location,
            serial: SERIAL_COUNTER.next_serial(),
            time,
        };
        pointer.motion(self, focus, &event);
        pointer.frame(self);
    }

    /// A button over the window of the last motion.
    pub(crate) fn pointer_button(&mut self, code: u16, pressed: bool, serial: u32, time: u32) {
        let Some(pointer) = self.seat.get_pointer() else {
            return;
        };
        let ours = SERIAL_COUNTER.next_serial();
        self.serials.record(ours, serial, pressed);
        let button = u32::from(code);
        let down = self.buttons_down.contains(&button);
        if pressed == down {
            // Down twice, or up without down: nothing that an app could make sense of.
            return;
        }
        if pressed {
            self.buttons_down.push(button);
        } else {
            self.buttons_down.retain(|held| *held != button);
        }
        let event = ButtonEvent {
            serial: ours,
            time,
            button,
            state: if pressed {
                ButtonState::Pressed
            } else {
                ButtonState::Released
            },
        };
        pointer.button(self, &event);
        pointer.frame(self);
    }

    /// Scrolling: in 1/256 pixel, and in 1/120 of a wheel's click where it was a wheel.
    pub(crate) fn pointer_axis(&mut self, value: (i32, i32), clicks: (i32, i32), time: u32) {
        let Some(pointer) = self.seat.get_pointer() else {
            return;
        };
        let wheel = clicks != (0, 0);
        let mut frame = AxisFrame::new(time).source(if wheel {
            AxisSource::Wheel
        } else {
            AxisSource::Finger
        });
        let axes = [
            (Axis::Horizontal, value.0, clicks.0),
            (Axis::Vertical, value.1, clicks.1),
        ];
        for (axis, value, clicks) in axes {
            if clicks != 0 {
                frame = frame.v120(axis, clicks);
            }
            if value != 0 {
                frame = frame.value(axis, fixed(value));
            } else if !wheel {
                frame = frame.stop(axis);
            }
        }
        pointer.axis(self, frame);
        pointer.frame(self);
    }

    /// The pointer left our windows. Buttons still down are released here: the host does not tell.
    pub(crate) fn leave_pointer(&mut self) {
        let Some(place) = self.pointer_at.take() else {
            return;
        };
        let Some(pointer) = self.seat.get_pointer() else {
            return;
        };
        pointer.unset_grab(self, SERIAL_COUNTER.next_serial(), place.time_ms);
        self.move_pointer(None, place.at, place.time_ms);
        for button in std::mem::take(&mut self.buttons_down) {
            let event = ButtonEvent {
                serial: SERIAL_COUNTER.next_serial(),
                time: place.time_ms,
                button,
                state: ButtonState::Released,
            };
            pointer.button(self, &event);
        }
    }

    /// An app chose a pointer shape.
    pub(crate) fn cursor_changed(&mut self, image: &CursorImageStatus) {
        let shape = match image {
            CursorImageStatus::Hidden => CursorShape::Hidden,
            CursorImageStatus::Named(icon) => shape(*icon),
            // The host draws no picture of a VM outside of its windows; apps without shapes get the arrow.
            CursorImageStatus::Surface(surface) if surface.alive() => CursorShape::Default,
            CursorImageStatus::Surface(_) => CursorShape::Hidden,
        };
        if shape != self.cursor {
            self.cursor = shape;
            self.tell(&ToHost::Cursor { shape });
        }
    }
}

/// 24.8 fixed point.
fn fixed(value: i32) -> f64 {
    f64::from(value) / 256.0
}

fn shape(icon: CursorIcon) -> CursorShape {
    match icon {
        CursorIcon::Text | CursorIcon::VerticalText => CursorShape::Text,
        CursorIcon::Pointer => CursorShape::Pointer,
        CursorIcon::Wait | CursorIcon::Progress => CursorShape::Wait,
        CursorIcon::Crosshair | CursorIcon::Cell => CursorShape::Crosshair,
        CursorIcon::Move | CursorIcon::AllScroll | CursorIcon::Grab | CursorIcon::Grabbing => {
            CursorShape::Move
        }
        CursorIcon::NResize
        | CursorIcon::SResize
        | CursorIcon::NsResize
        | CursorIcon::RowResize => CursorShape::ResizeNs,
        CursorIcon::EResize
        | CursorIcon::WResize
        | CursorIcon::EwResize
        | CursorIcon::ColResize => CursorShape::ResizeEw,
        CursorIcon::NeResize | CursorIcon::SwResize | CursorIcon::NeswResize => {
            CursorShape::ResizeNesw
        }
        CursorIcon::NwResize | CursorIcon::SeResize | CursorIcon::NwseResize => {
            CursorShape::ResizeNwse
        }
        CursorIcon::NotAllowed | CursorIcon::NoDrop => CursorShape::NotAllowed,
        _ => CursorShape::Default,
    }
}
