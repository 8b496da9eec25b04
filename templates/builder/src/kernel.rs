//! The distribution's own kernel: finds the newest one of a series in apt, downloads and unpacks it,
//! and takes the ELF `vmlinux` out of its bzImage, because a PVH boot skips the kernel's own
//! decompressor (about three seconds in an emulated machine).
//!
//! It installs nothing, needs no root, and builds no initrd. Whoever holds the returned paths may
//! read them as long as `work` exists; they are never changed once they are there.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use crate::{BuildError, cache::cached, command::run, sparse};

/// The series of kernels that guests run: Debian's long-term kernel for its stable release.
pub const KERNEL_SERIES: &str = "6.12";

/// Largest bzImage that is read into memory. A Debian kernel is 12 MB.
const MAX_BZIMAGE: u64 = 128 << 20;

/// Where one unpacked kernel lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFiles {
    /// The release as `uname -r` says it, for instance `6.12.117+deb12-amd64`.
    pub version: String,
    /// The uncompressed ELF kernel with its PVH entry note.
    pub vmlinux: PathBuf,
    /// The kernel as the package ships it, for boot loaders that want a bzImage.
    pub bzimage: PathBuf,
    /// The unpacked package; `depmod -b` and `modprobe -d` take this folder.
    pub root: PathBuf,
    /// `root/lib/modules/VERSION`, with `modules.dep` made. Modules are compressed as shipped.
    pub modules_dir: PathBuf,
}

/// Downloads and unpacks the newest kernel of the series below `work`, or finds it there from an earlier call.
/// Each version has its own folder, which appears whole or not at all.
///
/// # Errors
/// When apt offers no such kernel, or `dpkg-deb`, `depmod` or the decompressor fail.
pub fn fetch_kernel(work: &Path) -> Result<KernelFiles, BuildError> {
    fetch(work, &newest_package()?)
}

/// The same kernel as it is built for clouds: without drivers for devices that no cloud has. No template uses it;
/// figures of other monitors are measured with it.
///
/// # Errors
/// As [`fetch_kernel`].
pub fn fetch_cloud_kernel(work: &Path) -> Result<KernelFiles, BuildError> {
    fetch(work, &newest("cloud-amd64")?)
}

fn fetch(work: &Path, package: &str) -> Result<KernelFiles, BuildError> {
    let place = cached(work, package, |draft| unpack(draft, package))?;
    let root = place.join("root");
    let modules = root.join("lib/modules");
    let version = only_entry(&modules)?;
    Ok(KernelFiles {
        vmlinux: place.join("vmlinux"),
        bzimage: root.join(format!("boot/vmlinuz-{version}")),
        modules_dir: modules.join(&version),
        root,
        version,
    })
}

/// Names the newest kernel package of the series that apt offers, without downloading it.
///
/// # Errors
/// When apt is not there or offers no such kernel.
pub fn newest_package() -> Result<String, BuildError> {
    newest("amd64")
}

/// The newest kernel package of a flavour.
fn newest(flavour: &str) -> Result<String, BuildError> {
    let pattern = format!(r"^linux-image-{KERNEL_SERIES}\.[0-9]+\+deb[0-9]+-{flavour}-unsigned$");
    let mut names = Vec::new();
    run(
        Command::new("apt-cache").args(["--names-only", "search", &pattern]),
        &mut |line| {
            names.extend(line.split_whitespace().next().map(str::to_owned));
        },
    )?;
    newest_of(&names).ok_or_else(|| {
        BuildError::Unexpected(format!(
            "apt offers no kernel {KERNEL_SERIES} (linux-image-{KERNEL_SERIES}.*-{flavour}-unsigned); \
             run `apt-get update`, or add Debian's updates and security sources"
        ))
    })
}

/// Picks the package with the highest patch level.
fn newest_of(names: &[String]) -> Option<String> {
    let level = |name: &str| -> Option<u32> {
        let rest = name.strip_prefix(&format!("linux-image-{KERNEL_SERIES}."))?;
        rest.split('+').next()?.parse().ok()
    };
    names
        .iter()
        .filter_map(|name| level(name).map(|level| (level, name)))
        .max()
        .map(|(_, name)| name.clone())
}

