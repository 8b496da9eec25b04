//! The receiver: parses the stream, checks each entry, writes it below one directory.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps},
    io::Errno,
};

use super::{
    header::{ENDED_INSIDE, HEADER, Header, Kind, MAX_NAME, Outcome},
    names::{BadLink, EntryName, check_link},
};

/// Bytes moved at once.
const CHUNK: usize = 256 * 1024;

/// How a receive ended; decides result and exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
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

impl Refusal {
    fn code(self) -> Option<u32> {
        let number = |errno: Errno| u32::try_from(errno.raw_os_error()).unwrap_or(u32::MAX);
        match self {
            Self::Errno(errno) => Some(number(errno)),
            Self::Unnegated(errno) => Some(number(errno).wrapping_neg()),
            Self::EndedInside => Some(ENDED_INSIDE),
            Self::Silent => None,
        }
    }
}

/// Receives a whole stream from `input` into the directory `root`, writes the outcome to `output`, and returns the
/// exit status: 0, or the low byte of the error.
///
/// # Errors
/// Only when the outcome cannot be written; the peer is gone then.
pub(crate) fn receive(
    root: &OwnedFd,
    input: &mut impl Read,
    output: &mut impl Write,
) -> io::Result<u8> {
    let mut stream = Stream {
        input,
        crc: crc32fast::Hasher::new(),
        last_name: Vec::new(),
    };
    let result = stream
        .entries(root)
        .and_then(|()| Ok(rustix::fs::syncfs(root)?));
    let code = match result {
        Ok(()) => 0,
        Err(refusal) => match refusal.code() {
            Some(code) => code,
            None => return Ok(1),
        },
    };
    Outcome {
        error: code,
        crc: stream.crc.finalize(),
        last_name: stream.last_name,
    }
    .write(output)?;
    Ok(code.to_le_bytes()[0])
}

struct Stream<'a, R> {
    input: &'a mut R,
    crc: crc32fast::Hasher,
    last_name: Vec<u8>,
}

