//! Files in our own directories that are opened by name again and again: whatever somebody has put in their place is
//! refused, and never followed, waited for or written to.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::OFlags;

/// Opens a plain file of our own for reading and writing, made with mode 0600 when there is none.
///
/// # Errors
/// The kernel's; also when there is something else: a link, a FIFO, a directory, a device, a file with a second name, a
/// file of somebody else.
pub(crate) fn open(path: &Path, append: bool) -> io::Result<File> {
    // Not blocking: a FIFO without a reader would keep us waiting. It means nothing for a plain file.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .write(!append)
        .append(append)
        .create(true)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)?;
    let metadata = file.metadata()?;
    let ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if !metadata.is_file() || metadata.nlink() != 1 || !ours {
        return Err(io::Error::other(format!(
            "{} is not a plain file of ours with one name; remove it",
            path.display()
        )));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_file_is_made_once_and_then_appended_to_or_rewritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for (append, expected) in [(true, "a"), (true, "aa"), (false, "aa"), (true, "aaa")] {
            let mut file = open(&path, append).unwrap();
            file.write_all(b"a").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        }
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_was_planted_is_refused_and_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let link = dir.path().join("link");
        symlink(&victim, &link).unwrap();
        let dangling = dir.path().join("dangling");
        symlink(dir.path().join("made"), &dangling).unwrap();
        let hard = dir.path().join("hard");
        fs::hard_link(&victim, &hard).unwrap();
        let fifo = dir.path().join("fifo");
        let mode = rustix::fs::Mode::from(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        for path in [&link, &dangling, &hard, &fifo, &folder] {
            for append in [true, false] {
                open(path, append).unwrap_err();
            }
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(!dir.path().join("made").exists());
    }
}
