//! The sender: walks what the person chose, depth first, and listens for an early refusal.

use std::{
    fs::{self, File, Metadata},
    io::{self, BufWriter, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, OpenOptionsExt},
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, SeekFrom},
    io::Errno,
};

use super::{
    header::{ENDED_INSIDE, HEADER, Header, Kind, Outcome},
    names::is_safe,
};

/// Bytes moved at once.
const CHUNK: usize = 256 * 1024;

/// Small entries are gathered up to this before they are written.
const GATHERED: usize = 64 * 1024;

/// The receiver is listened to after each entry, and within a file each time so many bytes have gone.
const LISTEN_EVERY: u64 = 15_000_000;

/// Why a copy did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
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

/// What of the chosen paths is sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice {
    /// Links are left out, wherever they are.
    pub ignore_links: bool,
}

/// Sends `paths` to `output` and waits for the receiver's word on `input`. `progress` is told the bytes of files and
/// link targets sent so far; it must be cheap.
///
/// # Errors
/// [`SendError`]; the receiver's refusal is preferred over the write error that it caused.
pub fn send(
    paths: &[PathBuf],
    choice: Choice,
    output: &mut impl Write,
    input: &mut (impl Read + AsFd),
    progress: &mut dyn FnMut(u64),
) -> Result<(), SendError> {
    let mut stream = Stream::new(choice, output, Some(input.as_fd()), progress);
    let sent = stream.all(paths);
    let crc = stream.close();
    conclude(sent, crc, input)
}

/// Sends one regular file under `name`, which need not be its own, and waits for the receiver's word as [`send`] does.
///
/// # Errors
/// Those of [`send`].
pub fn send_file(
    path: &Path,
    name: &str,
    output: &mut impl Write,
    input: &mut (impl Read + AsFd),
    progress: &mut dyn FnMut(u64),
) -> Result<(), SendError> {
    let mut stream = Stream::new(Choice::default(), output, Some(input.as_fd()), progress);
    let sent = stream.one(path, name);
    let crc = stream.close();
    conclude(sent, crc, input)
}

/// Writes one regular file as a stream to a receiver that says nothing.
///
/// # Errors
/// [`SendError`]; `Lost` when it takes no more.
pub fn write_file(path: &Path, name: &str, output: &mut impl Write) -> Result<(), SendError> {
    let mut progress = |_| {};
    let mut stream = Stream::new(Choice::default(), output, None, &mut progress);
    stream.one(path, name).map_err(|stop| match stop {
        Stop::Own(error) => error,
        Stop::Peer(error) => SendError::Lost(error.unwrap_or(io::ErrorKind::BrokenPipe.into())),
    })
}

/// What the receiver says of what was sent.
fn conclude(sent: Result<(), Stop>, crc: u32, input: &mut impl Read) -> Result<(), SendError> {
    let stopped = match sent {
        Err(Stop::Own(error)) => return Err(error),
        Err(Stop::Peer(error)) => Some(error),
        Ok(()) => None,
    };
    let outcome = Outcome::read(input).map_err(SendError::Lost)?;
    if outcome.error != 0 {
        return Err(SendError::Refused(refusal(&outcome)));
    }
    match stopped {
        Some(Some(error)) => Err(SendError::Lost(error)),
        // It is content with less than everything, or with something else.
        Some(None) => Err(SendError::Damaged),
        None if outcome.crc != crc => Err(SendError::Damaged),
        None => Ok(()),
    }
}

/// Bytes of files and link targets that [`send`] will count, as far as they can be read; for the time that is left.
pub fn size_of(paths: &[PathBuf], choice: Choice) -> u64 {
    let size = |path: &PathBuf| {
        let Ok(metadata) = fs::symlink_metadata(path) else {
            return 0;
        };
        if metadata.is_symlink() && choice.ignore_links {
            return 0;
        }
        if !metadata.is_dir() {
            return metadata.len();
        }
        let children = fs::read_dir(path).into_iter().flatten().flatten();
        let children: Vec<_> = children.map(|child| child.path()).collect();
        size_of(&children, choice)
    };
    paths.iter().map(size).sum()
}