impl<R: Read> Stream<'_, R> {
    fn entries(&mut self, root: &OwnedFd) -> Result<(), Refusal> {
        while let Some(header) = self.header()? {
            self.entry(root, &header)?;
        }
        Ok(())
    }

    /// The next header, or `None` at the end marker.
    fn header(&mut self) -> Result<Option<Header>, Refusal> {
        let mut bytes = [0; HEADER];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.input.read(rest) {
                Ok(0) if filled == 0 => return Err(Refusal::Errno(Errno::REMOTEIO)),
                Ok(0) => return Err(Refusal::EndedInside),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Refusal::EndedInside),
            }
        }
        self.crc.update(&bytes);
        let header = Header::decode(&bytes);
        Ok((header.name_len != 0).then_some(header))
    }

    fn exactly(&mut self, buffer: &mut [u8]) -> Result<(), Refusal> {
        self.input
            .read_exact(buffer)
            .map_err(|_| Refusal::EndedInside)?;
        self.crc.update(buffer);
        Ok(())
    }

    fn entry(&mut self, root: &OwnedFd, header: &Header) -> Result<(), Refusal> {
        if header.name_len > MAX_NAME {
            return Err(Errno::NAMETOOLONG.into());
        }
        let mut name = vec![0; header.name_len as usize];
        self.exactly(&mut name)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        self.last_name.clone_from(&name);
        let times = times(header)?;
        let kind = Kind::of(header.mode).ok_or(Refusal::Errno(Errno::INVAL))?;
        let name = EntryName::parse(&name).map_err(|_| match kind {
            Kind::Directory => Refusal::Unnegated(Errno::ILSEQ),
            Kind::File | Kind::Link => Refusal::Errno(Errno::ILSEQ),
        })?;
        match kind {
            Kind::File => {
                let parent = self.parent(root, &name)?;
                self.file(&parent, name.base(), header, &times)
            }
            Kind::Directory => directory(&self.parent(root, &name)?, name.base(), header, &times),
            Kind::Link => self.link(root, &name, header, &times),
        }
    }

    /// A regular file: written without a name, given its name when it is whole.
    fn file(
        &mut self,
        parent: &OwnedFd,
        base: &str,
        header: &Header,
        times: &Timestamps,
    ) -> Result<(), Refusal> {
        if i64::try_from(header.file_len).is_err() {
            return Err(Errno::DQUOT.into());
        }
        // Said before the content is read, not after the last of its gigabytes; `linkat` still has the last word.
        if rustix::fs::statat(parent, base, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Err(Errno::EXIST.into());
        }
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let nameless = match rustix::fs::openat(parent, ".", flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Some(file),
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => None,
            Err(errno) => return Err(errno.into()),
        };
        let (fd, named) = match nameless {
            Some(fd) => (fd, false),
            None => {
                let flags = OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::WRONLY
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                (
                    rustix::fs::openat(parent, base, flags, Mode::empty())?,
                    true,
                )
            }
        };
        let mut file = File::from(fd);
        self.content(&mut file, header.file_len)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(header.mode & 0o7777))?;
        rustix::fs::futimens(&file, times)?;
        if !named {
            let by_descriptor = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
            rustix::fs::linkat(CWD, by_descriptor, parent, base, AtFlags::SYMLINK_FOLLOW)?;
        }
        Ok(())
    }

    fn content(&mut self, file: &mut File, length: u64) -> Result<(), Refusal> {
        let mut left = length;
        let mut buffer = vec![0; CHUNK.min(usize::try_from(length).unwrap_or(CHUNK))];
        while left > 0 {
            let wanted = buffer.len().min(usize::try_from(left).unwrap_or(CHUNK));
            let part = buffer.get_mut(..wanted).unwrap_or_default();
            let read = match self.input.read(part) {
                Ok(0) => return Err(Refusal::EndedInside),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Err(Refusal::EndedInside),
            };
            let part = part.get(..read).unwrap_or_default();
            self.crc.update(part);
            file.write_all(part).map_err(|error| {
                Refusal::Errno(Errno::from_io_error(&error).unwrap_or(Errno::IO))
            })?;
            left -= read as u64;
        }
        Ok(())
    }

    fn link(
        &mut self,
        root: &OwnedFd,
        name: &EntryName,
        header: &Header,
        times: &Timestamps,
    ) -> Result<(), Refusal> {
        let length = u32::try_from(header.file_len)
            .ok()
            .filter(|length| *length <= MAX_NAME);
        let mut target = vec![0; length.ok_or(Refusal::Errno(Errno::NAMETOOLONG))? as usize];
        self.exactly(&mut target)?;
        if let Some(end) = target.iter().position(|byte| *byte == 0) {
            target.truncate(end);
        }
        if let Err(bad) = check_link(name, &target) {
            // The sender is to be told what was wrong, which is not the name.
            self.last_name = target;
            return Err(Refusal::Errno(match bad {
                BadLink::Escapes => Errno::NOLINK,
                BadLink::Unsafe => Errno::ILSEQ,
            }));
        }
        let parent = self.parent(root, name)?;
        rustix::fs::symlinkat(target.as_slice(), &parent, name.base())?;
        rustix::fs::utimensat(&parent, name.base(), times, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// Opens the directory that holds `name`, one component at a time, following no link. A component that cannot be
    /// opened is what the sender is told of.
    fn parent(&mut self, root: &OwnedFd, name: &EntryName) -> Result<OwnedFd, Refusal> {
        let mut directory = root
            .as_fd()
            .try_clone_to_owned()
            .map_err(|_| Refusal::Errno(Errno::MFILE))?;
        for component in name.parents() {
            directory = open_directory(&directory, component).inspect_err(|_| {
                self.last_name = component.as_bytes().to_vec();
            })?;
        }
        Ok(directory)
    }
}

fn open_directory(parent: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// A directory comes twice: made closed at first, given its mode and times after its contents.
fn directory(
    parent: &OwnedFd,
    base: &str,
    header: &Header,
    times: &Timestamps,
) -> Result<(), Refusal> {
    match rustix::fs::mkdirat(parent, base, Mode::RWXU) {
        Ok(()) => return Ok(()),
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let made = open_directory(parent, base)?;
    rustix::fs::futimens(&made, times)?;
    rustix::fs::fchmod(&made, Mode::from_raw_mode(header.mode & 0o7777))?;
    Ok(())
}

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
mod tests;
