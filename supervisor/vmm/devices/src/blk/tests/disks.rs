//! What is behind the device: which descriptors may be disks, how they fail, and what an overlay keeps apart.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use imago::file::File as ImageFile;
use imago::qcow2::Qcow2CreateBuilder;
use imago::{FormatCreateBuilder as _, StorageOpenOptions};
use vm_memory::GuestMemoryMmap;

use super::super::{OpenError, Overlay};
use super::*;
use crate::scatter::View;

fn copy(file: &File) -> OwnedFd {
    file.try_clone().expect("a descriptor").into()
}

fn image(file: &File) -> ImageFile {
    let copy = file.try_clone().expect("a descriptor");
    ImageFile::from_open_file(copy, StorageOpenOptions::new().write(true)).expect("a file")
}

/// Formats `file` as an overlay whose header names `base`.
fn format(file: &File, size: u64, base: &Path) {
    Qcow2CreateBuilder::<ImageFile>::new(image(file))
        .size(size)
        .backing(base.to_str().expect("text").to_owned(), "raw".to_owned())
        .create()
        .expect("an overlay");
}

#[test]
fn only_files_of_whole_sectors_that_can_be_used_as_asked_are_disks() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("disk");
    std::fs::write(&path, [0; 1024]).expect("written");
    let (pipe, _writer) = io::pipe().expect("a pipe");
    let read_only = || File::open(&path).expect("a file").into();
    let rows: Vec<(&str, OwnedFd, Access, Result<u64, &str>)> = vec![
        (
            "a file",
            copy(&file(&[0; 1024])),
            Access::ReadWrite,
            Ok(1024),
        ),
        ("for reading", read_only(), Access::ReadOnly, Ok(1024)),
        (
            "not for writing",
            read_only(),
            Access::ReadWrite,
            Err("reading only"),
        ),
        ("empty", copy(&file(&[])), Access::ReadWrite, Err("0 bytes")),
        (
            "a byte too many",
            copy(&file(&[0; 513])),
            Access::ReadWrite,
            Err("513 bytes"),
        ),
        (
            "a pipe",
            pipe.into(),
            Access::ReadOnly,
            Err("not a regular file"),
        ),
        (
            "a directory",
            File::open(dir.path()).expect("a directory").into(),
            Access::ReadOnly,
            Err("not a regular file"),
        ),
    ];
    for (name, descriptor, access, expected) in rows {
        match (RawDisk::open(descriptor, access), expected) {
            (Ok(disk), Ok(size)) => assert_eq!(disk.size(), size, "{name}"),
            (Err(error), Err(text)) => {
                assert!(error.to_string().contains(text), "{name}: {error}");
            }
            (got, _) => panic!("{name}: {got:?}"),
        }
    }
}

#[test]
fn a_file_that_shrinks_fails_the_read_and_nothing_else() {
    let file = file(&pattern(bytes(SECTORS), 0));
    let mut guest = Guest::raw(&file, Access::ReadWrite);
    file.set_len(10 * 512 + 100).expect("shorter");
    for (sector, status) in [
        (9, OK),
        (10, IO_ERROR),
        (11, IO_ERROR),
        (63, IO_ERROR),
        (0, OK),
    ] {
        assert_eq!(
            guest.request(IN, sector, &[], 512).status,
            status,
            "{sector}"
        );
    }
}

/// A disk on a file system that is full.
struct Full;

impl Disk for Full {
    fn size(&self) -> u64 {
        1 << 20
    }
    fn read_at(&self, _: &GuestMemoryMmap, _: View<'_>, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn write_at(&self, _: &GuestMemoryMmap, _: View<'_>, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }
    fn flush(&self) -> io::Result<()> {
        Err(io::Error::other("input/output error"))
    }
    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }
    fn write_zeroes(&self, _: u64, _: u64, _: bool) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }
}

#[test]
fn a_failing_disk_fails_requests_and_the_device_goes_on() {
    let mut guest = Guest::new(Box::new(Full), Access::ReadWrite);
    let range = [1_u64.to_le_bytes(), 1_u64.to_le_bytes()].concat();
    for round in 0..100 {
        for (operation, data, status) in [
            (OUT, &[0; 512][..], IO_ERROR),
            (FLUSH, &[], IO_ERROR),
            (DISCARD, &range, IO_ERROR),
            (WRITE_ZEROES, &range, IO_ERROR),
            (GET_ID, &[], OK),
        ] {
            let into = if operation == GET_ID { 20 } else { 0 };
            let answer = guest.request(operation, 0, data, into);
            assert_eq!(
                answer.status, status,
                "operation {operation}, round {round}"
            );
        }
    }
}

/// An overlay over a base, and a decoy that the overlay's header names as its base.
struct Layers {
    base: File,
    overlay: File,
    _dir: tempfile::TempDir,
}

const SIZE: usize = 1 << 20;

fn layers() -> Layers {
    let dir = tempfile::tempdir().expect("a directory");
    let decoy = dir.path().join("decoy.raw");
    std::fs::write(&decoy, vec![0xdd; SIZE]).expect("written");
    let overlay = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(dir.path().join("overlay.qcow2"))
        .expect("a file");
    format(&overlay, SIZE as u64, &decoy);
    Layers {
        base: file(&pattern(SIZE, 0)),
        overlay,
        _dir: dir,
    }
}

impl Layers {
    fn guest(&self) -> Guest {
        let disk = Overlay::open(copy(&self.overlay), copy(&self.base)).expect("a disk");
        Guest::new(Box::new(disk), Access::ReadWrite)
    }
}

