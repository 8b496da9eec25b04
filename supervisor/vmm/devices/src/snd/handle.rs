//! Who hears and who may be heard, decided from outside while the guest runs.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::host::Host;
use crate::lock;

/// What is new since the device looked.
#[derive(Default)]
pub(super) struct Mail {
    pub(super) speaker: Option<Box<dyn Host>>,
    /// Somebody to record, or nobody any more.
    pub(super) microphone: Option<Option<Box<dyn Host>>>,
}

pub(super) struct Mailbox {
    pub(super) mail: Mutex<Mail>,
    pub(super) wake: EventFd,
}

impl Mailbox {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            mail: Mutex::default(),
            wake: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })
    }

    fn post(&self, change: impl FnOnce(&mut Mail)) {
        change(&mut lock(&self.mail));
        // Fails only when the counter is full, and then the loop is awake.
        let _ = self.wake.write(1);
    }
}

/// Changes what is at the other end of a running device, from any thread.
#[derive(Clone)]
pub struct SoundHandle(pub(super) Arc<Mailbox>);

impl fmt::Debug for SoundHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SoundHandle")
            .finish_non_exhaustive()
    }
}

impl SoundHandle {
    /// Plays to somebody else from now on: a mixer that was started anew. What the old one has not heard is played again.
    pub fn attach_speaker(&self, host: Box<dyn Host>) {
        self.0.post(|mail| mail.speaker = Some(host));
    }

    /// Lets the guest record from `host`, in place of whoever it recorded from. Only for a device that can record.
    pub fn grant(&self, host: Box<dyn Host>) {
        self.0.post(|mail| mail.microphone = Some(Some(host)));
    }

    /// Takes the grant back: whatever the device does next, it gives the guest silence, also in place of samples that it
    /// had heard already; and nothing of the host stays open.
    pub fn revoke(&self) {
        self.0.post(|mail| mail.microphone = Some(None));
    }
}
