//! Notes of an ELF image, for the one that tells the 32-bit entry (Xen's `public/elfnote.h`, `PHYS32_ENTRY`).

use std::io::{Read, Seek};
use std::ops::Range;

use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use crate::image::{Image, ImageError};

/// Most bytes of one note segment. Linux has some hundreds.
pub const MAX_NOTES: u64 = 64 * 1024;

const OWNER: &[u8] = b"Xen\0";
const PHYS32_ENTRY: u32 = 18;

/// The PVH entry in the notes at `range` of the file, if they tell one.
pub(crate) fn pvh_entry<F: Read + Seek>(
    image: &mut Image<'_, F>,
    range: Range<u64>,
) -> Result<Option<u32>, ImageError> {
    let len = range.end.saturating_sub(range.start);
    let mut bytes = match usize::try_from(len) {
        Ok(usable) if len <= MAX_NOTES => vec![0; usable],
        _ => {
            return Err(ImageError::TooMany {
                what: format!("{len} bytes of notes"),
                max: MAX_NOTES,
            });
        }
    };
    image.bytes("notes", range.start, &mut bytes)?;
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let (note, after) = Note::split(rest).ok_or(ImageError::Damaged("a note is cut off"))?;
        if note.owner == OWNER && note.kind == PHYS32_ENTRY {
            // 4 bytes, or 8 of which the upper ones are zero.
            let (entry, upper) = U32::read_from_prefix(note.content)
                .map_err(|_| ImageError::Damaged("the PVH note is too short"))?;
            if upper.iter().any(|byte| *byte != 0) {
                return Err(ImageError::Damaged("the PVH entry is not below 4 GiB"));
            }
            return Ok(Some(entry.get()));
        }
        rest = after;
    }
    Ok(None)
}

struct Note<'a> {
    owner: &'a [u8],
    content: &'a [u8],
    kind: u32,
}

impl<'a> Note<'a> {
    /// The first note of `bytes`, and what comes after it. The last one may lack its padding.
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let ([owner_len, content_len, kind], rest) = <[U32; 3]>::read_from_prefix(bytes).ok()?;
        let (owner, rest) = padded(rest, owner_len.get())?;
        let (content, rest) = padded(rest, content_len.get())?;
        let kind = kind.get();
        Some((
            Self {
                owner,
                content,
                kind,
            },
            rest,
        ))
    }
}

/// The first `len` bytes, and what follows their padding to 4.
fn padded(bytes: &[u8], len: u32) -> Option<(&[u8], &[u8])> {
    let len = usize::try_from(len).ok()?;
    let (part, _) = bytes.split_at_checked(len)?;
    let rest = bytes.get(len.checked_next_multiple_of(4)?..);
    Some((part, rest.unwrap_or_default()))
}
