//! A frame as a PNG in a memfd.

use std::{
    fs::File,
    io::{self, BufWriter, Seek, Write},
    os::fd::OwnedFd,
};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::scene::Frame;

/// Writes the picture; the descriptor stands at its start.
pub(super) fn memfd(frame: &Frame) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("screenshot", MemfdFlags::CLOEXEC)?);
    write_png(frame, BufWriter::new(&file))?;
    file.rewind()?;
    Ok(file.into())
}

/// Writes the picture as PNG.
pub(crate) fn write_png(frame: &Frame, to: impl Write) -> io::Result<()> {
    let (width, height) = frame.size.to_wire();
    let mut encoder = png::Encoder::new(to, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let rgb: Vec<u8> = frame
        .pixels
        .chunks_exact(4)
        .flat_map(|pixel| pixel.iter().take(3).rev().copied())
        .collect();
    let mut writer = encoder.write_header().map_err(io::Error::other)?;
    writer.write_image_data(&rgb).map_err(io::Error::other)?;
    writer.finish().map_err(io::Error::other)
}
