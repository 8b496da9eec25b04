//! The console ring log: the last mebibyte that a VM printed, in a file that cannot grow.
//!
//! The vmm writes it, the supervisor and `casemate logs` read it, also while the vmm writes. This module does no I/O:
//! it says where bytes go and makes text of a file's content.
//!
//! ```text
//! offset  0   8 bytes   "CASELOG1"
//! offset  8   u64 le    position: bytes ever written
//! offset 16   RING_LEN  ring; byte n of the stream is at 16 + n % RING_LEN
//! ```
//!
//! The writer puts ring bytes first and the position last, so that a reader never sees a position whose bytes are not
//! there yet; it may see the oldest bytes overwritten by newer ones. What the ring holds comes from a guest: a viewer
//! escapes it.

use std::iter;

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"CASELOG1";

/// Bytes before the ring.
pub const HEADER_LEN: usize = 16;

/// Bytes of the ring. A guest that prints without end fills this and no more.
pub const RING_LEN: usize = 1 << 20;

/// A file that is not a ring log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a console log: the header is missing or of another version")]
pub struct NotARingLog;

/// Where the next byte goes; the arithmetic of one log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingLog {
    position: u64,
}

impl RingLog {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a header, to go on with a log that exists.
    ///
    /// # Errors
    /// [`NotARingLog`] when it is not one; a writer then begins anew.
    pub fn decode(header: &[u8]) -> Result<Self, NotARingLog> {
        let (magic, rest) = header.split_first_chunk().ok_or(NotARingLog)?;
        let (position, _) = rest.split_first_chunk().ok_or(NotARingLog)?;
        if *magic != MAGIC {
            return Err(NotARingLog);
        }
        Ok(Self {
            position: u64::from_le_bytes(*position),
        })
    }

    /// The header of the log as it is now.
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        let (magic, position) = header.split_at_mut(MAGIC.len());
        magic.copy_from_slice(&MAGIC);
        position.copy_from_slice(&self.position.to_le_bytes());
        header
    }

    /// Bytes ever written.
    pub fn position(self) -> u64 {
        self.position
    }

    /// Takes `bytes` into the log: returns what to write, as pairs of file offset and bytes, and moves the position.
    /// Of more than a ring's worth only the end is written.
    pub fn append<'a>(&mut self, bytes: &'a [u8]) -> impl Iterator<Item = (u64, &'a [u8])> {
        let skip = bytes.len().saturating_sub(RING_LEN);
        let (skipped, kept) = bytes.split_at(skip);
        let start = self.position.wrapping_add(to_u64(skipped.len()));
        self.position = start.wrapping_add(to_u64(kept.len()));
        let start = ring_index(start);
        let (first, second) = kept.split_at(kept.len().min(RING_LEN.saturating_sub(start)));
        let at = |index: usize| to_u64(HEADER_LEN.saturating_add(index));
        iter::once((at(start), first))
            .chain(iter::once((at(0), second)))
            .filter(|(_, bytes)| !bytes.is_empty())
    }

    /// The content of a log file, oldest byte first; at most [`RING_LEN`] bytes. A ring that the file does not hold in
    /// full, as after a first boot that printed little, reads as far as it is there.
    ///
    /// # Errors
    /// [`NotARingLog`] when the file has no header of this format.
    pub fn read_all(file: &[u8]) -> Result<Vec<u8>, NotARingLog> {
        let log = Self::decode(file)?;
        let ring = file.get(HEADER_LEN..).unwrap_or_default();
        let ring = ring.get(..RING_LEN).unwrap_or(ring);
        let index = ring_index(log.position);
        if log.position < to_u64(RING_LEN) {
            return Ok(ring.get(..index).unwrap_or(ring).to_vec());
        }
        let (newest, oldest) = ring.split_at_checked(index).unwrap_or((ring, &[]));
        Ok([oldest, newest].concat())
    }
}

/// Index in the ring of byte `position` of the stream.
fn ring_index(position: u64) -> usize {
    usize::try_from(position % to_u64(RING_LEN)).expect("less than the ring's length")
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).expect("lengths fit in 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file in memory, written as a vmm writes it.
    fn written(chunks: &[Vec<u8>]) -> Vec<u8> {
        let mut log = RingLog::new();
        let mut file = log.encode().to_vec();
        for chunk in chunks {
            for (offset, bytes) in log.append(chunk) {
                let start = usize::try_from(offset).expect("small");
                let end = start + bytes.len();
                file.resize(file.len().max(end), 0);
                file[start..end].copy_from_slice(bytes);
            }
            file[..HEADER_LEN].copy_from_slice(&log.encode());
        }
        file
    }

    fn pattern(len: usize, seed: u8) -> Vec<u8> {
        (0..len)
            .map(|index| u8::try_from((index * 7 + usize::from(seed)) % 251).expect("below 251"))
            .collect()
    }

    #[test]
    fn what_is_read_is_the_end_of_what_was_written() {
        for lengths in [
            vec![],
            vec![0],
            vec![5, 6],
            vec![RING_LEN - 1],
            vec![RING_LEN],
            vec![RING_LEN + 1],
            vec![RING_LEN - 1, 1],
            vec![RING_LEN - 1, 2],
            vec![3 * RING_LEN + 17],
            vec![10, 3 * RING_LEN + 17, 4],
            vec![RING_LEN, RING_LEN],
        ] {
            let chunks: Vec<_> = (0u8..)
                .zip(&lengths)
                .map(|(seed, len)| pattern(*len, seed))
                .collect();
            let stream = chunks.concat();
            let expected = &stream[stream.len().saturating_sub(RING_LEN)..];
            let file = written(&chunks);
            assert!(file.len() <= HEADER_LEN + RING_LEN);
            assert_eq!(
                RingLog::read_all(&file).as_deref(),
                Ok(expected),
                "{lengths:?}"
            );
        }
    }

    #[test]
    fn foreign_files_are_refused() {
        for file in [&b""[..], b"CASELOG1", b"CASELOG1\0\0\0\0", &[0; 64]] {
            assert_eq!(RingLog::read_all(file), Err(NotARingLog));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(mut file in proptest::collection::vec(any::<u8>(), 0..4096), header: bool) {
            if header && file.len() >= MAGIC.len() {
                file[..MAGIC.len()].copy_from_slice(&MAGIC);
            }
            if let Ok(content) = RingLog::read_all(&file) {
                prop_assert!(content.len() <= file.len());
            }
        }
    }
}
