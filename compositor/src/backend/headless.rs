//! No screen: frames stay in memory, paced by a timer; input comes over the bus.

use std::time::Duration;

use smithay::reexports::calloop::{
    LoopHandle,
    timer::{TimeoutAction, Timer},
};

use super::{Backend, REFRESH_MHZ, Started};
use crate::{
    geometry::{Rect, Size},
    run::App,
    scene::Frame,
};

/// Time between frames.
pub(super) const INTERVAL: Duration = Duration::from_micros(16_667);

/// The timer's handle.
#[derive(Debug)]
struct Headless {
    handle: LoopHandle<'static, App>,
}

pub(super) fn start(size: Size, handle: &LoopHandle<'static, App>) -> Started {
    Started {
        backend: Box::new(Headless {
            handle: handle.clone(),
        }),
        size,
        refresh_mhz: REFRESH_MHZ,
    }
}

impl Backend for Headless {
    fn show(&mut self, _frame: &Frame, _damage: &[Rect]) -> anyhow::Result<()> {
        presented_after_refresh(&self.handle);
        Ok(())
    }

    fn idle_frame(&mut self) {
        presented_after_refresh(&self.handle);
    }

    fn takes_injected_input(&self) -> bool {
        true
    }
}

/// Reports a frame as presented when a refresh has passed.
pub(super) fn presented_after_refresh(handle: &LoopHandle<'static, App>) {
    let timer = handle.insert_source(Timer::from_duration(INTERVAL), |_, (), app| {
        app.presented();
        TimeoutAction::Drop
    });
    if let Err(error) = timer {
        tracing::error!(%error, "cannot pace frames");
    }
}
