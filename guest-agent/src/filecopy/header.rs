//! The fixed parts of the stream as bytes.

use std::io::{self, Read, Write};

/// Length of an entry's header.
pub(crate) const HEADER: usize = 32;

/// Longest name or link target on the wire, without its NUL: a name is read into memory before it is checked.
pub(crate) const MAX_NAME: u32 = 16_383;

/// `error_code` that says: the input ended inside an entry, let the sender explain.
pub(crate) const ENDED_INSIDE: u32 = 31_415_926;

/// An entry's header as it stands on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// Length of the name with its NUL.
    pub(crate) name_len: u32,
    /// Type and permission bits.
    pub(crate) mode: u32,
    /// Length of the content.
    pub(crate) file_len: u64,
    /// Seconds since 1970.
    pub(crate) atime: u32,
    /// Nanoseconds.
    pub(crate) atime_nsec: u32,
    /// Seconds since 1970.
    pub(crate) mtime: u32,
    /// Nanoseconds.
    pub(crate) mtime_nsec: u32,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file.
    File,
    /// A directory; comes before and after its contents.
    Directory,
    /// A symbolic link.
    Link,
}

impl Kind {
    const MASK: u32 = 0o170_000;

    /// The type bits of a mode, if they are one of the three types that may be copied.
    pub(crate) fn of(mode: u32) -> Option<Self> {
        match mode & Self::MASK {
            0o100_000 => Some(Self::File),
            0o040_000 => Some(Self::Directory),
            0o120_000 => Some(Self::Link),
            _ => None,
        }
    }
}

impl Header {
    /// Reads the fields of a header.
    pub(crate) fn decode(bytes: &[u8; HEADER]) -> Self {
        let (words, _) = bytes.as_chunks::<4>();
        let word = |index: usize| words.get(index).map_or(0, |word| u32::from_le_bytes(*word));
        Self {
            name_len: word(0),
            mode: word(1),
            file_len: u64::from(word(2)) | u64::from(word(3)) << 32,
            atime: word(4),
            atime_nsec: word(5),
            mtime: word(6),
            mtime_nsec: word(7),
        }
    }

    /// The header as bytes.
    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend(self.name_len.to_le_bytes());
        bytes.extend(self.mode.to_le_bytes());
        bytes.extend(self.file_len.to_le_bytes());
        for field in [self.atime, self.atime_nsec, self.mtime, self.mtime_nsec] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.try_into().expect("eight words are 32 bytes")
    }
}

/// What the receiver says at the end, or as soon as it refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// 0, an errno, or 31 415 926: the input ended inside an entry, let the sender explain.
    pub error: u32,
    /// CRC-32 of everything read.
    pub crc: u32,
    /// Name of the entry that was being received; none of an entry whose name was not taken in.
    pub last_name: Option<Vec<u8>>,
}

impl Outcome {
    /// Writes the outcome: 16 bytes, then the last name.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(16);
        bytes.extend(self.error.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(u64::from(self.crc).to_le_bytes());
        if let Some(name) = &self.last_name {
            let length = u32::try_from(name.len()).unwrap_or(0);
            bytes.extend(length.to_le_bytes());
            bytes.extend_from_slice(name.get(..length as usize).unwrap_or_default());
        }
        out.write_all(&bytes)?;
        out.flush()
    }

    /// Reads an outcome; the name is optional.
    ///
    /// # Errors
    /// Those of `input`, and an end inside the outcome.
    pub fn read(input: &mut impl Read) -> io::Result<Self> {
        let mut fixed = [0; 16];
        input.read_exact(&mut fixed)?;
        let (words, _) = fixed.as_chunks::<4>();
        let word = |index: usize| words.get(index).map_or(0, |word| u32::from_le_bytes(*word));
        let mut length = [0; 4];
        let last_name = match input.read_exact(&mut length) {
            Ok(()) => {
                let length = u32::from_le_bytes(length).min(MAX_NAME + 1);
                let mut name = vec![0; length as usize];
                input.read_exact(&mut name)?;
                Some(name)
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            error: word(0),
            crc: word(2),
            last_name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_outcome_survive_the_wire() {
        let header = Header {
            name_len: 2,
            mode: 0o100_644,
            file_len: 1 << 40,
            atime: 3,
            atime_nsec: 4,
            mtime: 5,
            mtime_nsec: 6,
        };
        assert_eq!(Header::decode(&header.encode()), header);
        let outcome = Outcome {
            error: 17,
            crc: 0xdead_beef,
            last_name: Some(b"a/b".to_vec()),
        };
        let mut bytes = Vec::new();
        outcome.write(&mut bytes).unwrap();
        assert_eq!(Outcome::read(&mut bytes.as_slice()).unwrap(), outcome);
        let nameless = Outcome::read(&mut bytes[..16].as_ref()).unwrap();
        assert_eq!(nameless.last_name, None);
        let mut again = Vec::new();
        nameless.write(&mut again).unwrap();
        assert_eq!(again, bytes[..16]);
        assert!(Outcome::read(&mut bytes[..15].as_ref()).is_err());
    }
}
