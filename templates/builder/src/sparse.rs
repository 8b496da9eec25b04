//! Files whose zeroes are holes: they take no room, and whoever loads them leaves them out.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// The unit: a page, and a block of every file system that matters.
const BLOCK: usize = 4096;

/// Writes a new file with these bytes, blocks of zeroes as holes.
pub(crate) fn write(target: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = File::create(target)?;
    file.set_len(bytes.len() as u64)?;
    let blocks: Vec<&[u8]> = bytes.chunks(BLOCK).collect();
    let mut offset = 0;
    // Neighbours of one kind together: a call for each run, not for each block.
    for run in blocks.chunk_by(|first, second| is_zero(first) == is_zero(second)) {
        let end = bytes.len().min(offset + run.len() * BLOCK);
        if !run.first().is_some_and(|block| is_zero(block)) {
            let data = bytes.get(offset..end).unwrap_or_default();
            file.write_all_at(data, offset as u64)?;
        }
        offset = end;
    }
    Ok(())
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

/// Copies a file that fits into memory, blocks of zeroes as holes.
pub(crate) fn copy(source: &Path, target: &Path) -> io::Result<()> {
    write(target, &fs::read(source)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn zeroes_take_no_room_and_all_bytes_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("a"), folder.path().join("b"));
        let mut bytes = vec![0; (1 << 20) + 100];
        bytes[500_000] = 1;
        for len in [bytes.len(), 1 << 20, 0] {
            write(&first, &bytes[..len]).unwrap();
            copy(&first, &second).unwrap();
            for file in [&first, &second] {
                assert_eq!(fs::read(file).unwrap(), bytes[..len]);
                let room = fs::metadata(file).unwrap().blocks() * 512;
                assert!(room < 256 << 10, "{room} bytes on disk");
            }
        }
    }
}
