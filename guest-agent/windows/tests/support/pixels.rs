//! A window's content, to look at.

use std::{collections::BTreeMap, io::Write as _, ops::Range, path::Path};

use casemate_window_wire::DamageRect;

/// Pixels of a slot.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Picture {
    pub width: u32,
    pub height: u32,
    pixels: Vec<u32>,
}

impl Picture {
    pub fn new(width: u32, height: u32, stride: u32, bytes: &[u8]) -> Self {
        let stride = usize::try_from(stride).unwrap();
        let row = usize::try_from(width).unwrap() * 4;
        let pixels = bytes
            .chunks_exact(stride)
            .flat_map(|line| line[..row].chunks_exact(4))
            .map(|pixel| u32::from_le_bytes(pixel.try_into().unwrap()))
            .collect();
        Self {
            width,
            height,
            pixels,
        }
    }

    /// A pixel as 0xAARRGGBB.
    pub fn at(&self, x: u32, y: u32) -> u32 {
        assert!(x < self.width && y < self.height, "({x}, {y}) is outside");
        self.pixels[usize::try_from(y * self.width + x).unwrap()]
    }

    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    pub fn same_size(&self, other: &Self) -> bool {
        self.size() == other.size()
    }

    /// How many colours there are: one for a blank picture.
    pub fn colours(&self) -> usize {
        let mut seen = BTreeMap::new();
        for pixel in &self.pixels {
            *seen.entry(pixel & 0x00ff_ffff).or_insert(0) += 1;
        }
        seen.len()
    }

    /// How many pixels of a part are rather bright than dark.
    pub fn bright(&self, columns: Range<u32>, rows: Range<u32>) -> usize {
        let places = rows.flat_map(|y| columns.clone().map(move |x| (x, y)));
        places
            .filter(|&(x, y)| self.at(x, y) & 0xff00 > 0x7f00)
            .count()
    }

    /// The first pixel outside of `rects` that differs.
    pub fn differs_outside(&self, other: &Self, rects: &[DamageRect]) -> Option<(u32, u32)> {
        let inside = |x, y| {
            rects.iter().any(|rect| {
                (rect.x..rect.x + rect.width).contains(&x)
                    && (rect.y..rect.y + rect.height).contains(&y)
            })
        };
        (0..self.height)
            .flat_map(|y| (0..self.width).map(move |x| (x, y)))
            .find(|&(x, y)| self.at(x, y) != other.at(x, y) && !inside(x, y))
    }

    /// Writes it to a file of `$CASEMATE_PICTURES`, when that is set: for a person to look at.
    pub fn keep(&self, name: &str) {
        let Some(directory) = std::env::var_os("CASEMATE_PICTURES") else {
            return;
        };
        let path = Path::new(&directory).join(format!("{name}.ppm"));
        let mut file = std::fs::File::create(path).unwrap();
        writeln!(file, "P6 {} {} 255", self.width, self.height).unwrap();
        let bytes: Vec<u8> = self
            .pixels
            .iter()
            .flat_map(|pixel| pixel.to_be_bytes().into_iter().skip(1))
            .collect();
        file.write_all(&bytes).unwrap();
    }
}
