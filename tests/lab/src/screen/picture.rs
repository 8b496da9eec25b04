//! One picture of the screen: pixels to look at in a test, a PNG to look at as a person.

use std::fs::File;
use std::io::{BufWriter, Cursor};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// A picture, 8 bits per channel.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Red, green and blue of each pixel, rows from the top.
    rgb: Vec<u8>,
}

impl Picture {
    /// Reads QEMU's screen dump: a binary PPM of depth 255.
    ///
    /// # Errors
    /// When the bytes are no such thing, or not whole (QEMU is still writing).
    pub fn from_ppm(bytes: &[u8]) -> Result<Self> {
        let mut words = bytes.splitn(4, u8::is_ascii_whitespace);
        ensure!(words.next() == Some(b"P6"), "not a binary PPM");
        let mut number = || -> Result<u32> {
            let word = words.next().context("the header ends early")?;
            Ok(std::str::from_utf8(word)?.parse()?)
        };
        let (width, height) = (number()?, number()?);
        let rest = words.next().context("the header ends early")?;
        let rgb = rest
            .strip_prefix(b"255\n")
            .context("not 8 bits per channel")?
            .to_vec();
        let size = u64::from(width) * u64::from(height) * 3;
        ensure!(
            u64::try_from(rgb.len())? == size,
            "{width}x{height} pixels announced, {} bytes found",
            rgb.len()
        );
        Ok(Self { width, height, rgb })
    }

    /// Reads a PNG of 8 bits per channel in red, green and blue, which is what the compositor writes.
    ///
    /// # Errors
    /// When the bytes are no such thing, or not whole.
    pub fn from_png(bytes: &[u8]) -> Result<Self> {
        let mut reader = png::Decoder::new(Cursor::new(bytes))
            .read_info()
            .context("no PNG")?;
        let size = reader.output_buffer_size().context("it is too large")?;
        let mut rgb = vec![0; size];
        let info = reader.next_frame(&mut rgb)?;
        ensure!(
            (info.color_type, info.bit_depth) == (png::ColorType::Rgb, png::BitDepth::Eight),
            "a PNG of {:?} in {:?} bits",
            info.color_type,
            info.bit_depth
        );
        let (width, height) = (info.width, info.height);
        Ok(Self { width, height, rgb })
    }

    /// The pixel at a place, from the left and from the top.
    #[must_use]
    pub fn pixel(&self, x: u32, y: u32) -> Option<[u8; 3]> {
        if x >= self.width || y >= self.height {
            return None;
        }
        let at = (u64::from(y) * u64::from(self.width) + u64::from(x)) * 3;
        let at = usize::try_from(at).ok()?;
        self.rgb.get(at..)?.first_chunk::<3>().copied()
    }

    /// All pixels with their places.
    pub fn pixels(&self) -> impl Iterator<Item = (u32, u32, [u8; 3])> + '_ {
        let places = (0..self.height).flat_map(|y| (0..self.width).map(move |x| (x, y)));
        let (pixels, _) = self.rgb.as_chunks::<3>();
        places.zip(pixels).map(|((x, y), pixel)| (x, y, *pixel))
    }

    /// How many pixels differ from `colour` by at most `tolerance` in every channel.
    #[must_use]
    pub fn count(&self, colour: [u8; 3], tolerance: u8) -> usize {
        self.pixels()
            .filter(|(_, _, pixel)| alike(*pixel, colour, tolerance))
            .count()
    }

    /// The smallest rectangle around all pixels of a colour: left, top, width, height.
    #[must_use]
    pub fn bounds(&self, colour: [u8; 3], tolerance: u8) -> Option<(u32, u32, u32, u32)> {
        let found = self
            .pixels()
            .filter(|(_, _, pixel)| alike(*pixel, colour, tolerance));
        let edges = found.fold(None, |edges: Option<(u32, u32, u32, u32)>, (x, y, _)| {
            let (left, top, right, bottom) = edges.unwrap_or((x, y, x, y));
            Some((left.min(x), top.min(y), right.max(x), bottom.max(y)))
        });
        edges.map(|(left, top, right, bottom)| (left, top, right - left + 1, bottom - top + 1))
    }

    /// Whether all pixels are the same: a screen that nobody has drawn on yet.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        let (pixels, _) = self.rgb.as_chunks::<3>();
        pixels.windows(2).all(|pair| pair.first() == pair.last())
    }

    /// Writes it as a PNG.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut encoder = png::Encoder::new(BufWriter::new(file), self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Fast);
        encoder.write_header()?.write_image_data(&self.rgb)?;
        Ok(())
    }
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Picture {}x{}", self.width, self.height)
    }
}

fn alike(pixel: [u8; 3], colour: [u8; 3], tolerance: u8) -> bool {
    pixel
        .iter()
        .zip(colour)
        .all(|(have, want)| have.abs_diff(want) <= tolerance)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4x3, black but for two red pixels at (1, 1) and (2, 2). Byte 10 is white space in pixel data.
    fn picture() -> Picture {
        let mut bytes = b"P6\n4 3\n255\n".to_vec();
        let mut rgb = vec![10; 36];
        for place in [5, 10] {
            rgb[place * 3..place * 3 + 3].copy_from_slice(&[200, 0, 0]);
        }
        bytes.extend_from_slice(&rgb);
        Picture::from_ppm(&bytes).unwrap()
    }

    #[test]
    fn colours_are_found_where_they_are() {
        let picture = picture();
        assert_eq!(picture.pixel(1, 1), Some([200, 0, 0]));
        assert_eq!(picture.pixel(4, 1), None);
        assert_eq!(picture.count([201, 0, 0], 1), 2);
        assert_eq!(picture.bounds([200, 0, 0], 0), Some((1, 1, 2, 2)));
        assert_eq!(picture.bounds([0, 200, 0], 0), None);
        assert!(!picture.is_blank());
    }

    #[test]
    fn half_a_picture_is_refused() {
        for bytes in [
            b"P6\n4 3\n255\nabc".as_slice(),
            b"P5\n1 1\n255\nabc",
            b"P6\n1",
        ] {
            assert!(Picture::from_ppm(bytes).is_err());
        }
    }

    #[test]
    fn a_saved_picture_is_a_png_of_its_pixels() {
        let file = tempfile::NamedTempFile::new().unwrap();
        picture().save(file.path()).unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        assert_eq!(Picture::from_png(&bytes).unwrap(), picture());
        assert!(Picture::from_png(&bytes[..bytes.len() / 2]).is_err());
    }
}
