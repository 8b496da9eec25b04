//! The sender: walks what the person chose, depth first, and listens for an early refusal.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read, Write},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use super::{HEADER, Header, Kind, Outcome};

/// Bytes moved at once.
const CHUNK: usize = 256 * 1024;

/// Why a copy did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// A file of ours could not be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Not a file, directory or link, or no usable name.
    #[error("{0} is not a file, directory or link that can be copied")]
    Kind(PathBuf),
    /// The receiver has gone without a word.
    #[error("the receiver ended without saying why")]
    Lost(#[source] io::Error),
    /// The receiver refused.
    #[error("{0}")]
    Refused(String),
    /// The checksums differ.
    #[error("the copy arrived damaged; delete it there and try again")]
    Damaged,
}

/// Sends `paths` to `output` and waits for the receiver's word on `input`. `progress` is told the bytes sent so far.
///
/// # Errors
/// [`SendError`]; the receiver's refusal is preferred over the write error that it caused.
pub(crate) fn send(
    paths: &[PathBuf],
    output: &mut impl Write,
    input: &mut impl Read,
    progress: &mut dyn FnMut(u64),
) -> Result<(), SendError> {
    let mut stream = Stream {
        output,
        crc: crc32fast::Hasher::new(),
        sent: 0,
        progress,
    };
    let sent = stream.all(paths);
    if let Err(error @ (SendError::Read { .. } | SendError::Kind(_))) = sent {
        return Err(error);
    }
    let outcome = Outcome::read(input).map_err(SendError::Lost)?;
    if outcome.error != 0 {
        return Err(SendError::Refused(refusal(&outcome)));
    }
    sent?;
    if outcome.crc != stream.crc.finalize() {
        return Err(SendError::Damaged);
    }
    Ok(())
}

struct Stream<'a, W> {
    output: &'a mut W,
    crc: crc32fast::Hasher,
    sent: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl<W: Write> Stream<'_, W> {
    fn all(&mut self, paths: &[PathBuf]) -> Result<(), SendError> {
        for path in paths {
            let name = path
                .file_name()
                .ok_or_else(|| SendError::Kind(path.clone()))?;
            self.entry(path, Path::new(name))?;
        }
        self.bytes(&[0; HEADER])?;
        self.output.flush().map_err(SendError::Lost)
    }

    fn entry(&mut self, path: &Path, name: &Path) -> Result<(), SendError> {
        let wrap = |source| SendError::Read {
            path: path.to_owned(),
            source,
        };
        let metadata = fs::symlink_metadata(path).map_err(wrap)?;
        match Kind::of(metadata.mode()) {
            Some(Kind::File) => {
                let mut file = File::open(path).map_err(wrap)?;
                self.header(name, &metadata, metadata.len())?;
                self.content(path, &mut file, metadata.len())
            }
            Some(Kind::Link) => {
                let target = fs::read_link(path).map_err(wrap)?;
                let target = target.as_os_str().as_bytes();
                self.header(name, &metadata, target.len() as u64)?;
                self.bytes(target)
            }
            Some(Kind::Directory) => {
                self.header(name, &metadata, 0)?;
                let mut children = fs::read_dir(path)
                    .and_then(Iterator::collect::<io::Result<Vec<_>>>)
                    .map_err(wrap)?;
                children.sort_by_key(fs::DirEntry::file_name);
                for child in children {
                    self.entry(&child.path(), &name.join(child.file_name()))?;
                }
                self.header(name, &metadata, 0)
            }
            None => Err(SendError::Kind(path.to_owned())),
        }
    }

    fn header(&mut self, name: &Path, metadata: &Metadata, length: u64) -> Result<(), SendError> {
        let name = name.as_os_str().as_bytes();
        // The wire has 32-bit seconds; a file from before 1970 or after 2106 gets the nearest time.
        let seconds = |time: i64| u32::try_from(time.max(0)).unwrap_or(u32::MAX);
        let nanoseconds = |time: i64| u32::try_from(time).unwrap_or(0);
        let header = Header {
            name_len: u32::try_from(name.len() + 1).unwrap_or(u32::MAX),
            mode: metadata.mode(),
            file_len: length,
            atime: seconds(metadata.atime()),
            atime_nsec: nanoseconds(metadata.atime_nsec()),
            mtime: seconds(metadata.mtime()),
            mtime_nsec: nanoseconds(metadata.mtime_nsec()),
        };
        self.bytes(&header.encode())?;
        self.bytes(name)?;
        self.bytes(&[0])
    }

    /// Exactly `length` bytes: a file that shrinks meanwhile is an error, one that grows is cut.
    fn content(&mut self, path: &Path, file: &mut File, length: u64) -> Result<(), SendError> {
        let mut left = length;
        let mut buffer = vec![0; CHUNK];
        while left > 0 {
            let wanted = CHUNK.min(usize::try_from(left).unwrap_or(CHUNK));
            let part = buffer.get_mut(..wanted).unwrap_or_default();
            file.read_exact(part).map_err(|source| SendError::Read {
                path: path.to_owned(),
                source,
            })?;
            self.bytes(part)?;
            left -= wanted as u64;
        }
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        self.crc.update(bytes);
        self.output.write_all(bytes).map_err(SendError::Lost)?;
        self.sent += bytes.len() as u64;
        (self.progress)(self.sent);
        Ok(())
    }
}