fn unpack(draft: &Path, package: &str) -> Result<(), BuildError> {
    // What an interrupted build left.
    if draft.exists() {
        fs::remove_dir_all(draft)
            .map_err(BuildError::io(format!("cannot clear {}", draft.display())))?;
    }
    fs::create_dir_all(draft)
        .map_err(BuildError::io(format!("cannot make {}", draft.display())))?;
    // As root, apt drops to its own user, who may not write here; it then warns and goes on.
    run(
        Command::new("apt-get")
            .args(["download", "--quiet", package])
            .current_dir(draft),
        &mut |_| {},
    )?;
    let archive = draft.join(only_entry(draft)?);
    let root = draft.join("root");
    run(
        Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&root),
        &mut |_| {},
    )?;
    fs::remove_file(&archive).map_err(BuildError::io(format!(
        "cannot remove {}",
        archive.display()
    )))?;
    let version = only_entry(&root.join("lib/modules"))?;
    run(
        Command::new("depmod")
            .env("PATH", PATH)
            .arg("-b")
            .arg(&root)
            .arg(&version),
        &mut |_| {},
    )?;
    extract_vmlinux(
        &root.join(format!("boot/vmlinuz-{version}")),
        &draft.join("vmlinux"),
    )
}

/// Writes the ELF kernel that is packed inside the bzImage `image` to `target`, its zeroes as holes.
///
/// # Errors
/// When the image is not a bzImage of boot protocol 2.08 or newer, is packed in a way that Debian
/// does not use, or its content is not an ELF file of the announced size.
pub fn extract_vmlinux(image: &Path, target: &Path) -> Result<(), BuildError> {
    let wrong = |reason| {
        BuildError::Unexpected(format!(
            "{} is not a usable kernel: {reason}",
            image.display()
        ))
    };
    let unreadable = || BuildError::io(format!("cannot read {}", image.display()));
    let length = fs::metadata(image).map_err(unreadable())?.len();
    if length > MAX_BZIMAGE {
        return Err(wrong("it is larger than any kernel"));
    }
    let bytes = fs::read(image).map_err(unreadable())?;
    let payload = Payload::find(&bytes).map_err(wrong)?;
    let elf = payload.unpack()?;
    if !elf.starts_with(b"\x7fELF") {
        return Err(wrong("its payload is not an ELF file"));
    }
    if payload.size.is_some_and(|size| size != elf.len()) {
        return Err(wrong("its payload has another size than it says"));
    }
    sparse::write(target, &elf)
        .map_err(BuildError::io(format!("cannot write {}", target.display())))
}

/// The compressed kernel inside a bzImage.
#[derive(Debug, PartialEq, Eq)]
struct Payload<'a> {
    program: &'static str,
    bytes: &'a [u8],
    /// Uncompressed size, which the kernel's build appends for formats that do not carry it.
    size: Option<usize>,
}

