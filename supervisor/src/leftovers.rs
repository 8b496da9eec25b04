//! Descriptors that whoever started us left open. They are nobody's business here, and less in what we start.
#![expect(unsafe_code, reason = "descriptors without an owner have only numbers")]

use std::io;

/// First number after standard input, output and error.
const FIRST: u32 = 3;

/// Keeps every descriptor above standard error from what will be started. To be called before anything is opened.
///
/// # Errors
/// The kernel's, of which one before 5.11 has none.
pub(crate) fn keep_from_children() -> io::Result<()> {
    // SAFETY: sets a flag of descriptors and closes none.
    let result =
        unsafe { libc::close_range(FIRST, u32::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
