//! What of a kernel image goes where in guest memory.
//!
//! A template can have spoiled its kernel, so every number in an image is held against the file's length and the
//! guest's RAM before anything is copied. The result is a [`Plan`]: pieces of the file, disjoint and inside RAM, and
//! an entry inside of what was loaded. The format is said by whoever starts the VM, never guessed.
//!
//! * [`Format::Elf`]: an uncompressed kernel, started by PVH. Boots fastest; lies where it was linked to.
//! * [`Format::BzImage`]: unpacks itself in the guest to a random address (physical KASLR); takes longer.
//!
//! Reads the image, writes nothing, allocates no more than [`MAX_NOTES`] and [`MAX_PROGRAM_HEADERS`] ask for.
#![deny(missing_docs)]
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

mod bzimage;
mod command_line;
mod elf;
mod image;
mod initrd;
mod notes;
mod plan;
#[cfg(test)]
mod tests;

use std::io::{Read, Seek};
use std::ops::Range;

pub use bzimage::SetupHeader;
pub use command_line::{COMMAND_LINE_MAX, CommandLine, InvalidCommandLine};
pub use elf::MAX_PROGRAM_HEADERS;
pub use image::ImageError;
pub use initrd::{NoRoom, place_initrd};
pub use notes::MAX_NOTES;
pub use plan::{Entry, Plan, Segment};

use image::Image;

/// What kind of image a kernel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An uncompressed ELF `vmlinux` with a PVH note.
    Elf,
    /// A compressed `bzImage` with a 64-bit entry.
    BzImage,
}

/// Reads the headers of `image` and says what to load. `ram` is the guest memory that a kernel may use: it is fresh,
/// so all zeros, and below 4 GiB.
///
/// # Errors
/// [`ImageError`] for anything that is not a kernel which fits; nothing has been loaded then.
pub fn plan(
    format: Format,
    image: &mut (impl Read + Seek),
    ram: Range<u64>,
) -> Result<Plan, ImageError> {
    let mut image = Image::new(image)?;
    match format {
        Format::Elf => elf::plan(&mut image, ram),
        Format::BzImage => bzimage::plan(&mut image, &ram),
    }
}
