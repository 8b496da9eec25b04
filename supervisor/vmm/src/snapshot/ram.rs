//! Guest RAM in a file: at its own offset from the start of RAM, one piece after the other, pages of zeroes left out as
//! holes; then one page that names the snapshot. So a restore maps the file and reads nothing.
#![expect(
    unsafe_code,
    reason = "pages of a guest that stands still are looked at as bytes"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use casemate_devices::virtio::Memory;
use rustix::fs::{OFlags, SealFlags};
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _, GuestRegionMmap};

use super::header::SnapshotId;

/// The unit of what is written.
const PAGE: usize = 4096;

/// First bytes of the last page; the id follows.
const MAGIC: [u8; 8] = *b"CMMEMORY";

/// Most pages of one write, so that a signal or a full disk is noticed soon.
const RUN: usize = 256;

/// Pages whose state is asked for at once.
const BATCH: usize = 8192;

/// The file is not one to restore from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryFile {
    /// Somebody could still change it.
    #[error(
        "the memory file can be written; open it read-only, or seal the memfd against writing and shrinking"
    )]
    Writable,
    /// It is of another snapshot, or of none.
    #[error("the memory file is not the one of this saved state; make the snapshot anew")]
    Other,
    /// It could not be read.
    #[error("cannot read the memory file")]
    Read(#[from] io::Error),
}

/// Checks that nobody can change a file through this descriptor, nor, for a memfd, through any.
pub(crate) fn check_immutable(file: &OwnedFd) -> Result<(), MemoryFile> {
    let flags = rustix::fs::fcntl_getfl(file).map_err(io::Error::from)?;
    let fixed = SealFlags::WRITE | SealFlags::SHRINK;
    let sealed = rustix::fs::fcntl_get_seals(file).is_ok_and(|seals| seals.contains(fixed));
    let read_only = flags & OFlags::RWMODE == OFlags::RDONLY;
    if sealed || read_only {
        Ok(())
    } else {
        Err(MemoryFile::Writable)
    }
}

/// Checks that a file has `ram` bytes and the page that names this snapshot.
pub(crate) fn check_id(file: &File, ram: u64, id: &SnapshotId) -> Result<(), MemoryFile> {
    let mut found = [0; 24];
    match rustix::io::pread(file, &mut found, ram) {
        Ok(len) if len == found.len() => {}
        Ok(_) => return Err(MemoryFile::Other),
        Err(errno) => return Err(io::Error::from(errno).into()),
    }
    let len = rustix::fs::fstat(file).map_err(io::Error::from)?.st_size;
    let whole = ram.checked_add(PAGE as u64);
    if found == name(id) && u64::try_from(len).ok() == whole {
        Ok(())
    } else {
        Err(MemoryFile::Other)
    }
}

fn name(id: &SnapshotId) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..].copy_from_slice(id);
    bytes
}

/// Writes all RAM to an empty file; returns the bytes written. vCPUs stand still and so does every device.
/// `pagemap` is this process's own, and says which pages were ever touched; without it all are looked at.
pub(crate) fn save(
    memory: &Memory,
    pagemap: Option<&File>,
    into: &OwnedFd,
    id: &SnapshotId,
) -> io::Result<u64> {
    if rustix::fs::fstat(into)?.st_size != 0 {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the file for the memory is not empty",
        ));
    }
    let (mut offset, mut written) = (0, 0);
    for region in memory.iter() {
        written += save_region(region, pagemap, into, offset)?;
        offset += region.len();
    }
    let mut last = [0; PAGE];
    last[..24].copy_from_slice(&name(id));
    write_at(into, &last, offset)?;
    Ok(written)
}

fn save_region(
    region: &GuestRegionMmap,
    pagemap: Option<&File>,
    into: &OwnedFd,
    offset: u64,
) -> io::Result<u64> {
    // SAFETY: the mapping has this length and lives as long as `region`. Its only writers are vCPUs and devices, which
    // stand still until the snapshot is done, so its bytes do not change while this slice lives.
    let bytes = unsafe { std::slice::from_raw_parts(region.as_ptr(), region.size()) };
    let first_page = region.as_ptr() as usize / PAGE;
    let mut written = 0;
    let mut extents = Extents::of(region);
    let mut run = Run::default();
    for (batch, pages) in bytes.chunks(BATCH * PAGE).enumerate() {
        let start = batch * BATCH;
        let states = states(pagemap, first_page + start, pages.len() / PAGE)?;
        for (index, page) in pages.chunks(PAGE).enumerate() {
            let place = start + index;
            // Both are asked, also when one is enough: an extent is looked up in order.
            let in_file = extents.contain(place)?;
            let touched = states.get(index).is_none_or(|state| is_touched(*state));
            if (in_file || touched) && !is_zero(page) {
                if run.len == RUN || run.end() != place {
                    written += run.write(bytes, into, offset)?;
                    run = Run {
                        first: place,
                        len: 0,
                    };
                }
                run.len += 1;
            }
        }
    }
    Ok(written + run.write(bytes, into, offset)?)
}

