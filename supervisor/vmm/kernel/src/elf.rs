//! ELF images: program headers with bounds (System V ABI, chapter 5, 64-bit little endian).

use std::io::{Read, Seek};
use std::ops::Range;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout};

use crate::image::{Image, ImageError};
use crate::notes;
use crate::plan::{Entry, Plan, Segment, in_ram};

/// Most program headers of an image. Linux has a handful.
pub const MAX_PROGRAM_HEADERS: u16 = 64;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct FileHeader {
    identity: [u8; 16],
    kind: U16,
    machine: U16,
    version: U32,
    entry: U64,
    program_headers: U64,
    section_headers: U64,
    flags: U32,
    len: U16,
    program_header_len: U16,
    program_header_count: U16,
    section_header_len: U16,
    section_header_count: U16,
    section_names: U16,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct ProgramHeader {
    kind: U32,
    flags: U32,
    offset: U64,
    virtual_address: U64,
    physical_address: U64,
    file_len: U64,
    memory_len: U64,
    alignment: U64,
}

/// Magic number, 64 bits, little endian, version 1.
const IDENTITY: [u8; 7] = [0x7f, b'E', b'L', b'F', 2, 1, 1];
const EXECUTABLE: u16 = 2;
const X86_64: u16 = 62;
const LOAD: u32 = 1;
const NOTE: u32 = 4;

/// The plan of an ELF image with a PVH note.
pub(crate) fn plan<F: Read + Seek>(
    image: &mut Image<'_, F>,
    ram: Range<u64>,
) -> Result<Plan, ImageError> {
    let mut segments = Vec::new();
    let mut entry = None;
    for header in program_headers(image)? {
        match header.kind.get() {
            LOAD => segments.push(segment(image, &header, &ram)?),
            NOTE => {
                let notes = image.range("notes", header.offset.get(), header.file_len.get())?;
                match (entry, notes::pvh_entry(image, notes)?) {
                    (Some(first), Some(second)) if first != second => {
                        return Err(ImageError::Damaged("it has two PVH entries"));
                    }
                    (_, found) => entry = entry.or(found),
                }
            }
            _ => {}
        }
    }
    segments.sort_by_key(|segment| segment.memory.start);
    for (first, second) in segments.iter().zip(segments.iter().skip(1)) {
        if second.memory.start < first.memory.end {
            return Err(ImageError::Overlap(second.memory.start));
        }
    }
    let end = segments
        .last()
        .ok_or(ImageError::Damaged("it has nothing to load"))?
        .memory
        .end;
    let address = entry.ok_or(ImageError::NotPvh)?;
    if !segments.iter().any(|segment| segment.holds(address.into())) {
        return Err(ImageError::Entry(address.into()));
    }
    Ok(Plan {
        segments,
        entry: Entry::Pvh { address },
        end,
    })
}

impl Segment {
    /// Whether a byte of the file, not a zero after them, is at `address`.
    fn holds(&self, address: u64) -> bool {
        let len = self.file.end.saturating_sub(self.file.start);
        let offset = address.checked_sub(self.memory.start);
        offset.is_some_and(|offset| offset < len)
    }
}

fn program_headers<F: Read + Seek>(
    image: &mut Image<'_, F>,
) -> Result<Vec<ProgramHeader>, ImageError> {
    const FORMAT: ImageError = ImageError::Format("a loadable ELF image for x86-64");
    let header_len = u64::try_from(size_of::<FileHeader>()).unwrap_or(u64::MAX);
    if image.len() < header_len {
        return Err(FORMAT);
    }
    let header: FileHeader = image.header("file header", 0)?;
    if !header.identity.starts_with(&IDENTITY)
        || header.kind.get() != EXECUTABLE
        || header.machine.get() != X86_64
    {
        return Err(FORMAT);
    }
    if usize::from(header.program_header_len.get()) != size_of::<ProgramHeader>() {
        return Err(ImageError::Damaged(
            "program headers have an unknown length",
        ));
    }
    let count = header.program_header_count.get();
    if count > MAX_PROGRAM_HEADERS {
        return Err(ImageError::TooMany {
            what: format!("{count} program headers"),
            max: MAX_PROGRAM_HEADERS.into(),
        });
    }
    let mut headers = vec![ProgramHeader::new_zeroed(); count.into()];
    image.bytes(
        "program headers",
        header.program_headers.get(),
        headers.as_mut_slice().as_mut_bytes(),
    )?;
    Ok(headers)
}

fn segment<F: Read + Seek>(
    image: &Image<'_, F>,
    header: &ProgramHeader,
    ram: &Range<u64>,
) -> Result<Segment, ImageError> {
    if header.memory_len.get() == 0 {
        return Err(ImageError::Damaged("a segment has no length"));
    }
    if header.file_len > header.memory_len {
        return Err(ImageError::Damaged(
            "a segment has more bytes in the file than in memory",
        ));
    }
    Ok(Segment {
        file: image.range("segment", header.offset.get(), header.file_len.get())?,
        memory: in_ram(header.physical_address.get(), header.memory_len.get(), ram)?,
    })
}
