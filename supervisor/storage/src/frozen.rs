//! Volumes with a name for as long as a warm image is made or kept, and nameless copies of them for those who start from it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek as _, SeekFrom, copy},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use casemate_vm::Mebibytes;
use rustix::{fs::SeekFrom as Place, io::Errno};

use crate::{
    Revision, Store, StoreError,
    throwaway::{format_overlay, nameless},
};

impl Store {
    /// The folder of warm images; what is in it is the supervisor's to lay out. It lies here so that copies can share
    /// their blocks where the file system knows how.
    pub fn warm_dir(&self) -> PathBuf {
        self.root().join("warm")
    }

    /// A fresh qcow2 overlay over the revision's root image, under a name that nothing has yet.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn overlay_at(&self, revision: &Revision, path: &Path) -> Result<File, StoreError> {
        let size = revision
            .open_root()?
            .metadata()
            .map_err(|error| StoreError::io("inspect", &revision.root_path(), error))?;
        let file = new_file(path)?;
        format_overlay(&file, size.len(), &revision.root_path())?;
        Ok(file)
    }

    /// A zeroed private volume, under a name that nothing has yet.
    ///
    /// # Errors
    /// As [`Self::overlay_at`].
    pub fn private_at(&self, path: &Path, size: Mebibytes) -> Result<File, StoreError> {
        let file = new_file(path)?;
        file.set_len(size.bytes())
            .map_err(|error| StoreError::io("size", path, error))?;
        Ok(file)
    }

    /// A copy without a name: it shares blocks with its original where the file system can, and has its holes elsewhere.
    ///
    /// # Errors
    /// When the original cannot be read or there is no room.
    pub fn throwaway_copy(&self, original: &Path) -> Result<File, StoreError> {
        let wrap = |error: io::Error| StoreError::io("copy", original, error);
        let mut from = File::open(original).map_err(wrap)?;
        let mut to = nameless(&self.root().join("volatile"))?;
        match rustix::fs::ioctl_ficlone(&to, &from) {
            Ok(()) => Ok(to),
            Err(_) => {
                copy_sparse(&mut from, &mut to).map_err(wrap)?;
                Ok(to)
            }
        }
    }
}

fn new_file(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| StoreError::io("create", path, error))
}

fn copy_sparse(from: &mut File, to: &mut File) -> io::Result<()> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut end = 0;
    while end < length {
        let start = match rustix::fs::seek(&*from, Place::Data(end)) {
            Ok(start) => start,
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        end = rustix::fs::seek(&*from, Place::Hole(start))?;
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(start))?;
        let expected = end.saturating_sub(start);
        if copy(&mut io::Read::take(&mut *from, expected), to)? != expected {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn a_copy_has_the_bytes_and_the_holes_and_is_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let path = dir.path().join("original");
        let original = store.private_at(&path, Mebibytes(64)).unwrap();
        let marks: [(u64, &[u8]); 3] = [
            (5, b"begin"),
            (30 * 1024 * 1024 - 2, b"middle"),
            (64 * 1024 * 1024 - 3, b"end"),
        ];
        for (at, text) in marks {
            original.write_all_at(text, at).unwrap();
        }
        let mut cloned = nameless(dir.path()).unwrap();
        copy_sparse(&mut File::open(&path).unwrap(), &mut cloned).unwrap();
        for copy in [store.throwaway_copy(&path).unwrap(), cloned] {
            assert_eq!(copy.metadata().unwrap().len(), 64 * 1024 * 1024);
            assert!(copy.metadata().unwrap().blocks() * 512 < 1024 * 1024);
            for (at, text) in marks {
                let mut read = vec![0; text.len()];
                copy.read_exact_at(&mut read, at).unwrap();
                assert_eq!(read, text);
            }
            copy.write_all_at(b"changed", 5).unwrap();
        }
        let mut read = [0; 5];
        original.read_exact_at(&mut read, 5).unwrap();
        assert_eq!(&read, b"begin");
        assert!(matches!(
            store.private_at(&path, Mebibytes(64)),
            Err(StoreError::Io { .. })
        ));
    }

    #[test]
    fn a_copy_of_nothing_but_a_hole_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let path = dir.path().join("original");
        store.private_at(&path, Mebibytes(16)).unwrap();
        let mut copy = nameless(dir.path()).unwrap();
        copy_sparse(&mut File::open(&path).unwrap(), &mut copy).unwrap();
        assert_eq!(copy.metadata().unwrap().len(), 16 * 1024 * 1024);
    }
}
