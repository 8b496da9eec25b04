//! The working set: pages that a guest changes as soon as it goes on from a snapshot, written down by one clone and given to
//! the next ones before they run. Without it each costs two faults: one in the guest's tables, one that copies the page.
//!
//! It is a hint. A wrong one costs memory, up to [`MAX_PAGES`], and changes nothing that a guest can see.

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::fd::OwnedFd;

/// The unit of a set.
const PAGE: u64 = 4096;

/// First bytes of the file; page numbers follow, four bytes each, little endian, ascending.
const MAGIC: [u8; 8] = *b"CMWRKSET";

/// Most pages of a set, 32 MiB: a set cannot make a clone copy more than that before it runs.
const MAX_PAGES: usize = 8192;

/// A file that is no working set of this VM.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MalformedSet {
    /// It could not be read.
    #[error("cannot read the working set")]
    Read(#[from] io::Error),
    /// It begins with something else, or ends within a number.
    #[error("the file of the working set is none")]
    Form,
    /// More pages than any set has.
    #[error("the working set has more than {MAX_PAGES} pages")]
    Length,
    /// A page that is not in order, or that this VM does not have.
    #[error("page {0} of the working set is not in order or beyond the memory")]
    Page(u32),
}

/// More pages than a set has: their number.
#[derive(Debug, thiserror::Error)]
#[error("the guest has changed {0} pages, and a working set has {MAX_PAGES}: ask sooner")]
pub(crate) struct TooLarge(usize);

/// Neighbouring pages, in pages from the start of RAM, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WorkingSet(Vec<Range<u32>>);

impl WorkingSet {
    /// Of ascending pages.
    pub(crate) fn of(pages: Vec<u32>) -> Result<Self, TooLarge> {
        match pages.len() {
            0..=MAX_PAGES => Ok(Self(runs(pages))),
            many => Err(TooLarge(many)),
        }
    }

    /// Reads the set of a VM with so many bytes of RAM.
    pub(crate) fn read(file: &OwnedFd, ram: u64) -> Result<Self, MalformedSet> {
        let mut file = File::from(file.try_clone()?);
        io::Seek::rewind(&mut file)?;
        let mut bytes = Vec::new();
        let limit = MAGIC.len() + MAX_PAGES * 4 + 1;
        file.take(u64::try_from(limit).expect("64-bit program"))
            .read_to_end(&mut bytes)?;
        Self::parse(&bytes, ram)
    }

    /// Parses the bytes of a file.
    pub(crate) fn parse(bytes: &[u8], ram: u64) -> Result<Self, MalformedSet> {
        let numbers = bytes.strip_prefix(&MAGIC).ok_or(MalformedSet::Form)?;
        let (numbers, rest) = numbers.as_chunks::<4>();
        if numbers.len() > MAX_PAGES {
            return Err(MalformedSet::Length);
        }
        if !rest.is_empty() {
            return Err(MalformedSet::Form);
        }
        let end = ram / PAGE;
        let mut next = 0;
        for number in numbers.iter().copied().map(u32::from_le_bytes) {
            if number < next || u64::from(number) >= end {
                return Err(MalformedSet::Page(number));
            }
            // RAM ends at 64 GiB, far below.
            next = number.saturating_add(1);
        }
        Ok(Self(runs(numbers.iter().copied().map(u32::from_le_bytes))))
    }

    /// The bytes of a file.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let numbers = self.0.iter().cloned().flatten();
        let numbers = numbers.flat_map(u32::to_le_bytes);
        MAGIC.into_iter().chain(numbers).collect()
    }

    /// Neighbouring pages, in bytes from the start of RAM, in order.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let bytes = |page: u32| u64::from(page) * PAGE;
        self.0
            .iter()
            .map(move |run| bytes(run.start)..bytes(run.end))
    }
}

/// Puts ascending numbers together.
fn runs(pages: impl IntoIterator<Item = u32>) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for page in pages {
        let end = page.saturating_add(1);
        match runs.last_mut() {
            Some(run) if run.end == page => run.end = end,
            _ => runs.push(page..end),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAM: u64 = 64 << 20;

    fn bytes(pages: &[u32]) -> Vec<u8> {
        let numbers = pages.iter().copied().flat_map(u32::to_le_bytes);
        MAGIC.into_iter().chain(numbers).collect()
    }

    #[test]
    fn a_set_survives_its_file() {
        for pages in [&[][..], &[0], &[0, 1, 2, 7, 9, 10], &[16383]] {
            let set = WorkingSet::parse(&bytes(pages), RAM).unwrap();
            assert_eq!(set.to_bytes(), bytes(pages));
        }
        let set = WorkingSet::parse(&bytes(&[3, 4, 6]), RAM).unwrap();
        let ranges: Vec<_> = set.ranges().collect();
        assert_eq!(ranges, [3 * 4096..5 * 4096, 6 * 4096..7 * 4096]);
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for (bytes, what) in [
            (vec![], "is none"),
            (b"CMWRKSE".to_vec(), "is none"),
            (b"CMMEMORY\0\0\0\0".to_vec(), "is none"),
            ([&bytes(&[1])[..], &[2]].concat(), "is none"),
            (bytes(&[1, 1]), "page 1"),
            (bytes(&[2, 1]), "page 1"),
            (bytes(&[16384]), "page 16384"),
            (bytes(&[u32::MAX]), "page 4294967295"),
            (bytes(&(0..8193).collect::<Vec<_>>()), "more than 8192"),
        ] {
            let refused = WorkingSet::parse(&bytes, RAM).unwrap_err().to_string();
            assert!(refused.contains(what), "{refused}");
        }
    }
}
