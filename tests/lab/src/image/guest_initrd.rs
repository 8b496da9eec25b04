//! An initrd for a VM that runs one program: that program as `/init`, and modules for it to load.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context as _, Result};
use casemate_template_builder::{decompress_module, resolve};

/// Writes an uncompressed initrd: `/init`, `/modules/NAME.ko`, and `/modules/order` with the names in the order in which
/// they load. The modules are those below `modules_dir`.
///
/// # Errors
/// When the program or a module is missing.
pub fn write_guest_initrd(
    init: &Path,
    modules_dir: &Path,
    modules: &[&str],
    target: &Path,
) -> Result<()> {
    let work = tempfile::tempdir()?;
    let mut archive = Archive::new(BufWriter::new(File::create(target)?));
    let program = fs::read(init).with_context(|| format!("cannot read {}", init.display()))?;
    archive.file("init", 0o755, &program)?;
    for folder in ["modules", "proc", "sys", "dev"] {
        archive.folder(folder)?;
    }
    let names: Vec<String> = modules.iter().map(|&name| name.to_owned()).collect();
    let mut order = String::new();
    for packed in resolve(modules_dir, &names)? {
        let name = packed.file_name().and_then(|name| name.to_str());
        let name = name.context("a module's name")?;
        let name = name.trim_end_matches(".xz").trim_end_matches(".zst");
        let plain = work.path().join(name);
        decompress_module(&packed, &plain)?;
        archive.file(&format!("modules/{name}"), 0o644, &fs::read(plain)?)?;
        order.push_str(name);
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes())?;
    Ok(archive.finish()?)
}

/// Adds a program to an initrd, as a second archive: the kernel unpacks one after the other.
///
/// # Errors
/// When the program is missing or the initrd cannot be written.
pub fn add_program(initrd: &Path, name: &str, program: &Path) -> Result<()> {
    let program =
        fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let mut out = File::options().append(true).open(initrd)?;
    // Archives begin at a multiple of four.
    let len = usize::try_from(out.metadata()?.len())?;
    out.write_all(
        [0; 4]
            .get(..len.next_multiple_of(4) - len)
            .unwrap_or_default(),
    )?;
    let mut archive = Archive::new(BufWriter::new(out));
    archive.file(name, 0o755, &program)?;
    Ok(archive.finish()?)
}

/// A cpio archive in the format that the kernel unpacks ("newc").
struct Archive<W> {
    out: W,
    number: usize,
}

impl<W: Write> Archive<W> {
    fn new(out: W) -> Self {
        Self { out, number: 0 }
    }

    fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(name, 0o100_000 | mode, content)
    }

    fn folder(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, 0o040_755, &[])
    }

    fn finish(mut self) -> io::Result<()> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush()
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.number += 1;
        let (number, len, name_len) = (self.number, content.len(), name.len() + 1);
        // Owner, group and time are zero, so that the same input is the same archive.
        let header = format!(
            "070701{number:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{len:08x}{:08x}{:08x}{:08x}{:08x}{name_len:08x}{:08x}",
            0, 0, 1, 0, 0, 0, 0, 0, 0
        );
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(header.len() + name_len)?;
        self.out.write_all(content)?;
        self.pad(len)
    }

    fn pad(&mut self, len: usize) -> io::Result<()> {
        let missing = len.next_multiple_of(4) - len;
        self.out
            .write_all([0; 4].get(..missing).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn cpio_reads_what_is_written() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.file("init", 0o755, b"hello").unwrap();
        archive.folder("dev").unwrap();
        archive.file("dev/ab", 0o644, b"").unwrap();
        archive.finish().unwrap();
        let mut cpio = Command::new("cpio")
            .args(["--quiet", "-itv"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        cpio.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = cpio.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        let lines: Vec<(&str, &str, &str)> = text
            .lines()
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                (words[0], words[4], *words.last().unwrap())
            })
            .collect();
        let expected = [
            ("-rwxr-xr-x", "5", "init"),
            ("drwxr-xr-x", "0", "dev"),
            ("-rw-r--r--", "0", "dev/ab"),
        ];
        assert_eq!(lines, expected);
    }
}
