//! Every system call, and every ioctl that a kernel may know.

use std::sync::atomic::{AtomicBool, Ordering};

use super::policy::{self, ThreadClass};
use super::{Outcome, attempt, say};

/// Highest number of a system call that is tried.
const LAST_CALL: libc::c_long = 500;

/// Calls that do not come back to say what came of them; only tried by a class that may not make them.
const NO_RETURN: [libc::c_long; 4] = [
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigreturn,
    libc::SYS_ppoll,
];

/// What the kernel's own breakpoints in programs come back by, `uretprobe` and `uprobe`. Kernels from 6.13 on show them to
/// no filter, and end who makes the first from anywhere else by SIGILL, which is no way out.
const UNFILTERED: [libc::c_long; 2] = [335, 336];

/// Every system call with nothing but zeroes.
pub(super) fn calls(class: ThreadClass) {
    let may = |call| policy::allowed(class).any(|allowed| allowed.number == call);
    let mut names = Vec::new();
    let silent = |call| UNFILTERED.contains(&call) || (NO_RETURN.contains(&call) && may(call));
    for call in (0..=LAST_CALL).filter(|call| !silent(*call)) {
        if !matches!(attempt(call, [0; 6]), Outcome::Blocked) {
            names.push(policy::name_of(call).map_or_else(|| call.to_string(), str::to_owned));
        }
    }
    let what = format!("sweep [{}]", names.join(" "));
    say(class.name(), &what, &Outcome::Done(0));
}

/// KVM's letter (linux/kvm.h).
const KVM: u32 = 0xae;
/// Longer arguments have no ioctl of KVM.
const LONGEST: u32 = 4096;

/// Whether a class has done it: once for each is enough.
static SWEPT: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];

/// Every number without an argument in it, and KVM's with arguments of every length that there is, on no descriptor.
pub(super) fn ioctls(class: ThreadClass) {
    let place = match class {
        ThreadClass::Vcpu => 0,
        ThreadClass::Disk => 1,
        ThreadClass::Main => 2,
    };
    if SWEPT
        .get(place)
        .is_none_or(|swept| swept.swap(true, Ordering::Relaxed))
    {
        return;
    }
    let plain = 0..=0xffff_u32;
    let of_kvm = (1..=3_u32).flat_map(|direction| {
        (0..=LONGEST).step_by(8).flat_map(move |len| {
            (0..=0xff_u32).map(move |number| direction << 30 | len << 16 | KVM << 8 | number)
        })
    });
    let mut found: Vec<_> = plain
        .chain(of_kvm)
        .filter(|request| {
            let arguments = [-1, libc::c_long::from(*request), 0, 0, 0, 0];
            !matches!(attempt(libc::SYS_ioctl, arguments), Outcome::Blocked)
        })
        .map(|request| format!("{request:#x}"))
        .collect();
    found.sort();
    let what = format!("ioctls [{}]", found.join(" "));
    say(class.name(), &what, &Outcome::Done(0));
}
