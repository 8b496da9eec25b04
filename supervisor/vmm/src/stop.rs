//! The one way in which a VM ends: somebody asks, the first reason stays, the main loop wakes up.

use std::sync::OnceLock;

use casemate_devices::event_loop::EventLoop;
use casemate_vmm_control::StopReason;

/// Shared by everything that can end the VM.
#[derive(Debug)]
pub(crate) struct Stop {
    reason: OnceLock<StopReason>,
    main: EventLoop,
}

impl Stop {
    /// Stopping means ending `main`.
    pub(crate) fn new(main: EventLoop) -> Self {
        Self {
            reason: OnceLock::new(),
            main,
        }
    }

    /// Asks, from any thread. Later reasons are ignored.
    pub(crate) fn ask(&self, reason: StopReason) {
        if self.reason.set(reason).is_ok() {
            self.main.stop();
        }
    }

    /// The reason, once somebody asked.
    pub(crate) fn reason(&self) -> Option<StopReason> {
        self.reason.get().copied()
    }
}
