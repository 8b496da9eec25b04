//! The last words of a thread whose system call was blocked: one line in the VM's log, then the process ends by SIGSYS.
//!
//! The kernel says it too, in its own log, where that is switched on; a user cannot count on reading it.
#![expect(
    unsafe_code,
    reason = "a signal handler reads the registers that the kernel saved"
)]

use std::cell::Cell;
use std::io;

use super::policy::{self, ThreadClass};

thread_local! {
    /// What the handler calls the thread it runs on.
    static CLASS: Cell<Option<ThreadClass>> = const { Cell::new(None) };
}

/// Notes the class of this thread for the report.
pub(super) fn name_thread(class: ThreadClass) {
    CLASS.set(Some(class));
}

/// Installs the handler, for all threads of the process.
pub(super) fn report() -> io::Result<()> {
    handle(on_blocked)
}

/// Handler of SIGSYS.
type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

fn handle(handler: Handler) -> io::Result<()> {
    // SAFETY: all zeroes is a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    // Without SA_NODEFER: the signal is blocked while the handler runs, and a second one kills.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler is a function of the right kind and only does what a handler may.
    let result = unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A blocked call, from the registers in which it was made.
#[derive(Clone, Copy, Debug)]
struct Call {
    number: i64,
    /// Its second argument: what an `ioctl`, a `futex` or an `fcntl` was to do.
    second: i64,
}

impl Call {
    /// # Safety
    /// `context` is what the kernel gave to a handler of SIGSYS.
    unsafe fn of(context: *mut libc::c_void) -> Self {
        let context = context.cast::<libc::ucontext_t>();
        let register = |index: libc::c_int| {
            let index = usize::try_from(index).unwrap_or(0);
            // SAFETY: the caller gave us the context, which lives on this stack until the handler returns.
            unsafe { (*context).uc_mcontext.gregs.get(index).copied() }.unwrap_or(0)
        };
        Self {
            number: register(libc::REG_RAX),
            second: register(libc::REG_RSI),
        }
    }
}

extern "C" fn on_blocked(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    #[cfg(feature = "escape-probe")]
    if super::probe::caught() {
        return;
    }
    // SAFETY: the kernel calls this, and only for SIGSYS.
    let call = unsafe { Call::of(context) };
    let mut line = Line::default();
    // A destructor-free cell that was set before the filter was: reading it allocates nothing.
    let class = CLASS.get().map_or("unknown", ThreadClass::name);
    line.push(b"casemate-vmm: a ");
    line.push(class.as_bytes());
    line.push(b" thread made a system call that is not allowed, number ");
    line.push_number(call.number.cast_unsigned(), 10);
    if let Some(name) = policy::name_of(call.number) {
        line.push(b" (");
        line.push(name.as_bytes());
        line.push(b")");
    }
    line.push(b", second argument 0x");
    line.push_number(call.second.cast_unsigned(), 16);
    line.push(b"; the VM is ended\n");
    // Nothing to be done when there is no log.
    let _ = rustix::io::write(rustix::stdio::stderr(), line.bytes());
    // Not allowed either, and SIGSYS is blocked in its own handler: the kernel ends the process by it.
    // SAFETY: a system call that does not exist.
    unsafe { libc::syscall(NO_CALL) };
}

/// The number of no system call.
const NO_CALL: libc::c_long = 0xffff;

/// A line of bounded length, made without an allocator.
struct Line {
    bytes: [u8; 200],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; 200],
            len: 0,
        }
    }
}

impl Line {
    fn push(&mut self, part: &[u8]) {
        for byte in part {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = *byte;
                self.len += 1;
            }
        }
    }

    fn push_number(&mut self, mut number: u64, base: u64) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut digits = [0; 20];
        let mut first = digits.len();
        loop {
            first -= 1;
            let digit = usize::try_from(number % base).unwrap_or(0);
            digits[first] = DIGITS[digit];
            number /= base;
            if number == 0 {
                break;
            }
        }
        self.push(&digits[first..]);
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_hold_what_fits() {
        let mut line = Line::default();
        line.push(b"a ");
        line.push_number(0, 10);
        line.push(b" ");
        line.push_number(u64::MAX, 10);
        line.push(b" ");
        line.push_number(0xae80, 16);
        assert_eq!(line.bytes(), b"a 0 18446744073709551615 ae80");
        line.push(&[b'x'; 300]);
        assert_eq!(line.bytes().len(), 200);
    }
}
