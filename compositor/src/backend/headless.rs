//! No screen: frames stay in memory, paced by a timer; input comes over the bus.

use smithay::reexports::calloop::LoopHandle;

use super::{Backend, REFRESH_MHZ, Started, pacing::presented_after_refresh};
use crate::{
    geometry::{Rect, Size},
    run::App,
    scene::Frame,
};

/// The loop whose timer paces frames.
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
