//! Descriptors that the runtime watches for us until they are readable. The only unsafe code of the supervisor.
#![expect(
    unsafe_code,
    reason = "the runtime takes descriptors by number and cannot check that they stay open"
)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
};

use casemate_link::PacketSocket;
use tokio::io::{Interest, unix::AsyncFd};

/// A type that owns one descriptor, keeps it open while it lives, and always gives out that one.
pub(crate) trait OneDescriptor: AsFd {}

impl OneDescriptor for OwnedFd {}

impl OneDescriptor for PacketSocket {}

/// What the runtime is given; nobody can reach in and replace the descriptor.
#[derive(Debug)]
pub(crate) struct Numbered<T>(T);

impl<T: OneDescriptor> AsRawFd for Numbered<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl<T> Numbered<T> {
    pub(crate) fn get(&self) -> &T {
        &self.0
    }
}

/// A descriptor that the runtime watches.
pub(crate) type Watched<T> = AsyncFd<Numbered<T>>;

/// Has the runtime watch for readability.
pub(crate) fn watch<T: OneDescriptor>(inner: T) -> io::Result<Watched<T>> {
    // SAFETY: `OneDescriptor` is implemented for `OwnedFd` and `PacketSocket`, which own one open descriptor for as long
    // as they live and answer with that same one each time. `Numbered` gives no mutable access, so it cannot be swapped,
    // and `AsyncFd` drops its registration before the value.
    let watched = unsafe { AsyncFd::register_with_interest(Numbered(inner), Interest::READABLE) };
    watched.map_err(io::Error::from)
}
