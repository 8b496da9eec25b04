//! Waiting until the queue of changes has something to say. The only unsafe code of the broker.
#![expect(
    unsafe_code,
    reason = "the runtime takes descriptors by number and cannot check that they stay open"
)]

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::Arc,
};

use tokio::io::{Interest, unix::AsyncFd};

/// The queue as the runtime knows it; nobody can put another descriptor into its place.
#[derive(Debug)]
pub(super) struct Numbered(Arc<OwnedFd>);

impl AsRawFd for Numbered {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Has the runtime watch for readability. Must be called in a runtime.
pub(super) fn watch(queue: Arc<OwnedFd>) -> io::Result<AsyncFd<Numbered>> {
    // SAFETY: an `OwnedFd` behind an `Arc` is one open descriptor, the same one each time, for as long as `Numbered` holds
    // it, and `Numbered` lets nobody replace it. `AsyncFd` ends its registration before it drops the value.
    let watched = unsafe { AsyncFd::register_with_interest(Numbered(queue), Interest::READABLE) };
    watched.map_err(io::Error::from)
}
