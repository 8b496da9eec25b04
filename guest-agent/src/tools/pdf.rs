//! `qvm-convert-pdf`: a document that nobody trusts goes to a disposable, pixels come back, and a plain document is made of
//! them. Of what comes back only numbers within bounds and pixels are believed.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use flate2::{Compression, write::ZlibEncoder};

use super::client::{CallOptions, call};
use crate::services::pdf::RESOLUTION;

/// Most pages: a disposable cannot keep this VM busy for days.
const MAX_PAGES: u32 = 10_000;

/// Largest side of a page in pixels, three times A0 at our resolution.
const MAX_SIDE: u32 = 20_000;

/// Most pixels of a page: no page makes this VM write gigabytes.
const MAX_PIXELS: u64 = 100_000_000;

/// Largest document that is written.
const MAX_WRITTEN: u64 = 4 << 30;

/// Longest line of numbers.
const MAX_LINE: u64 = 32;

/// Converts `file` to `NAME.trusted.pdf` beside it.
pub(crate) fn convert(file: &Path) -> anyhow::Result<u8> {
    ensure!(file.is_file(), "{} is no file", file.display());
    let program: Vec<OsString> = vec![
        "/proc/self/exe".into(),
        "pdf-pages".into(),
        "--".into(),
        file.into(),
    ];
    call(
        &CallOptions::default(),
        "@dispvm",
        "qubes.PdfConvert",
        &program,
    )
}

/// The program behind [`convert`]: the document on stdout, pages on stdin.
pub(crate) fn pages(file: &Path) -> anyhow::Result<u8> {
    let mut document =
        File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    let mut output = File::from(rustix::io::dup(rustix::stdio::stdout())?);
    // Sent whole before anything comes back: the other end draws nothing before.
    io::copy(&mut document, &mut output).context("the document could not be sent")?;
    drop(output);
    let null = File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    let target = target(file);
    let partial = PathBuf::from(format!("{}.partial", target.display()));
    let made = File::create(&partial)
        .with_context(|| format!("cannot make {}", partial.display()))
        .and_then(|made| write(&mut BufReader::new(io::stdin().lock()), made))
        .and_then(|pages| {
            fs::rename(&partial, &target).context("the new document cannot be named")?;
            Ok(pages)
        });
    match made {
        Ok(pages) => {
            let _ = writeln!(io::stderr(), "{}: {pages} pages", target.display());
            Ok(0)
        }
        Err(error) => {
            // Half a document is none.
            let _ = fs::remove_file(&partial);
            Err(error)
        }
    }
}

fn target(file: &Path) -> PathBuf {
    let mut name = file.with_extension("").into_os_string();
    name.push(".trusted.pdf");
    name.into()
}

/// Numbers of a line that has exactly `N` of them.
fn numbers<const N: usize>(from: &mut dyn BufRead) -> anyhow::Result<[u32; N]> {
    let mut line = String::new();
    from.take(MAX_LINE)
        .read_line(&mut line)
        .context("the answer is no text")?;
    let line = line.strip_suffix('\n').context("the answer ends early")?;
    let words: Vec<u32> = line
        .split(' ')
        .map(|word| {
            let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
            ensure!(digits, "the answer has something that is no number");
            Ok(word.parse()?)
        })
        .collect::<anyhow::Result<_>>()?;
    <[u32; N]>::try_from(words)
        .ok()
        .context("the answer has too many or too few numbers")
}

/// A document under construction, with the place of each object.
struct Document<W: Write + Seek> {
    out: BufWriter<W>,
    places: Vec<(u32, u64)>,
}

impl<W: Write + Seek> Document<W> {
    fn object(&mut self, number: u32, body: &str) -> anyhow::Result<()> {
        let place = self.out.stream_position()?;
        ensure!(
            place < MAX_WRITTEN,
            "the document grows beyond {MAX_WRITTEN} bytes"
        );
        self.places.push((number, place));
        writeln!(self.out, "{number} 0 obj\n{body}")?;
        Ok(())
    }

