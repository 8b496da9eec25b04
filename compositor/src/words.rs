//! Words that every module uses: which VM, which window, what time.

use std::time::Duration;

use casemate_window_wire::WindowId;

/// One attachment of a VM. Never reused, so that a late message cannot reach another VM of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct VmKey(pub(crate) u64);

/// One window of one VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct WindowKey {
    pub(crate) vm: VmKey,
    pub(crate) id: WindowId,
}

impl WindowKey {
    pub(crate) fn new(vm: VmKey, id: WindowId) -> Self {
        Self { vm, id }
    }
}

/// Time since the compositor started; given to everything that needs it, so that tests hold the clock.
pub(crate) type Time = Duration;

/// The time as guests see it: milliseconds, wrapping.
pub(crate) fn millis(time: Time) -> u32 {
    u32::try_from(time.as_millis() & u128::from(u32::MAX)).unwrap_or(0)
}
