//! The receiver: parses the stream, checks each entry, has it land below one directory.

use std::{
    io::{self, Read, Write},
    os::fd::OwnedFd,
};

use rustix::io::Errno;

use super::{
    header::{HEADER, Header, Kind, MAX_NAME, Outcome},
    land::{self, FreshFile, Parent},
    names::{BadLink, BadName, Characters, EntryName, check_link},
    refusal::Refusal,
    sparse::SparseWriter,
};

/// Bytes moved at once.
const CHUNK: usize = 256 * 1024;

/// What a receiver takes; what every receiver refuses is no rule.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// Names and targets may have any characters; they are still plain relative paths.
    pub any_characters: bool,
    /// One regular file at the top and nothing else.
    pub one_file: bool,
    /// Most bytes of files and link targets together.
    pub max_bytes: Option<u64>,
    /// Most entries; a directory counts twice, as it is sent.
    pub max_entries: Option<u64>,
}

/// How far a copy is.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// Bytes of files and link targets so far.
    pub bytes: u64,
    /// Entries that have begun.
    pub entries: u64,
    /// Bytes of the present file that are still to come; the stream does not say how many files follow.
    pub left: u64,
    /// Name of the present entry as it came; unchecked when it is refused.
    pub name: Vec<u8>,
}

/// Receives a whole stream from `input` into the directory `root`, writes the outcome to `output`, and returns the
/// exit status: 0, or the low byte of the error. `progress` is told often; it must be cheap.
///
/// # Errors
/// Only when the outcome cannot be written; the peer is gone then.
pub fn receive(
    root: &OwnedFd,
    rules: &Rules,
    input: &mut impl Read,
    output: &mut impl Write,
    progress: &mut dyn FnMut(&Received),
) -> io::Result<u8> {
    let mut stream = Stream {
        root,
        rules,
        input,
        crc: crc32fast::Hasher::new(),
        last_name: Some(Vec::new()),
        received: Received::default(),
        progress,
    };
    let result = stream
        .entries()
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
    root: &'a OwnedFd,
    rules: &'a Rules,
    input: &'a mut R,
    crc: crc32fast::Hasher,
    last_name: Option<Vec<u8>>,
    received: Received,
    progress: &'a mut dyn FnMut(&Received),
}

impl<'a, R: Read> Stream<'a, R> {
    fn entries(&mut self) -> Result<(), Refusal> {
        while let Some(header) = self.header()? {
            self.received.entries += 1;
            let most = self.most_entries();
            if most.is_some_and(|most| self.received.entries > most) {
                return Err(Errno::DQUOT.into());
            }
            self.entry(&header)?;
            (self.progress)(&self.received);
        }
        Ok(())
    }

    fn most_entries(&self) -> Option<u64> {
        if self.rules.one_file {
            Some(1)
        } else {
            self.rules.max_entries
        }
    }

    fn characters(&self) -> Characters {
        if self.rules.any_characters {
            Characters::Any
        } else {
            Characters::Safe
        }
    }