/// A friendly sentence for the refusals that a person meets.
fn refusal(outcome: &Outcome) -> String {
    let name: String = String::from_utf8_lossy(&outcome.last_name)
        .chars()
        .map(|c| if c.is_control() { '_' } else { c })
        .take(200)
        .collect();
    match outcome.error {
        17 => format!("'{name}' exists in the target already; remove or rename it there"),
        22 => format!("'{name}' is of a kind that cannot be copied"),
        28 => "the target has no space left".to_owned(),
        67 => format!("the link '{name}' leads out of what is being copied"),
        84 => format!("the name '{name}' has characters that are not allowed"),
        122 => "the target's limit is reached".to_owned(),
        code => format!("the target refused '{name}' (error {code})"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::filecopy::receive;
    use rustix::fs::{Mode, OFlags};

    fn open(path: &Path) -> std::os::fd::OwnedFd {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    /// A sender and a receiver joined by two sockets.
    fn copy(paths: &[PathBuf], target: &Path) -> Result<u8, SendError> {
        let (mut to, mut from) = UnixStream::pair().unwrap();
        let root = open(target);
        let receiver = std::thread::spawn(move || {
            let mut out = from.try_clone().unwrap();
            // A sender that has gone hears nothing; its own error is what counts then.
            receive(&root, &mut from, &mut out).unwrap_or(1)
        });
        let mut input = to.try_clone().unwrap();
        let result = send(paths, &mut to, &mut input, &mut |_| {});
        drop((to, input));
        let status = receiver.join().unwrap();
        result.map(|()| status)
    }

    #[test]
    fn a_tree_is_the_same_on_the_other_side() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("d/e")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("d/big"), vec![7; 3 * CHUNK + 5]).unwrap();
        fs::write(from.join("d/e/empty"), b"").unwrap();
        std::os::unix::fs::symlink("big", from.join("d/link")).unwrap();
        assert_eq!(copy(&[from.join("d")], &to).unwrap(), 0);
        assert_eq!(
            fs::read(to.join("d/big")).unwrap(),
            fs::read(from.join("d/big")).unwrap()
        );
        assert_eq!(fs::read_link(to.join("d/link")).unwrap(), Path::new("big"));
        assert!(to.join("d/e/empty").exists());
        let again = copy(&[from.join("d/big"), from.join("d")], &to).unwrap_err();
        assert!(
            matches!(&again, SendError::Refused(why) if why.contains("exists")),
            "{again}"
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = copy(&[dir.path().join("nothing")], dir.path())
            .unwrap_err()
            .to_string();
        assert!(error.contains("nothing"), "{error}");
    }
}