#[test]
fn an_overlay_keeps_what_is_written_and_the_base_stays() {
    let layers = layers();
    let base = pattern(SIZE, 0);
    let mut expected = base.clone();
    let mut guest = layers.guest();
    // Whole clusters, parts of clusters, across clusters, the last sector.
    for (sector, sectors) in [(0, 1), (7, 3), (127, 2), (128, 128), (300, 120), (2047, 1)] {
        let data = pattern(bytes(sectors), 55);
        assert_eq!(guest.request(OUT, sector, &data, 0).status, OK);
        expected[bytes(sector)..][..data.len()].copy_from_slice(&data);
    }
    let check = |guest: &mut Guest, expected: &[u8], when: &str| {
        for sector in (0..2048).step_by(64) {
            let answer = guest.request(IN, sector, &[], 64 * 512);
            assert_eq!(answer.status, OK, "{when}, {sector}");
            assert_eq!(
                answer.data,
                expected[bytes(sector)..][..64 * 512],
                "{when}, {sector}"
            );
        }
    };
    check(&mut guest, &expected, "written");

    let ranges = |sector: u64, sectors: u32, flags: u32| {
        let mut range = sector.to_le_bytes().to_vec();
        range.extend(sectors.to_le_bytes());
        range.extend(flags.to_le_bytes());
        range
    };
    for (operation, sector, sectors, flags) in [
        (WRITE_ZEROES, 3, 2, 0),
        (WRITE_ZEROES, 128, 128, 1),
        (WRITE_ZEROES, 1000, 300, 0),
        (DISCARD, 512, 128, 0),
    ] {
        let data = ranges(sector, sectors, flags);
        assert_eq!(guest.request(operation, 0, &data, 0).status, OK);
        expected[bytes(sector)..][..bytes(u64::from(sectors))].fill(0);
    }
    check(&mut guest, &expected, "zeroed");

    assert_eq!(guest.request(FLUSH, 0, &[], 0).status, OK);
    let mut again = layers.guest();
    check(&mut again, &expected, "reopened");
    assert_eq!(contents(&layers.base), base, "the base");
    assert_eq!(guest.request(IN, 2048, &[], 512).status, IO_ERROR);
}

#[test]
fn a_nameless_overlay_reads_back_although_a_flush_costs_it_nothing() {
    let layers = layers();
    let overlay = tempfile::tempfile().expect("a file");
    format(&overlay, SIZE as u64, Path::new("/nonexistent/base.raw"));
    let disk = Overlay::open(copy(&overlay), copy(&layers.base)).expect("a disk");
    let mut guest = Guest::new(Box::new(disk), Access::ReadWrite);
    assert_eq!(guest.request(OUT, 9, &[7; 512], 0).status, OK);
    assert_eq!(guest.request(FLUSH, 0, &[], 0).status, OK);
    assert_eq!(guest.request(IN, 9, &[], 512).data, [7; 512]);
}

#[test]
fn an_overlay_may_be_larger_than_its_base() {
    let base = file(&pattern(1024, 0));
    let overlay = tempfile::tempfile().expect("a file");
    format(&overlay, 1 << 20, Path::new("base"));
    let disk = Overlay::open(copy(&overlay), copy(&base)).expect("a disk");
    let mut guest = Guest::new(Box::new(disk), Access::ReadWrite);
    let mut expected = pattern(1024, 0);
    expected.extend([0; 1024]);
    assert_eq!(guest.request(IN, 0, &[], 2048).data, expected);
    assert_eq!(contents(&base), pattern(1024, 0));
}

#[test]
fn what_is_no_overlay_of_two_files_is_refused() {
    let good = layers();
    let garbage = file(&pattern(4096, 3));
    let data_file = tempfile::tempfile().expect("a file");
    let external = tempfile::tempfile().expect("a file");
    Qcow2CreateBuilder::<ImageFile>::new(image(&external))
        .size(1 << 20)
        .data_file("/etc/passwd".to_owned(), image(&data_file))
        .create()
        .expect("an image");
    let (pipe, _writer) = io::pipe().expect("a pipe");
    let cut = file(&contents(&good.overlay)[..60]);
    let rows: Vec<(&str, OwnedFd, OwnedFd)> = vec![
        ("not qcow2", copy(&garbage), copy(&good.base)),
        ("cut in the header", copy(&cut), copy(&good.base)),
        ("empty", copy(&file(&[])), copy(&good.base)),
        ("external data", copy(&external), copy(&good.base)),
        ("base is a pipe", copy(&good.overlay), pipe.into()),
        ("base is empty", copy(&good.overlay), copy(&file(&[]))),
    ];
    for (name, overlay, base) in rows {
        let error = Overlay::open(overlay, base).expect_err(name);
        if name == "external data" {
            assert!(
                matches!(error, OpenError::DataFile | OpenError::Overlay(_)),
                "{error:?}"
            );
        }
    }
}

#[test]
fn serials_fit_the_field() {
    for (text, fits) in [
        ("root", true),
        ("", true),
        ("12345678901234567890", true),
        ("123456789012345678901", false),
        ("with space", false),
        ("n\u{fc}", false),
        ("new\nline", false),
    ] {
        let serial = Serial::new(text);
        assert_eq!(serial.is_ok(), fits, "{text:?}");
        if let Ok(serial) = serial {
            assert_eq!(serial.to_string(), text);
        }
    }
}