    /// The next header, or `None` at the end marker. An entry begins with a whole header: an end before that is one
    /// between entries, and the bytes of a torn header count for nothing.
    fn header(&mut self) -> Result<Option<Header>, Refusal> {
        let mut bytes = [0; HEADER];
        self.input
            .read_exact(&mut bytes)
            .map_err(|_| Refusal::Errno(Errno::REMOTEIO))?;
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

    /// A name or a target; a NUL inside ends it.
    fn text(&mut self, length: u32) -> Result<Vec<u8>, Refusal> {
        let mut text = vec![0; length as usize];
        self.exactly(&mut text)?;
        if let Some(end) = text.iter().position(|byte| *byte == 0) {
            text.truncate(end);
        }
        Ok(text)
    }

    fn entry(&mut self, header: &Header) -> Result<(), Refusal> {
        // Until the name is there, there is none to speak of.
        self.last_name = None;
        if header.name_len > MAX_NAME {
            return Err(Errno::NAMETOOLONG.into());
        }
        let name = self.text(header.name_len)?;
        self.last_name = Some(name.clone());
        self.received.name.clone_from(&name);
        let kind = Kind::of(header.mode)
            .filter(|kind| *kind == Kind::File || !self.rules.one_file)
            .ok_or(Refusal::Errno(Errno::INVAL))?;
        let name = EntryName::parse(&name, self.characters()).map_err(|bad| match (bad, kind) {
            (BadName::TooLong, _) => Refusal::Errno(Errno::NAMETOOLONG),
            (BadName::Unsafe, Kind::Directory) => Refusal::Unnegated(Errno::ILSEQ),
            (BadName::Unsafe, Kind::File | Kind::Link) => Refusal::Errno(Errno::ILSEQ),
        })?;
        match kind {
            Kind::File => self.file(&name, header),
            Kind::Directory => land::directory(&self.parent(&name)?, name.base(), header),
            Kind::Link => self.link(&name, header),
        }
    }

    /// A regular file: written without a name, given its name when it is whole.
    fn file(&mut self, name: &EntryName, header: &Header) -> Result<(), Refusal> {
        let fresh = {
            let parent = self.parent(name)?;
            FreshFile::create(&parent, name.base())?
        };
        if i64::try_from(header.file_len).is_err() {
            return Err(Errno::DQUOT.into());
        }
        self.count(header.file_len)?;
        self.content(&fresh, header.file_len)?;
        fresh.finish(self.root, name, header)
    }

    /// Counts what an entry brings before any of it is read.
    fn count(&self, length: u64) -> Result<(), Refusal> {
        let room = self
            .rules
            .max_bytes
            .map_or(u64::MAX, |most| most.saturating_sub(self.received.bytes));
        if length > room {
            return Err(Errno::DQUOT.into());
        }
        Ok(())
    }

    fn content(&mut self, fresh: &FreshFile, length: u64) -> Result<(), Refusal> {
        let mut writer = SparseWriter::new(fresh.file());
        let mut buffer = vec![0; CHUNK.min(usize::try_from(length).unwrap_or(CHUNK))];
        self.received.left = length;
        while self.received.left > 0 {
            let wanted = buffer
                .len()
                .min(usize::try_from(self.received.left).unwrap_or(CHUNK));
            let part = buffer.get_mut(..wanted).unwrap_or_default();
            let read = match self.input.read(part) {
                Ok(0) => return Err(Refusal::EndedInside),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Err(Refusal::EndedInside),
            };
            let part = part.get(..read).unwrap_or_default();
            self.crc.update(part);
            writer.put(part)?;
            self.received.left -= read as u64;
            self.received.bytes += read as u64;
            (self.progress)(&self.received);
        }
        Ok(writer.finish()?)
    }

    /// A link; it keeps the times of its making, as with the reference.
    fn link(&mut self, name: &EntryName, header: &Header) -> Result<(), Refusal> {
        let length = u32::try_from(header.file_len)
            .ok()
            .filter(|length| *length <= MAX_NAME)
            .ok_or(Refusal::Errno(Errno::NAMETOOLONG))?;
        self.count(header.file_len)?;
        let target = self.text(length)?;
        self.received.bytes += u64::from(length);
        if let Err(bad) = check_link(name, &target, self.characters()) {
            // The sender is to be told what was wrong, which is not the name.
            self.last_name = Some(target);
            return Err(Refusal::Errno(match bad {
                BadLink::Escapes => Errno::NOLINK,
                BadLink::Unsafe => Errno::ILSEQ,
            }));
        }
        let parent = self.parent(name)?;
        rustix::fs::symlinkat(target.as_slice(), &parent, name.base())?;
        Ok(())
    }

    /// Finds the directory that holds `name`. A component that cannot be entered is what the sender is told of.
    fn parent(&mut self, name: &EntryName) -> Result<Parent<'a>, Refusal> {
        land::parent(self.root, name).map_err(|no_way| {
            self.last_name = Some(no_way.component);
            no_way.errno.into()
        })
    }
}

#[cfg(test)]
mod tests;