/// Neighbouring pages that are not zero.
#[derive(Default)]
struct Run {
    first: usize,
    len: usize,
}

impl Run {
    fn end(&self) -> usize {
        self.first + self.len
    }

    fn write(&self, bytes: &[u8], into: &OwnedFd, offset: u64) -> io::Result<u64> {
        let part = bytes
            .get(self.first * PAGE..self.end() * PAGE)
            .unwrap_or_default();
        let at = u64::try_from(self.first * PAGE).expect("64-bit program");
        write_at(into, part, offset + at)?;
        Ok(u64::try_from(part.len()).expect("64-bit program"))
    }
}

fn write_at(into: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(into, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => {
                bytes = bytes.get(len..).unwrap_or_default();
                offset += u64::try_from(len).expect("64-bit program");
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// The pages that a restored guest or its devices have changed, from the start of RAM; `None` when it was booted.
pub(crate) fn touched(memory: &Memory, pagemap: &File) -> io::Result<Option<Vec<u32>>> {
    let (mut pages, mut before) = (Vec::new(), 0);
    for region in memory.iter() {
        if region.file_offset().is_none() {
            return Ok(None);
        }
        let first = region.as_ptr() as usize / PAGE;
        let count = region.size() / PAGE;
        for start in (0..count).step_by(BATCH) {
            let states = states(Some(pagemap), first + start, BATCH.min(count - start))?;
            let own = states
                .into_iter()
                .zip(before + start..)
                .filter(|(state, _)| is_touched(*state));
            pages.extend(own.map(|(_, page)| u32::try_from(page).expect("at most 64 GiB")));
        }
        before += count;
    }
    Ok(Some(pages))
}

/// What the kernel knows of `count` pages (Documentation/admin-guide/mm/pagemap.rst), or nothing.
fn states(pagemap: Option<&File>, first: usize, count: usize) -> io::Result<Vec<u64>> {
    let Some(pagemap) = pagemap else {
        return Ok(Vec::new());
    };
    let mut bytes = vec![0; count * 8];
    let offset = u64::try_from(first * 8).expect("64-bit program");
    pagemap.read_exact_at(&mut bytes, offset)?;
    let (words, _) = bytes.as_chunks();
    Ok(words.iter().copied().map(u64::from_le_bytes).collect())
}

/// Whether a page is the guest's own: in memory or swapped out, and not just the file's page.
fn is_touched(state: u64) -> bool {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const FILE: u64 = 1 << 61;
    state & (PRESENT | SWAPPED) != 0 && state & FILE == 0
}

fn is_zero(page: &[u8]) -> bool {
    let (blocks, rest) = page.as_chunks::<128>();
    let zero = |block: &[u8; 128]| block.iter().fold(0, |all, byte| all | byte) == 0;
    blocks.iter().all(zero) && rest.iter().all(|byte| *byte == 0)
}

/// Where the file behind a restored VM's RAM has data: pages that the guest never changed are still there.
struct Extents<'a> {
    file: Option<&'a File>,
    /// Where the region begins in it.
    start: u64,
    /// The extent that was found last, in pages of the region.
    found: std::ops::Range<usize>,
}

impl<'a> Extents<'a> {
    fn of(region: &'a GuestRegionMmap) -> Self {
        Self {
            file: region.file_offset().map(vm_memory::FileOffset::file),
            start: region.file_offset().map_or(0, vm_memory::FileOffset::start),
            found: 0..0,
        }
    }

    /// Whether the file has data at a page; asked in ascending order.
    fn contain(&mut self, page: usize) -> io::Result<bool> {
        let Some(file) = self.file else {
            return Ok(false);
        };
        if page >= self.found.end {
            let at = self.start + u64::try_from(page * PAGE).expect("64-bit program");
            self.found = match rustix::fs::seek(file.as_fd(), rustix::fs::SeekFrom::Data(at)) {
                Ok(data) => {
                    let hole = rustix::fs::seek(file.as_fd(), rustix::fs::SeekFrom::Hole(data))?;
                    self.page(data)..self.page(hole.next_multiple_of(PAGE as u64))
                }
                // Nothing but holes from here on.
                Err(rustix::io::Errno::NXIO) => usize::MAX..usize::MAX,
                Err(errno) => return Err(errno.into()),
            };
        }
        Ok(self.found.contains(&page))
    }

    fn page(&self, offset: u64) -> usize {
        let from_start = offset.saturating_sub(self.start);
        usize::try_from(from_start).expect("64-bit program") / PAGE
    }
}
