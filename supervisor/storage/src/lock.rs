//! Open-file-description locks: no volume has two writers.
//!
//! The lock belongs to the open description, so it goes with the descriptor to the vmm and ends when the last copy
//! is closed, however the processes die.

use std::{fs::File, path::Path};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};

use crate::StoreError;

/// Takes the write lock of a whole file without waiting.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the two constants are 0 and 1; libc gives them as int"
)]
pub(crate) fn lock_exclusive(file: &File, path: &Path) -> Result<(), StoreError> {
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole)) {
        Ok(_) => Ok(()),
        Err(Errno::EAGAIN | Errno::EACCES) => Err(StoreError::Locked(path.to_owned())),
        Err(errno) => Err(StoreError::io("lock", path, errno.into())),
    }
}
