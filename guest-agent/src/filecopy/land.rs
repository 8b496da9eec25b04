//! Where entries land: below one directory, whatever its owner or an earlier entry does to the tree meanwhile.
//!
//! A directory on the way is found anew from the root for each step, without following a link or entering another file
//! system. One that was moved away is not followed: what was to land in it is refused.

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Timespec, Timestamps},
    io::Errno,
};

use super::{header::Header, names::EntryName, refusal::Refusal};

/// Permission bits that are taken over.
const PERMISSIONS: u32 = 0o7777;

/// A directory that holds an entry.
#[derive(Debug)]
pub(super) enum Parent<'a> {
    /// The root itself.
    Root(BorrowedFd<'a>),
    /// One below; opened as a place only.
    Below(OwnedFd),
}

impl AsFd for Parent<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(root) => *root,
            Self::Below(directory) => directory.as_fd(),
        }
    }
}

/// A directory on the way that cannot be entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NoWay {
    /// Why.
    pub(super) errno: Errno,
    /// The component that failed, which is what the sender is told of.
    pub(super) component: Vec<u8>,
}

/// Finds the directory that holds `name`.
pub(super) fn parent<'a>(root: &'a OwnedFd, name: &EntryName) -> Result<Parent<'a>, NoWay> {
    let Some(path) = name.parent() else {
        return Ok(Parent::Root(root.as_fd()));
    };
    beneath(root.as_fd(), path, OFlags::PATH)
        .map(Parent::Below)
        .map_err(|errno| culprit(root.as_fd(), path, errno))
}

