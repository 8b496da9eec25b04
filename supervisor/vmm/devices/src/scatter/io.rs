//! Moves bytes between guest memory and descriptors of the host, in one system call and without a copy.
//!
//! The kernel is given the addresses of guest memory as plain pointers; no Rust reference to memory that a vCPU
//! may be writing exists at any time. Short counts are normal: callers go on with [`View::after`].
#![expect(
    unsafe_code,
    reason = "vectored system calls on guest memory, to which safe slices must not exist"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

use vm_memory::{GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

use super::{MAX_SEGMENTS, View};

/// Most ranges of the host's own memory that go before a view.
const MAX_PREFIX: usize = 2;

/// Ranges per call: every segment, a few more for those that straddle two regions of guest memory, and the prefix.
const MAX_RANGES: usize = MAX_SEGMENTS + 16 + MAX_PREFIX;

/// Reads from `file` at `offset`; 0 is its end.
///
/// # Errors
/// The kernel's.
pub fn read_at(
    file: &impl AsFd,
    memory: &GuestMemoryMmap,
    into: View<'_>,
    offset: u64,
) -> io::Result<usize> {
    let offset = file_offset(offset)?;
    call(file.as_fd(), memory, into, |file, ranges| {
        // SAFETY: `ranges` are valid for writes of their lengths while `memory` is borrowed, see `call`.
        unsafe { libc::preadv(file, ranges.as_ptr(), count(ranges), offset) }
    })
}

/// Writes to `file` at `offset`.
///
/// # Errors
/// The kernel's.
pub fn write_at(
    file: &impl AsFd,
    memory: &GuestMemoryMmap,
    from: View<'_>,
    offset: u64,
) -> io::Result<usize> {
    let offset = file_offset(offset)?;
    call(file.as_fd(), memory, from, |file, ranges| {
        // SAFETY: `ranges` are valid for reads of their lengths while `memory` is borrowed, see `call`.
        unsafe { libc::pwritev(file, ranges.as_ptr(), count(ranges), offset) }
    })
}

/// Receives from a stream socket without ever waiting; 0 is its end. Descriptors sent along are dropped by the kernel.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] when there is nothing yet, or the kernel's.
pub fn receive(socket: &impl AsFd, memory: &GuestMemoryMmap, into: View<'_>) -> io::Result<usize> {
    call(socket.as_fd(), memory, into, |socket, ranges| {
        let mut message = message(ranges);
        // SAFETY: `message` names only `ranges`, valid for writes while `memory` is borrowed, see `call`.
        unsafe { libc::recvmsg(socket, &raw mut message, libc::MSG_DONTWAIT) }
    })
}

/// Sends to a stream socket without ever waiting and without a signal.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] when there is no room, [`io::ErrorKind::BrokenPipe`] when nobody reads, or the kernel's.
pub fn send(socket: &impl AsFd, memory: &GuestMemoryMmap, from: View<'_>) -> io::Result<usize> {
    call(socket.as_fd(), memory, from, |socket, ranges| {
        let message = message(ranges);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: `message` names only `ranges`, valid for reads while `memory` is borrowed, see `call`.
        unsafe { libc::sendmsg(socket, &raw const message, flags) }
    })
}

/// Like [`send`], with bytes of ours in front: what was checked must not be read from guest memory a second time.
///
/// # Errors
/// Like [`send`]. A packet socket takes everything or nothing.
pub fn send_after(
    socket: &impl AsFd,
    prefix: [&[u8]; MAX_PREFIX],
    memory: &GuestMemoryMmap,
    from: View<'_>,
) -> io::Result<usize> {
    call_after(socket.as_fd(), prefix, memory, from, |socket, ranges| {
        let message = message(ranges);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: `message` names only `ranges`, valid for reads while `memory` and `prefix` are borrowed, see `call`.
        unsafe { libc::sendmsg(socket, &raw const message, flags) }
    })
}

/// Writes to a descriptor that takes a frame per call, bytes of ours in front.
///
/// # Errors
/// The kernel's.
pub fn write_after(
    file: &impl AsFd,
    prefix: [&[u8]; MAX_PREFIX],
    memory: &GuestMemoryMmap,
    from: View<'_>,
) -> io::Result<usize> {
    call_after(file.as_fd(), prefix, memory, from, |file, ranges| {
        // SAFETY: `ranges` are valid for reads while `memory` and `prefix` are borrowed, see `call`.
        unsafe { libc::writev(file, ranges.as_ptr(), count(ranges)) }
    })
}

/// Ranges of a short view: clearing a table for the longest one costs more than such a view does.
const FEW: usize = 8;

fn call(
    descriptor: BorrowedFd<'_>,
    memory: &GuestMemoryMmap,
    view: View<'_>,
    action: impl FnMut(i32, &[libc::iovec]) -> isize,
) -> io::Result<usize> {
    call_after(descriptor, [&[]; MAX_PREFIX], memory, view, action)
}

/// Runs `action` on the host addresses of a view, again when a signal interrupted it.
///
/// The ranges given to `action` lie in guest memory mappings of the stated lengths, which stay mapped while
/// `memory` is borrowed; the view was checked when it was loaded, and is looked up again here.
///
/// `action` may write to the ranges of the view only; those of `prefix` come first and are read-only.
fn call_after(
    descriptor: BorrowedFd<'_>,
    prefix: [&[u8]; MAX_PREFIX],
    memory: &GuestMemoryMmap,
    view: View<'_>,
    action: impl FnMut(i32, &[libc::iovec]) -> isize,
) -> io::Result<usize> {
    if view.segments.len().saturating_add(MAX_PREFIX) < FEW {
        call_with::<FEW>(descriptor, prefix, memory, view, action)
    } else {
        call_with::<MAX_RANGES>(descriptor, prefix, memory, view, action)
    }
}

/// [`call_after`] with room for `N` ranges; what does not fit is not moved.
fn call_with<const N: usize>(
    descriptor: BorrowedFd<'_>,
    prefix: [&[u8]; MAX_PREFIX],
    memory: &GuestMemoryMmap,
    view: View<'_>,
    mut action: impl FnMut(i32, &[libc::iovec]) -> isize,
) -> io::Result<usize> {
    let empty = libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    };
    let mut ranges = [empty; N];
    let mut used = 0_usize;
    let own = prefix.into_iter().filter(|part| !part.is_empty());
    for (place, part) in ranges.iter_mut().zip(own) {
        *place = libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        };
        used = used.saturating_add(1);
    }
    for slice in slices(memory, view) {
        let slice = slice?;
        let Some(place) = ranges.get_mut(used) else {
            break;
        };
        *place = libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: slice.len(),
        };
        used = used.saturating_add(1);
    }
    let ranges = ranges.get(..used).unwrap_or_default();
    loop {
        if let Ok(count) = usize::try_from(action(descriptor.as_raw_fd(), ranges)) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// The mappings that a view lies in, in order.
pub(crate) fn slices<'a>(
    memory: &'a GuestMemoryMmap,
    view: View<'a>,
) -> impl Iterator<Item = io::Result<VolatileSlice<'a>>> {
    view.ranges().flat_map(move |(address, len)| {
        memory
            .get_slices(address, len, Permissions::ReadWrite)
            .into_iter()
            .flatten()
            .map(|slice| slice.map_err(|_| io::Error::from(io::ErrorKind::InvalidInput)))
    })
}

fn message(ranges: &[libc::iovec]) -> libc::msghdr {
    libc::msghdr {
        msg_name: ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: ranges.as_ptr().cast_mut(),
        msg_iovlen: ranges.len(),
        msg_control: ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    }
}

fn count(ranges: &[libc::iovec]) -> i32 {
    // At most MAX_RANGES.
    i32::try_from(ranges.len()).unwrap_or(0)
}

fn file_offset(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}
