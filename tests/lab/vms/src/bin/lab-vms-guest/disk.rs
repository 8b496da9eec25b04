//! Random reads past the page cache.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

pub(super) const READS: u32 = 1000;
const BLOCK: usize = 4096;
/// Blocks of the disk.
const BLOCKS: u32 = (64 << 20) / 4096;

pub(super) fn read() -> Result<Duration> {
    let flags = rustix::fs::OFlags::DIRECT.bits();
    let disk = File::options()
        .read(true)
        .custom_flags(flags.cast_signed())
        .open("/dev/vda")?;
    // Such reads want memory on a block's boundary.
    let mut memory = vec![0; 2 * BLOCK];
    let start = memory.as_ptr().align_offset(BLOCK);
    let block = memory.get_mut(start..start + BLOCK).context("room")?;
    let mut place = 1_u32;
    let began = Instant::now();
    for _ in 0..READS {
        place = place.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let block_number = u64::from((place >> 8) % BLOCKS);
        disk.read_exact_at(block, block_number * 4096)?;
    }
    Ok(began.elapsed() / READS)
}