/// Opens a directory below another one: no link, no other file system on the way.
fn beneath(root: BorrowedFd<'_>, path: &[u8], access: OFlags) -> Result<OwnedFd, Errno> {
    let flags = access | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

/// Finds out which component it was: a link or a file is no directory, as the sender expects to hear.
fn culprit(root: BorrowedFd<'_>, path: &[u8], errno: Errno) -> NoWay {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut place = Parent::Root(root);
    let mut component: &[u8] = path;
    for next in path.split(|byte| *byte == b'/') {
        component = next;
        match rustix::fs::openat(&place, next, flags, Mode::empty()) {
            Ok(directory) => place = Parent::Below(directory),
            Err(errno) => {
                return NoWay {
                    errno,
                    component: next.to_owned(),
                };
            }
        }
    }
    NoWay {
        errno,
        component: component.to_owned(),
    }
}

/// A directory comes twice: made closed at first, given its mode and times after its contents.
pub(super) fn directory(parent: &Parent<'_>, base: &[u8], header: &Header) -> Result<(), Refusal> {
    match rustix::fs::mkdirat(parent, base, Mode::RWXU) {
        Ok(()) => return Ok(()),
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let made = beneath(parent.as_fd(), base, OFlags::RDONLY)
        .map_err(|errno| culprit(parent.as_fd(), base, errno).errno)?;
    rustix::fs::futimens(&made, &times(header)?)?;
    rustix::fs::fchmod(&made, Mode::from_raw_mode(header.mode & PERMISSIONS))?;
    Ok(())
}

/// A regular file that is being written.
#[derive(Debug)]
pub(super) struct FreshFile {
    file: File,
    /// Name and directory of a file that could not be made without one; it goes unless it becomes whole.
    partial: Option<(OwnedFd, Vec<u8>)>,
}

impl FreshFile {
    /// Makes an empty file without a name; where the file system cannot, one of mode 0 that has its name already.
    ///
    /// # Errors
    /// EEXIST before any content is read, not after the last of its gigabytes; naming still has the last word.
    pub(super) fn create(parent: &Parent<'_>, base: &[u8]) -> Result<Self, Errno> {
        match rustix::fs::statat(parent, base, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => return Err(Errno::EXIST),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(parent, ".", flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Ok(Self {
                file: file.into(),
                partial: None,
            }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => Self::create_named(parent, base),
            Err(errno) => Err(errno),
        }
    }

    fn create_named(parent: &Parent<'_>, base: &[u8]) -> Result<Self, Errno> {
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::io::fcntl_dupfd_cloexec(parent, 0)?;
        let file = rustix::fs::openat(parent, base, flags, Mode::empty())?;
        Ok(Self {
            file: file.into(),
            partial: Some((directory, base.to_owned())),
        })
    }

    /// The open file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Gives the whole file its mode, times and name. The directory is found again: it may have been moved away while
    /// the content came.
    pub(super) fn finish(
        mut self,
        root: &OwnedFd,
        name: &EntryName,
        header: &Header,
    ) -> Result<(), Refusal> {
        let times = times(header)?;
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(header.mode & PERMISSIONS))?;
        rustix::fs::futimens(&self.file, &times)?;
        if self.partial.is_some() {
            self.partial = None;
            return Ok(());
        }
        let parent = parent(root, name).map_err(|no_way| no_way.errno)?;
        let by_descriptor = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let follow = AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(CWD, by_descriptor, &parent, name.base(), follow)?;
        Ok(())
    }
}

impl Drop for FreshFile {
    fn drop(&mut self) {
        let Some((directory, base)) = &self.partial else {
            return;
        };
        let named = rustix::fs::statat(directory, base.as_slice(), AtFlags::SYMLINK_NOFOLLOW);
        let ours = rustix::fs::fstat(&self.file);
        // Whoever put something else there meanwhile keeps it.
        if let (Ok(named), Ok(ours)) = (named, ours)
            && (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)
        {
            let _ = rustix::fs::unlinkat(directory, base.as_slice(), AtFlags::empty());
        }
    }
}

/// The times of a header; looked at as late as the reference does, which decides what a sender hears first.
fn times(header: &Header) -> Result<Timestamps, Refusal> {
    let time = |seconds: u32, nanoseconds: u32| {
        if nanoseconds > 999_999_999 {
            return Err(Refusal::Silent);
        }
        Ok(Timespec {
            tv_sec: i64::from(seconds),
            tv_nsec: i64::from(nanoseconds),
        })
    };
    Ok(Timestamps {
        last_access: time(header.atime, header.atime_nsec)?,
        last_modification: time(header.mtime, header.mtime_nsec)?,
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, path::Path};

    use super::*;
    use crate::names::Characters;

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn a_named_file_goes_unless_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let root = open(dir.path());
        let name = EntryName::parse(b"a", Characters::Safe).unwrap();
        let header = Header {
            mode: 0o100_640,
            ..Header::default()
        };
        let make = || FreshFile::create_named(&parent(&root, &name).unwrap(), b"a");
        drop(make().unwrap());
        assert!(!dir.path().join("a").exists(), "half a file is left");
        let fresh = make().unwrap();
        assert_eq!(make().unwrap_err(), Errno::EXIST);
        fresh.file().write_all(b"whole").unwrap();
        fresh.finish(&root, &name, &header).unwrap();
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"whole");
        fs::remove_file(dir.path().join("a")).unwrap();
        let fresh = make().unwrap();
        fs::remove_file(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a"), "somebody else's").unwrap();
        drop(fresh);
        assert!(dir.path().join("a").exists());
    }

    #[test]
    fn a_directory_that_was_moved_away_gets_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["in/d", "out"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let root = open(&dir.path().join("in"));
        let name = EntryName::parse(b"d/f", Characters::Safe).unwrap();
        let fresh = FreshFile::create(&parent(&root, &name).unwrap(), b"f").unwrap();
        fs::rename(dir.path().join("in/d"), dir.path().join("out/d")).unwrap();
        std::os::unix::fs::symlink("../out/d", dir.path().join("in/d")).unwrap();
        let refused = fresh.finish(&root, &name, &Header::default());
        assert_eq!(refused, Err(Refusal::Errno(Errno::NOTDIR)));
        assert_eq!(fs::read_dir(dir.path().join("out/d")).unwrap().count(), 0);
    }
}
