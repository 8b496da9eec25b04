//! Taking more than a vmm's share, and what is shared with others.

use std::sync::atomic::Ordering;

use super::policy::ThreadClass;
use super::{Outcome, SEALED, attempt, say};

/// More than any limit lets it have.
const MANY: usize = 1 << 16;

pub(super) fn explode(class: ThreadClass) {
    memory(class);
    descriptors(class);
    window_memory(class);
}

/// A mapping that no guest is large enough for.
fn memory(class: ThreadClass) {
    let access = libc::c_long::from(libc::PROT_READ | libc::PROT_WRITE);
    let kind = libc::c_long::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
    let outcome = attempt(libc::SYS_mmap, [0, 1 << 40, access, kind, -1, 0]);
    say(class.name(), "map a TiB", &outcome);
}

/// Copies of a descriptor until there are no more.
fn descriptors(class: ThreadClass) {
    let copy = [2, libc::F_DUPFD_CLOEXEC.into(), 0, 0, 0, 0];
    let mut made = Vec::new();
    let end = loop {
        match attempt(libc::SYS_fcntl, copy) {
            Outcome::Done(descriptor) if made.len() < MANY => made.push(descriptor),
            end => break end,
        }
    };
    let highest = made.iter().copied().max().unwrap_or(0);
    for descriptor in made {
        attempt(libc::SYS_close, [descriptor, 0, 0, 0, 0, 0]);
    }
    let what = format!("have descriptors above {highest}");
    say(class.name(), &what, &end);
}

/// Who shares the window memory must never fault on it.
fn window_memory(class: ThreadClass) {
    let sealed = SEALED.load(Ordering::Relaxed).into();
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    for (what, call, arguments) in [
        (
            "shrink the window memory",
            libc::SYS_ftruncate,
            [sealed, 0, 0, 0, 0, 0],
        ),
        (
            "grow the window memory",
            libc::SYS_ftruncate,
            [sealed, 1 << 40, 0, 0, 0, 0],
        ),
        (
            "unseal the window memory",
            libc::SYS_fcntl,
            [sealed, libc::F_ADD_SEALS.into(), 0, 0, 0, 0],
        ),
        (
            "punch the window memory",
            libc::SYS_fallocate,
            [sealed, punch.into(), 4096, 4096, 0, 0],
        ),
    ] {
        say(class.name(), what, &attempt(call, arguments));
    }
}
