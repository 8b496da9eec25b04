//! Holes: blocks of zeros are not written, so that a sparse file takes no more room here than where it came from.
//! The stream knows no holes; a run of zeros is what they look like in it.

use std::{fs::File, io, os::unix::fs::FileExt};

/// Length of a block that may become a hole; what file systems allocate.
const BLOCK: usize = 4096;

/// A fresh file that is written from its start.
#[derive(Debug)]
pub(super) struct SparseWriter<'a> {
    file: &'a File,
    at: u64,
    /// Ends with a hole, which only a length makes.
    open_end: bool,
}

impl<'a> SparseWriter<'a> {
    /// Writes to `file`, which must be empty.
    pub(super) fn new(file: &'a File) -> Self {
        Self {
            file,
            at: 0,
            open_end: false,
        }
    }

    /// Appends `bytes`; blocks of zeros are left out.
    pub(super) fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let zeros = self.run(bytes, true);
            self.at += zeros as u64;
            self.open_end |= zeros > 0;
            bytes = bytes.get(zeros..).unwrap_or_default();
            let data = self.run(bytes, false);
            let (now, rest) = bytes.split_at_checked(data).unwrap_or((bytes, &[]));
            if !now.is_empty() {
                self.file.write_all_at(now, self.at)?;
                self.at += now.len() as u64;
                self.open_end = false;
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Gives the file its length.
    pub(super) fn finish(self) -> io::Result<()> {
        if self.open_end {
            self.file.set_len(self.at)?;
        }
        Ok(())
    }

    /// Length of the beginning of `bytes` whose blocks are all zeros, or all something else.
    fn run(&self, bytes: &[u8], zeros: bool) -> usize {
        let into = usize::try_from(self.at % BLOCK as u64).unwrap_or(0);
        let mut length = 0;
        let mut rest = bytes;
        while !rest.is_empty() {
            let inside = (into + length) % BLOCK;
            let piece = rest.get(..BLOCK - inside).unwrap_or(rest);
            if is_zero(piece) != zeros {
                break;
            }
            length += piece.len();
            rest = rest.get(piece.len()..).unwrap_or_default();
        }
        length
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    words
        .iter()
        .all(|word| word.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Seek},
        os::unix::fs::MetadataExt,
    };

    use super::*;

    fn written(bytes: &[u8], piece: usize) -> (Vec<u8>, u64) {
        let mut file = tempfile::tempfile().unwrap();
        let mut writer = SparseWriter::new(&file);
        for piece in bytes.chunks(piece) {
            writer.put(piece).unwrap();
        }
        writer.finish().unwrap();
        let mut back = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut back).unwrap();
        file.sync_all().unwrap();
        (back, file.metadata().unwrap().blocks() * 512)
    }

    #[test]
    fn pieces_make_no_difference() {
        let mut bytes = vec![0; 40 * BLOCK + 77];
        for at in [0, 1, BLOCK - 1, 9 * BLOCK, 30 * BLOCK + 5] {
            bytes[at] = 7;
        }
        for piece in [1, 100, BLOCK, BLOCK + 1, bytes.len()] {
            let (back, room) = written(&bytes, piece);
            assert!(back == bytes, "in pieces of {piece}");
            if piece >= BLOCK {
                assert!(
                    room <= 8 * BLOCK as u64,
                    "{room} bytes in pieces of {piece}"
                );
            }
        }
        for edge in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1] {
            let zeros = vec![0; edge];
            assert_eq!(written(&zeros, 100).0, zeros);
        }
    }
}
