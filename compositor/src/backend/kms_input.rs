//! Input devices of the seat, by libinput.

use anyhow::Context as _;
use smithay::{
    backend::{
        input::{
            AbsolutePositionEvent as _, Axis, ButtonState, InputEvent as Event, KeyState,
            KeyboardKeyEvent as _, PointerAxisEvent as _, PointerButtonEvent as _,
            PointerMotionEvent as _,
        },
        libinput::{LibinputInputBackend, LibinputSessionInterface},
        session::{Session as _, libseat::LibSeatSession},
    },
    reexports::{calloop::LoopHandle, input::Libinput},
};

use crate::{input::InputEvent, run::App};

/// Pixels of a wheel click where the device names no distance.
const CLICK: f64 = 15.0;

/// xkb numbers keys from 8.
const XKB_OFFSET: u32 = 8;

pub(super) fn start(
    seat: &LibSeatSession,
    handle: &LoopHandle<'static, App>,
) -> anyhow::Result<Libinput> {
    let mut context = Libinput::new_with_udev(LibinputSessionInterface::from(seat.clone()));
    context
        .udev_assign_seat(&seat.seat())
        .map_err(|()| anyhow::anyhow!("libinput refuses seat {}", seat.seat()))
        .context("no input devices")?;
    handle
        .insert_source(
            LibinputInputBackend::new(context.clone()),
            |event, (), app| {
                if let Some(event) = translate(event, app) {
                    app.input(event);
                }
            },
        )
        .map_err(|error| anyhow::anyhow!("cannot watch input devices: {error}"))?;
    Ok(context)
}

fn translate(event: Event<LibinputInputBackend>, app: &App) -> Option<InputEvent> {
    match event {
        Event::Keyboard { event } => {
            let code = event.key_code().raw().checked_sub(XKB_OFFSET)?;
            Some(InputEvent::Key {
                code: u16::try_from(code).ok()?,
                pressed: event.state() == KeyState::Pressed,
            })
        }
        Event::PointerMotion { event } => Some(InputEvent::MotionBy {
            dx: event.delta_x(),
            dy: event.delta_y(),
        }),
        Event::PointerMotionAbsolute { event } => {
            let size = app.output();
            Some(InputEvent::MotionTo {
                x: event.x_transformed(size.w),
                y: event.y_transformed(size.h),
            })
        }
        Event::PointerButton { event } => Some(InputEvent::Button {
            code: u16::try_from(event.button_code()).ok()?,
            pressed: event.state() == ButtonState::Pressed,
        }),
        Event::PointerAxis { event } => {
            let clicks = |axis| event.amount_v120(axis).unwrap_or(0.0);
            let pixels = |axis| {
                event
                    .amount(axis)
                    .unwrap_or_else(|| clicks(axis) * CLICK / 120.0)
            };
            #[expect(
                clippy::cast_possible_truncation,
                reason = "wheel clicks are small; the cast saturates"
            )]
            let whole = |value: f64| value as i32;
            Some(InputEvent::Axis {
                x: pixels(Axis::Horizontal),
                y: pixels(Axis::Vertical),
                x120: whole(clicks(Axis::Horizontal)),
                y120: whole(clicks(Axis::Vertical)),
            })
        }
        _ => None,
    }
}