impl<'a> Payload<'a> {
    /// Reads the setup header: Linux Documentation/arch/x86/boot.rst, fields `setup_sects` (0x1f1),
    /// `header` (0x202), `version` (0x206), `payload_offset` (0x248), `payload_length` (0x24c).
    fn find(image: &'a [u8]) -> Result<Self, &'static str> {
        let word = |at: usize| -> Result<usize, &'static str> {
            let bytes = image.get(at..at + 4).ok_or("it is too short")?;
            let bytes: [u8; 4] = bytes.try_into().map_err(|_| "it is too short")?;
            usize::try_from(u32::from_le_bytes(bytes)).map_err(|_| "it is too large")
        };
        if image.get(0x202..0x206) != Some(b"HdrS") || word(0x206)? & 0xffff < 0x208 {
            return Err("it is not a bzImage of boot protocol 2.08 or newer");
        }
        let sectors = match word(0x1f1)? & 0xff {
            0 => 4,
            sectors => sectors,
        };
        let start = (sectors + 1) * 512 + word(0x248)?;
        let bytes = start
            .checked_add(word(0x24c)?)
            .and_then(|end| image.get(start..end))
            .ok_or("its payload lies outside of it")?;
        let program = match bytes {
            [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
            [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
            [0x1f, 0x8b, ..] => {
                return Ok(Self {
                    program: "gzip",
                    bytes,
                    size: None,
                });
            }
            _ => return Err("its payload is neither zstd, xz nor gzip"),
        };
        let (bytes, size) = bytes
            .split_last_chunk::<4>()
            .ok_or("its payload is too short")?;
        let size = usize::try_from(u32::from_le_bytes(*size)).ok();
        Ok(Self {
            program,
            bytes,
            size,
        })
    }

    /// The uncompressed bytes.
    fn unpack(&self) -> Result<Vec<u8>, BuildError> {
        filter(self.program, &["-d", "-c"], self.bytes)
    }
}

/// Folders where Debian keeps administrator programs that an ordinary user's PATH may lack.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs `program` as a filter over `input`.
fn filter(program: &'static str, args: &[&str], input: &[u8]) -> Result<Vec<u8>, BuildError> {
    let cannot = || BuildError::io(format!("cannot run {program}"));
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(cannot())?;
    let stdin = child.stdin.take();
    let (written, finished) = std::thread::scope(|scope| {
        let writer = scope.spawn(move || stdin.map_or(Ok(()), |mut stdin| stdin.write_all(input)));
        let finished = child.wait_with_output();
        (writer.join(), finished)
    });
    let Output {
        status,
        stdout,
        stderr,
    } = finished.map_err(cannot())?;
    // A filter that fails closes its input first; what it says is the better message.
    if !status.success() || !matches!(written, Ok(Ok(()))) {
        let tail = String::from_utf8_lossy(&stderr).into_owned();
        return Err(BuildError::Tool {
            tool: program.to_owned(),
            status: status.to_string(),
            tail,
        });
    }
    Ok(stdout)
}

fn only_entry(dir: &Path) -> Result<String, BuildError> {
    let list = || BuildError::io(format!("cannot list {}", dir.display()));
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(list())? {
        names.push(
            entry
                .map_err(list())?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    match names.as_slice() {
        [name] => Ok(name.clone()),
        _ => Err(BuildError::Unexpected(format!(
            "{} should hold one entry, it holds {names:?}",
            dir.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_package_is_chosen_by_number_not_by_text() {
        let names = [
            "6.12.9+deb12",
            "6.12.117+deb12",
            "6.12.27+deb12",
            "6.1.0-42",
        ]
        .map(|version| format!("linux-image-{version}-amd64-unsigned"));
        assert_eq!(newest_of(&names), Some(names[1].clone()));
        assert_eq!(newest_of(&names[3..]), None);
    }

    /// A bzImage of two setup sectors whose payload starts 16 bytes into the protected-mode part.
    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0_u8; 3 * 512 + 16];
        image[0x1f1] = 2;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        let length = u32::try_from(payload.len()).unwrap();
        image[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn vmlinux_comes_out_of_a_packed_image() {
        let elf = [b"\x7fELF".as_slice(), &[7; 5000]].concat();
        for program in ["zstd", "xz", "gzip"] {
            let mut payload = filter(program, &["-c"], &elf).unwrap();
            if program != "gzip" {
                payload.extend_from_slice(&u32::try_from(elf.len()).unwrap().to_le_bytes());
            }
            let dir = tempfile::tempdir().unwrap();
            let (image, target) = (dir.path().join("vmlinuz"), dir.path().join("vmlinux"));
            fs::write(&image, bzimage(&payload)).unwrap();
            extract_vmlinux(&image, &target).unwrap();
            assert_eq!(fs::read(&target).unwrap(), elf, "{program}");
        }
    }

    #[test]
    fn images_that_are_no_kernel_are_refused() {
        let mut outside = bzimage(&[0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0]);
        outside.truncate(outside.len() - 1);
        let mut old = bzimage(&[0x1f, 0x8b, 0, 0]);
        old[0x206] = 7;
        let table: [(Vec<u8>, &str); 4] = [
            (Vec::new(), "not a bzImage"),
            (old, "not a bzImage"),
            (outside, "outside"),
            (bzimage(b"plain bytes"), "neither"),
        ];
        for (image, reason) in table {
            let error = Payload::find(&image).unwrap_err();
            assert!(error.contains(reason), "{error} instead of {reason}");
        }
    }
}
