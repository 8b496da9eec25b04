//! The screen itself: seat by libseat, output by KMS, input by libinput. No privileges but those of the seat.

use std::path::PathBuf;

use anyhow::Context as _;
use smithay::{
    backend::{
        drm::{DrmDevice, DrmDeviceFd, DrmEvent},
        session::{Event as SeatEvent, Session as _, libseat::LibSeatSession},
        udev,
    },
    reexports::{calloop::LoopHandle, input::Libinput, rustix::fs::OFlags},
    utils::DeviceFd,
};

use super::{Backend, Started, kms_input, kms_screen::Screen, pacing::presented_after_refresh};
use crate::{geometry::Rect, run::App, scene::Frame};

/// Seat, screen and devices.
struct Kms {
    seat: LibSeatSession,
    screen: Screen,
    input: Libinput,
    active: bool,
    handle: LoopHandle<'static, App>,
}

impl std::fmt::Debug for Kms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kms")
            .field("seat", &self.seat.seat())
            .field("active", &self.active)
            .finish_non_exhaustive()
    }
}

pub(super) fn start(handle: &LoopHandle<'static, App>) -> anyhow::Result<Started> {
    let (mut seat, seat_events) = LibSeatSession::new().context("no seat")?;
    let name = seat.seat();
    let mut refused = Vec::new();
    for card in cards(&name)? {
        match open(&mut seat, &card) {
            Ok((screen, device_events)) => {
                tracing::info!(card = %card.display(), mode = %screen.describe(), "screen");
                handle
                    .insert_source(device_events, |event, _, app| match event {
                        DrmEvent::VBlank(_) => app.presented(),
                        DrmEvent::Error(error) => tracing::error!(%error, "screen"),
                    })
                    .map_err(|error| anyhow::anyhow!("cannot watch the screen: {error}"))?;
                let input = kms_input::start(&seat, handle)?;
                handle
                    .insert_source(seat_events, |event, (), app| match event {
                        SeatEvent::PauseSession => app.seat_changed(false),
                        SeatEvent::ActivateSession => app.seat_changed(true),
                    })
                    .map_err(|error| anyhow::anyhow!("cannot watch the seat: {error}"))?;
                let (size, refresh_mhz) = (screen.size(), screen.refresh_mhz());
                return Ok(Started {
                    backend: Box::new(Kms {
                        seat,
                        screen,
                        input,
                        active: true,
                        handle: handle.clone(),
                    }),
                    size,
                    refresh_mhz,
                });
            }
            Err(error) => refused.push(format!("{}: {error:#}", card.display())),
        }
    }
    anyhow::bail!("no usable screen on seat {name} ({})", refused.join("; "))
}

/// The seat's graphics cards, the primary one first.
fn cards(seat: &str) -> anyhow::Result<Vec<PathBuf>> {
    let primary = udev::primary_gpu(seat).context("cannot ask udev for graphics cards")?;
    let mut all = udev::all_gpus(seat).context("cannot ask udev for graphics cards")?;
    all.retain(|card| Some(card) != primary.as_ref());
    Ok(primary.into_iter().chain(all).collect())
}

fn open(
    seat: &mut LibSeatSession,
    card: &std::path::Path,
) -> anyhow::Result<(Screen, smithay::backend::drm::DrmDeviceNotifier)> {
    let fd = seat
        .open(
            card,
            OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK,
        )
        .map_err(|error| anyhow::anyhow!("the seat does not give it: {error}"))?;
    let fd = DrmDeviceFd::new(DeviceFd::from(fd));
    let (device, events) = DrmDevice::new(fd, true).context("not a mode-setting device")?;
    Ok((Screen::new(device)?, events))
}

impl Backend for Kms {
    fn show(&mut self, frame: &Frame, damage: &[Rect]) -> anyhow::Result<()> {
        self.screen.show(frame, damage)
    }

    fn idle_frame(&mut self) {
        presented_after_refresh(&self.handle);
    }

    fn active(&self) -> bool {
        self.active
    }

    fn switch_terminal(&mut self, terminal: i32) {
        if let Err(error) = self.seat.change_vt(terminal) {
            tracing::warn!(%error, terminal, "cannot switch");
        }
    }

    fn set_active(&mut self, active: bool) -> anyhow::Result<()> {
        self.active = active;
        if active {
            if self.input.resume().is_err() {
                tracing::error!("input devices do not come back");
            }
            self.screen.resume()?;
        } else {
            self.input.suspend();
            self.screen.pause();
        }
        Ok(())
    }
}
