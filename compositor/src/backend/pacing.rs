//! Time between frames, for outputs that do not tell when a frame was shown.

use std::time::Duration;

use smithay::reexports::calloop::{
    LoopHandle,
    timer::{TimeoutAction, Timer},
};

use crate::run::App;

/// Time between frames.
const INTERVAL: Duration = Duration::from_micros(16_667);

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