    /// One page: its object, what is painted, the picture, the length of the picture.
    fn page(
        &mut self,
        first: u32,
        width: u32,
        height: u32,
        from: &mut dyn Read,
    ) -> anyhow::Result<()> {
        let points = |pixels: u32| f64::from(pixels) * 72.0 / f64::from(RESOLUTION);
        let (wide, high) = (points(width), points(height));
        let [contents, picture, length] = [1, 2, 3].map(|n| first + n);
        self.object(
            first,
            &format!(
                "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {wide:.2} {high:.2}] /Contents {contents} 0 R /Resources << /XObject << /I {picture} 0 R >> >> >>\nendobj"
            ),
        )?;
        let paint = format!("{wide:.2} 0 0 {high:.2} 0 0 cm /I Do");
        self.object(
            contents,
            &format!(
                "<< /Length {} >>\nstream\n{paint}\nendstream\nendobj",
                paint.len()
            ),
        )?;
        self.object(
            picture,
            &format!(
                "<< /Type /XObject /Subtype /Image /Width {width} /Height {height} /ColorSpace /DeviceRGB /BitsPerComponent 8 /Filter /FlateDecode /Length {length} 0 R >>\nstream"
            ),
        )?;
        let begin = self.out.stream_position()?;
        let bytes = u64::from(width) * u64::from(height) * 3;
        let mut packed = ZlibEncoder::new(&mut self.out, Compression::fast());
        let came = io::copy(&mut from.take(bytes), &mut packed)?;
        ensure!(came == bytes, "a page ends early");
        packed.finish()?;
        let packed = self.out.stream_position()? - begin;
        writeln!(self.out, "\nendstream\nendobj")?;
        self.object(length, &format!("{packed}\nendobj"))
    }
}

/// Reads pages and writes a document; returns how many.
fn write(from: &mut dyn BufRead, to: impl Write + Seek) -> anyhow::Result<u32> {
    let [count] = numbers(from)?;
    ensure!(
        (1..=MAX_PAGES).contains(&count),
        "{count} pages are more than {MAX_PAGES}, or none"
    );
    let mut document = Document {
        out: BufWriter::new(to),
        places: Vec::new(),
    };
    document.out.write_all(b"%PDF-1.5\n")?;
    document.object(1, "<< /Type /Catalog /Pages 2 0 R >>\nendobj")?;
    let mut kids = String::new();
    for page in 0..count {
        let first = 3 + page * 4;
        let [width, height] = numbers(from)?;
        let sides = 1..=MAX_SIDE;
        let pixels = u64::from(width) * u64::from(height);
        ensure!(
            sides.contains(&width) && sides.contains(&height) && pixels <= MAX_PIXELS,
            "a page of {width} x {height} pixels is too large"
        );
        document.page(first, width, height, from)?;
        kids.push_str(&format!("{first} 0 R "));
    }
    ensure!(from.fill_buf()?.is_empty(), "more came than was announced");
    document.object(
        2,
        &format!("<< /Type /Pages /Count {count} /Kids [ {kids}] >>\nendobj"),
    )?;
    let table = document.out.stream_position()?;
    document.places.sort_unstable();
    let size = document.places.len() + 1;
    write!(document.out, "xref\n0 {size}\n0000000000 65535 f \n")?;
    for (_, place) in &document.places {
        writeln!(document.out, "{place:010} 00000 n ")?;
    }
    write!(
        document.out,
        "trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n"
    )?;
    document.out.flush()?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(answer: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut out = io::Cursor::new(Vec::new());
        write(&mut &*answer, &mut out)?;
        Ok(out.into_inner())
    }

    #[test]
    fn pages_become_a_document_whose_table_is_right() {
        let document = made(b"2\n2 1\nabcdef1 2\nghijkl").unwrap();
        let text = String::from_utf8_lossy(&document);
        assert!(text.starts_with("%PDF-1.5\n") && text.ends_with("%%EOF\n"));
        assert!(text.contains("/Count 2") && text.contains("/Width 2 /Height 1"));
        let find = |needle: &[u8]| {
            document
                .windows(needle.len())
                .position(|part| part == needle)
        };
        let table = find(b"xref\n").unwrap();
        let lines = String::from_utf8_lossy(&document[table..]).into_owned();
        for (number, line) in lines.lines().skip(3).take(10).enumerate() {
            let place: usize = line.split(' ').next().unwrap().parse().unwrap();
            let object = format!("{} 0 obj\n", number + 1);
            assert!(document[place..].starts_with(object.as_bytes()), "{line}");
        }
    }

    #[test]
    fn hostile_answers_make_nothing() {
        for bad in [
            &b""[..],
            b"0\n",
            b"10001\n",
            b"-1\n",
            b"1 1\n",
            b"1\n",
            b"1\n0 1\n",
            b"1\n20001 1\n",
            b"1\n20000 20000\n",
            b"1\n4294967296 1\n",
            b"1\n2 1\nabc",
            b"1\n2 1\nabcdefX",
            b"1\n2 1 1\nabcdef",
            b"1\n+2 1\nabcdef",
            b"1\n2  1\nabcdef",
            b"1\n00000000000000000000000000000000000000002 1\nabcdef",
            b"\xff\n",
        ] {
            assert!(made(bad).is_err(), "{bad:?}");
        }
        assert_eq!(target(Path::new("a/b.pdf")), Path::new("a/b.trusted.pdf"));
    }
}
