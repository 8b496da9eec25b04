//! `qubes.PdfConvert`, in a disposable: a stranger's document comes in, plain pixels go out.
//!
//! The answer is the number of pages on a line, then for each page `WIDTH HEIGHT` on a line and three bytes a pixel. Whatever
//! the document does to the renderer stays in this VM; the caller believes nothing but numbers and pixels
//! ([`crate::tools::pdf`]).

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};

/// Largest document in bytes.
const MAX_DOCUMENT: u64 = 1 << 30;

/// Pixels per inch, as the reference draws.
pub(crate) const RESOLUTION: u32 = 150;

/// Longest line of a picture's header.
const MAX_LINE: u64 = 64;

/// Reads a document from stdin and writes its pages.
pub(crate) fn run() -> anyhow::Result<u8> {
    let base = env::var_os("XDG_RUNTIME_DIR").map_or_else(env::temp_dir, Into::into);
    let path = base.join(format!("casemate-pdf-{}", std::process::id()));
    let result = convert(&path);
    // The disposable goes with the call; where it does not, the document must.
    let _ = fs::remove_file(&path);
    result.map(|()| 0)
}

fn convert(path: &Path) -> anyhow::Result<()> {
    let mut file =
        fs::File::create_new(path).with_context(|| format!("cannot make {}", path.display()))?;
    let mut input = io::stdin().lock().take(MAX_DOCUMENT + 1);
    let size = io::copy(&mut input, &mut file).context("the document did not come")?;
    ensure!(
        size <= MAX_DOCUMENT,
        "the document is larger than {MAX_DOCUMENT} bytes"
    );
    let info = Command::new("pdfinfo")
        .arg(path)
        .output()
        .context("cannot run pdfinfo; is poppler-utils installed?")?;
    let pages =
        pages(&String::from_utf8_lossy(&info.stdout)).context("that is not a PDF document")?;
    let mut out = io::stdout().lock();
    writeln!(out, "{pages}")?;
    for page in 1..=pages {
        let number = page.to_string();
        let mut drawing = Command::new("pdftoppm")
            .args(["-r", &RESOLUTION.to_string(), "-f", &number, "-l", &number])
            .arg(path)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run pdftoppm")?;
        let picture = drawing.stdout.take().context("pdftoppm has no output")?;
        let passed = pass(&mut BufReader::new(picture), &mut out);
        ensure!(drawing.wait()?.success(), "page {page} cannot be drawn");
        passed.with_context(|| format!("page {page} cannot be drawn"))?;
    }
    out.flush()?;
    Ok(())
}

/// The number behind `Pages:`.
fn pages(info: &str) -> Option<u32> {
    let line = info.lines().find_map(|line| line.strip_prefix("Pages:"))?;
    line.trim().parse().ok().filter(|pages| *pages > 0)
}

/// One picture in the portable pixmap format, without its header's manners.
fn pass(picture: &mut dyn BufRead, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut header = [const { String::new() }; 3];
    for line in &mut header {
        picture.take(MAX_LINE).read_line(line)?;
    }
    let [kind, size, depth] = &header;
    ensure!(
        kind == "P6\n" && depth == "255\n",
        "pdftoppm writes something else"
    );
    let (width, height) = size
        .trim_end()
        .split_once(' ')
        .context("a picture without size")?;
    let (width, height): (u64, u64) = (width.parse()?, height.parse()?);
    let bytes = width
        .checked_mul(height)
        .and_then(|n| n.checked_mul(3))
        .context("too large")?;
    writeln!(out, "{width} {height}")?;
    let passed = io::copy(&mut picture.take(bytes), out)?;
    ensure!(passed == bytes, "a picture that ends early");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_counts() {
        assert_eq!(pages("Title: x\nPages:          12\nSize: 1"), Some(12));
        for bad in ["", "Pages: 0", "Pages: -1", "Pages: many"] {
            assert_eq!(pages(bad), None, "{bad}");
        }
    }

    #[test]
    fn pictures() {
        let mut out = Vec::new();
        pass(&mut &b"P6\n2 1\n255\nabcdef"[..], &mut out).unwrap();
        assert_eq!(out, b"2 1\nabcdef");
        for bad in [
            &b"P5\n2 1\n255\nabcdef"[..],
            b"P6\n2 1\n255\nabc",
            b"P6\n2\n255\nabcdef",
            b"P6\n99999999999 99999999999\n255\n",
            b"",
        ] {
            assert!(pass(&mut &*bad, &mut Vec::new()).is_err());
        }
    }
}
