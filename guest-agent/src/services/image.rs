//! `qubes.GetImageRGBA`: one image of this VM as plain pixels: `WIDTH HEIGHT`, then four bytes a pixel.
//!
//! Thin: PNG only; `xdgicon:NAME` is looked for in the hicolor and Adwaita themes.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use rustix::fs::OFlags;

/// Longest name that is read.
const MAX_NAME: u64 = 4096;

/// Largest side in pixels: no caller can make this VM decode gigabytes.
const MAX_SIDE: u32 = 2048;

/// Largest file in bytes.
const MAX_FILE: u64 = 16 << 20;

/// Sizes of icons, the most useful first.
const ICON_SIZES: [&str; 6] = ["48x48", "64x64", "128x128", "256x256", "32x32", "16x16"];

/// Reads a name from stdin and writes the image.
pub(crate) fn run() -> anyhow::Result<u8> {
    let mut name = String::new();
    let mut input = io::stdin().lock().take(MAX_NAME);
    input.read_line(&mut name).context("no name came")?;
    let path = find(name.trim_end_matches('\n'), Path::new("/usr/share/icons"))?;
    // A pipe is not waited for; what it is is looked at once it is open.
    let flags = i32::try_from(OFlags::NONBLOCK.bits())?;
    let file = File::options()
        .read(true)
        .custom_flags(flags)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let (width, height, pixels) = decode(file)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{width} {height}")?;
    out.write_all(&pixels)?;
    out.flush()?;
    Ok(0)
}

/// The file that a name means.
fn find(name: &str, icons: &Path) -> anyhow::Result<PathBuf> {
    let Some(icon) = name.strip_prefix("xdgicon:") else {
        ensure!(
            name.starts_with('/'),
            "the name is neither a path nor xdgicon:NAME"
        );
        return Ok(name.into());
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    ensure!(
        !icon.is_empty() && !icon.starts_with('.') && icon.chars().all(plain),
        "that is no name of an icon"
    );
    for theme in ["hicolor", "Adwaita"] {
        for size in ICON_SIZES {
            let kinds = fs::read_dir(icons.join(theme).join(size))
                .into_iter()
                .flatten()
                .flatten();
            let mut files = kinds.map(|kind| kind.path().join(format!("{icon}.png")));
            if let Some(found) = files.find(|file| file.is_file()) {
                return Ok(found);
            }
        }
    }
    bail!("there is no icon '{icon}' in this VM")
}

/// Width, height and pixels of a PNG.
fn decode(file: File) -> anyhow::Result<(u32, u32, Vec<u8>)> {
    ensure!(file.metadata()?.is_file(), "that is not a file");
    let limits = png::Limits {
        bytes: usize::try_from(u64::from(MAX_SIDE).pow(2) * 8)?,
    };
    let mut decoder =
        png::Decoder::new_with_limits(BufReader::new(Bounded(file.take(MAX_FILE))), limits);
    decoder.set_transformations(
        png::Transformations::normalize_to_color8() | png::Transformations::ALPHA,
    );
    let mut reader = decoder.read_info().context("that is not a PNG image")?;
    let (width, height) = reader.info().size();
    ensure!(
        (1..=MAX_SIDE).contains(&width) && (1..=MAX_SIDE).contains(&height),
        "the image has {width} x {height} pixels; at most {MAX_SIDE} a side are shown"
    );
    let size = reader
        .output_buffer_size()
        .context("the image is too large")?;
    let mut raw = vec![0; size];
    let frame = reader
        .next_frame(&mut raw)
        .context("the image is damaged")?;
    let pixels = match frame.color_type {
        png::ColorType::Rgba => raw,
        png::ColorType::GrayscaleAlpha => raw
            .chunks_exact(2)
            .flat_map(|pixel| match *pixel {
                [grey, alpha] => [grey, grey, grey, alpha],
                _ => [0; 4],
            })
            .collect(),
        other => bail!("the image has colours that are not understood ({other:?})"),
    };
    Ok((width, height, pixels))
}

/// `png` wants to seek, which a bounded file does not do for it; it only ever reads on.
struct Bounded(io::Take<File>);

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl io::Seek for Bounded {
    fn seek(&mut self, _: io::SeekFrom) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(path: &Path, width: u32, height: u32, colour: png::ColorType) {
        let mut encoder = png::Encoder::new(File::create(path).unwrap(), width, height);
        encoder.set_color(colour);
        let size = usize::try_from(width * height).unwrap() * colour.samples();
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&vec![7; size]).unwrap();
    }

    #[test]
    fn images_become_pixels_within_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        for (colour, pixel) in [
            (png::ColorType::Rgb, [7, 7, 7, 255]),
            (png::ColorType::Rgba, [7, 7, 7, 7]),
            (png::ColorType::Grayscale, [7, 7, 7, 255]),
        ] {
            image(&path, 3, 2, colour);
            let (width, height, pixels) = decode(File::open(&path).unwrap()).unwrap();
            assert_eq!(
                (width, height, pixels),
                (3, 2, pixel.repeat(6)),
                "{colour:?}"
            );
        }
        for side in [MAX_SIDE, MAX_SIDE + 1] {
            image(&path, side, 1, png::ColorType::Grayscale);
            assert_eq!(
                decode(File::open(&path).unwrap()).is_ok(),
                side == MAX_SIDE,
                "{side}"
            );
        }
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..40]).unwrap();
        assert!(decode(File::open(&path).unwrap()).is_err(), "cut");
        fs::write(&path, b"GIF89a").unwrap();
        assert!(decode(File::open(&path).unwrap()).is_err(), "not a PNG");
        assert!(
            decode(File::open(dir.path()).unwrap()).is_err(),
            "a directory"
        );
    }

    #[test]
    fn names() {
        let dir = tempfile::tempdir().unwrap();
        let icon = dir.path().join("hicolor/48x48/apps/foot.png");
        fs::create_dir_all(icon.parent().unwrap()).unwrap();
        fs::write(&icon, "").unwrap();
        let find = |name| find(name, dir.path());
        assert_eq!(find("xdgicon:foot").unwrap(), icon);
        assert_eq!(find("/a/b.png").unwrap(), Path::new("/a/b.png"));
        for bad in [
            "",
            "a.png",
            "xdgicon:",
            "xdgicon:../x",
            "xdgicon:.x",
            "xdgicon:none",
            "xdgicon:a b",
        ] {
            assert!(find(bad).is_err(), "{bad}");
        }
    }
}
