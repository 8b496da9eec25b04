//! Why a copy ends early, and the number that the sender is told.

use rustix::io::Errno;

use super::header::ENDED_INSIDE;

/// How a receive ended; decides result and exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// An errno of the specification's list or of the file system.
    Errno(Errno),
    /// A directory's name error: the reference sends it with the wrong sign, and senders know that.
    Unnegated(Errno),
    /// The input ended inside an entry.
    EndedInside,
    /// Times that cannot be: the reference says nothing and exits 1.
    Silent,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Self::Errno(Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

impl Refusal {
    /// The number in the outcome, if one is sent.
    pub(super) fn code(self) -> Option<u32> {
        let number = |errno: Errno| u32::try_from(errno.raw_os_error()).unwrap_or(u32::MAX);
        match self {
            Self::Errno(errno) => Some(number(errno)),
            Self::Unnegated(errno) => Some(number(errno).wrapping_neg()),
            Self::EndedInside => Some(ENDED_INSIDE),
            Self::Silent => None,
        }
    }
}
