//! Attacks on our own jail, for the test of it: what a guest that has taken over a thread of this process might try
//! first. Only in builds with the feature `escape-probe`, which are for `tests/toy/escape.rs` and nobody else, and there
//! only when [`WANTED`] is in the environment.
//!
//! Each prints a line on standard error: who tried what, and what came of it: `blocked` by the filter, `error N` by a
//! wall behind it, or `done`.
#![expect(
    unsafe_code,
    reason = "the point is to make system calls that nobody should make"
)]

mod attacks;
mod bombs;
mod sweep;
mod walls;

use std::cell::Cell;
use std::ffi::CStr;
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use super::policy::{self, ThreadClass};

/// In front of every line, and in no other build of this program.
const MARK: &str = "escape-probe:";

/// Which class of thread makes a blocked call for good once all have tried everything.
const LAST: &str = "CASEMATE_PROBE_LAST";

/// Set when anything is to be tried at all.
const WANTED: &str = "CASEMATE_PROBE";

fn is_wanted() -> bool {
    std::env::var_os(WANTED).is_some()
}

thread_local! {
    /// Whether this thread tries something now, and whether it was blocked.
    static TRYING: Cell<bool> = const { Cell::new(false) };
    static BLOCKED: Cell<bool> = const { Cell::new(false) };
}

/// One thread at a time, so that lines stay whole.
static TURN: Mutex<()> = Mutex::new(());

/// The window memory: the only descriptor with seals.
static SEALED: AtomicI32 = AtomicI32::new(-1);

/// The number of this process, for threads that may not ask for it.
static OWN: AtomicU32 = AtomicU32::new(0);

/// Called by the handler of SIGSYS: whether the call was only a try.
pub(super) fn caught() -> bool {
    if TRYING.get() {
        BLOCKED.set(true);
    }
    TRYING.get()
}

enum Outcome {
    Blocked,
    Error(i32),
    Done(i64),
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Blocked => formatter.write_str("blocked"),
            Self::Error(errno) => write!(formatter, "error {errno}"),
            Self::Done(_) => formatter.write_str("done"),
        }
    }
}

type Arguments = [libc::c_long; 6];

/// What is tried, with which system call.
type Attack = (&'static str, libc::c_long, Arguments);

fn attempt(call: libc::c_long, arguments: Arguments) -> Outcome {
    let [a, b, c, d, e, f] = arguments;
    TRYING.set(true);
    BLOCKED.set(false);
    // SAFETY: none, by intention; what is tried is chosen so that this process survives what is allowed.
    let result = unsafe { libc::syscall(call, a, b, c, d, e, f) };
    let errno = std::io::Error::last_os_error().raw_os_error();
    TRYING.set(false);
    match (BLOCKED.get(), result, errno) {
        (true, ..) => Outcome::Blocked,
        (false, -1, Some(errno)) => Outcome::Error(errno),
        (false, result, _) => Outcome::Done(result),
    }
}

fn say(who: &str, what: &str, outcome: &Outcome) {
    // Without a log there is nothing to test.
    let _ = writeln!(std::io::stderr(), "{MARK} {who} {what}: {outcome}");
}

fn pointer<T>(to: *const T) -> libc::c_long {
    to.addr().cast_signed() as libc::c_long
}

fn text(text: &'static CStr) -> libc::c_long {
    pointer(text.as_ptr())
}

/// Behind the filter: what the other walls leave of paths, sockets and rights. Called before there is a filter.
pub(super) fn try_walls() {
    if is_wanted() {
        OWN.store(std::process::id(), Ordering::Relaxed);
        walls::attack();
    }
}

/// From a thread that has its filter, before the guest runs.
pub(crate) fn try_filter(class: ThreadClass) {
    if !is_wanted() {
        return;
    }
    let _turn = TURN.lock();
    sweep::calls(class);
    sweep::ioctls(class);
    for (what, call, arguments) in attacks::all() {
        say(class.name(), what, &attempt(call, arguments));
    }
    bombs::explode(class);
}

/// Makes a blocked call for good, from every thread of the class that [`LAST`] names, when no other tries anything.
pub(crate) fn end(class: ThreadClass) {
    if std::env::var(LAST).is_ok_and(|last| last == class.name()) {
        // SAFETY: a socket that is never made.
        unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) };
    }
}
