//! Table B1-6: images that are not what they should be. Builders of good ones, and one change a row.

mod bzimage;
mod elf;
mod places;

use std::io::Cursor;
use std::ops::Range;

use super::*;

/// RAM of a VM with 64 MiB, as far as a kernel may use it.
const RAM: Range<u64> = 0x10_0000..0x400_0000;

fn put(image: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if image.len() < at + bytes.len() {
        image.resize(at + bytes.len(), 0);
    }
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// What is planned for an image, or the error as a person reads it.
fn outcome(format: Format, image: &[u8]) -> Result<Plan, String> {
    plan(format, &mut Cursor::new(image), RAM).map_err(|error| error.to_string())
}

/// The image is refused with these words.
fn refused(format: Format, what: &str, image: &[u8], words: &str) {
    match outcome(format, image) {
        Ok(plan) => panic!("{what}: {plan:?}"),
        Err(error) => assert!(error.contains(words), "{what}: {error}"),
    }
}