/// Why the sender stops before the end.
enum Stop {
    /// For a reason of ours.
    Own(SendError),
    /// The receiver has spoken, or takes no more.
    Peer(Option<io::Error>),
}

struct Stream<'a, 'b, W: Write> {
    choice: Choice,
    output: BufWriter<&'a mut W>,
    /// Where the receiver speaks; one that never does is not listened to.
    answer: Option<BorrowedFd<'b>>,
    crc: crc32fast::Hasher,
    sent: u64,
    listened: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl<'a, 'b, W: Write> Stream<'a, 'b, W> {
    fn new(
        choice: Choice,
        output: &'a mut W,
        answer: Option<BorrowedFd<'b>>,
        progress: &'a mut dyn FnMut(u64),
    ) -> Self {
        Self {
            choice,
            output: BufWriter::with_capacity(GATHERED, output),
            answer,
            crc: crc32fast::Hasher::new(),
            sent: 0,
            listened: 0,
            progress,
        }
    }

    /// Lets go of the output and returns the sum. What was gathered when it stopped is for nobody.
    fn close(self) -> u32 {
        drop(self.output.into_parts());
        self.crc.finalize()
    }

    fn all(&mut self, paths: &[PathBuf]) -> Result<(), Stop> {
        for path in paths {
            let name = path
                .file_name()
                .ok_or_else(|| Stop::Own(SendError::Kind(path.clone())))?;
            self.entry(path, Path::new(name))?;
        }
        self.end()
    }

    fn one(&mut self, path: &Path, name: &str) -> Result<(), Stop> {
        self.file(path, Path::new(name))?;
        self.end()
    }

    fn end(&mut self) -> Result<(), Stop> {
        self.bytes(&[0; HEADER])?;
        self.output.flush().map_err(|error| Stop::Peer(Some(error)))
    }

    fn entry(&mut self, path: &Path, name: &Path) -> Result<(), Stop> {
        let wrap = |source| cannot_read(path, source);
        let metadata = fs::symlink_metadata(path).map_err(wrap)?;
        match Kind::of(metadata.mode()) {
            Some(Kind::File) => self.file(path, name)?,
            Some(Kind::Link) if self.choice.ignore_links => {}
            Some(Kind::Link) => {
                let target = fs::read_link(path).map_err(wrap)?;
                let target = target.as_os_str().as_bytes();
                self.header(name, &metadata, target.len() as u64)?;
                self.content_bytes(target)?;
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
                self.header(name, &metadata, 0)?;
            }
            None => return Err(Stop::Own(SendError::Kind(path.to_owned()))),
        }
        self.listen()
    }

    fn file(&mut self, path: &Path, name: &Path) -> Result<(), Stop> {
        let wrap = |source| cannot_read(path, source);
        // What it is now counts, not what it was: no link is followed, no pipe waited for.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut file = File::options()
            .read(true)
            .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
            .open(path)
            .map_err(wrap)?;
        let metadata = file.metadata().map_err(wrap)?;
        if !metadata.is_file() {
            return Err(Stop::Own(SendError::Kind(path.to_owned())));
        }
        self.header(name, &metadata, metadata.len())?;
        self.content(path, &mut file, &metadata)
    }

    fn header(&mut self, name: &Path, metadata: &Metadata, length: u64) -> Result<(), Stop> {
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

    /// Exactly as many bytes as the header said: a file that shrinks meanwhile is an error, one that grows is cut.
    /// Holes are not read; the stream has their zeros all the same.
    fn content(&mut self, path: &Path, file: &mut File, metadata: &Metadata) -> Result<(), Stop> {
        let length = metadata.len();
        let mut buffer = vec![0; CHUNK.min(usize::try_from(length).unwrap_or(CHUNK))];
        if metadata.blocks().saturating_mul(512) >= length {
            return self.data(path, file, length, &mut buffer);
        }
        let mut at = 0;
        while at < length {
            let (data, hole) = next_data(file, at, length).map_err(|e| cannot_read(path, e))?;
            buffer.fill(0);
            let mut zeros = data - at;
            while zeros > 0 {
                let wanted = part_of(&mut buffer, zeros);
                zeros -= wanted.len() as u64;
                self.content_bytes(wanted)?;
            }
            self.data(path, file, hole - data, &mut buffer)?;
            at = hole;
        }
        Ok(())
    }

    fn data(
        &mut self,
        path: &Path,
        file: &mut File,
        length: u64,
        buffer: &mut [u8],
    ) -> Result<(), Stop> {
        let mut left = length;
        while left > 0 {
            let part = part_of(buffer, left);
            file.read_exact(part).map_err(|e| cannot_read(path, e))?;
            left -= part.len() as u64;
            self.content_bytes(part)?;
        }
        Ok(())
    }

    fn content_bytes(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.bytes(bytes)?;
        self.sent += bytes.len() as u64;
        (self.progress)(self.sent);
        if self.sent - self.listened >= LISTEN_EVERY {
            self.listen()?;
        }
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.crc.update(bytes);
        self.output
            .write_all(bytes)
            .map_err(|error| Stop::Peer(Some(error)))
    }

    /// A receiver that speaks before the end has refused, and takes in nothing more.
    fn listen(&mut self) -> Result<(), Stop> {
        self.listened = self.sent;
        let Some(answer) = self.answer else {
            return Ok(());
        };
        let mut answer = [PollFd::from_borrowed_fd(answer, PollFlags::IN)];
        match poll(&mut answer, Some(&Timespec::default())) {
            Ok(0) | Err(_) => Ok(()),
            Ok(_) => Err(Stop::Peer(None)),
        }
    }
}

fn cannot_read(path: &Path, source: io::Error) -> Stop {
    Stop::Own(SendError::Read {
        path: path.to_owned(),
        source,
    })
}

/// As much of the buffer as is still wanted.
fn part_of(buffer: &mut [u8], left: u64) -> &mut [u8] {
    let wanted = buffer.len().min(usize::try_from(left).unwrap_or(CHUNK));
    buffer.get_mut(..wanted).unwrap_or_default()
}

/// Where the next data begin and end, from `at` on and not beyond `length`; leaves the file at their beginning.
fn next_data(file: &mut File, at: u64, length: u64) -> io::Result<(u64, u64)> {
    let data = match rustix::fs::seek(&*file, SeekFrom::Data(at)) {
        Ok(data) => data.min(length),
        // Nothing but a hole up to the end, if the end is still there.
        Err(Errno::NXIO) if file.metadata()?.len() >= length => length,
        Err(Errno::NXIO) => return Err(io::ErrorKind::UnexpectedEof.into()),
        // A file system without holes.
        Err(Errno::INVAL) => at,
        Err(errno) => return Err(errno.into()),
    };
    if data == length {
        return Ok((data, data));
    }
    let hole = match rustix::fs::seek(&*file, SeekFrom::Hole(data)) {
        Ok(hole) => hole.min(length),
        Err(_) => length,
    };
    rustix::fs::seek(&*file, SeekFrom::Start(data))?;
    Ok((data, hole))
}

/// A friendly sentence for the refusals that a person meets.
fn refusal(outcome: &Outcome) -> String {
    let name: String = String::from_utf8_lossy(outcome.last_name.as_deref().unwrap_or_default())
        .chars()
        .map(|c| if is_safe(c) { c } else { '_' })
        .take(200)
        .collect();
    // A directory's errors come with the wrong sign.
    let code = match outcome.error.wrapping_neg() {
        errno @ 1..4096 => errno,
        _ => outcome.error,
    };
    match code {
        17 => format!("'{name}' exists in the target already; remove or rename it there"),
        22 => format!("'{name}' is of a kind that cannot be copied"),
        36 => format!("the name '{name}' is too long for the target"),
        28 => "the target has no space left".to_owned(),
        67 => format!("the link '{name}' leads out of what is being copied"),
        84 => format!("the name '{name}' has characters that are not allowed"),
        122 => "the target's limit is reached".to_owned(),
        ENDED_INSIDE => "the target got only a part".to_owned(),
        code => format!("the target refused '{name}' (error {code})"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::{Rules, receive};
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
            receive(&root, &Rules::default(), &mut from, &mut out, &mut |_| {}).unwrap_or(1)
        });
        let mut input = to.try_clone().unwrap();
        let result = send(paths, Choice::default(), &mut to, &mut input, &mut |_| {});
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
