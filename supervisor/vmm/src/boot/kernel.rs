//! Kernel, initrd and command line into guest memory. What goes where is decided by `casemate-kernel`.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::ops::Range;

use casemate_kernel::{CommandLine, Format, Plan, place_initrd, plan};
use rustix::fs::seek;
use rustix::io::Errno;
use vm_memory::{Bytes, GuestAddress};

use super::BootError;
use crate::machine::{Machine, layout, memory};

/// Guest memory that a kernel and its initrd may use.
fn usable(machine: &Machine) -> Range<u64> {
    layout::HIGH_RAM_START..memory::low_end(machine.ram)
}

/// Loads a kernel.
pub(super) fn load_kernel(
    machine: &Machine,
    mut image: File,
    format: Format,
) -> Result<Plan, BootError> {
    let plan = plan(format, &mut image, usable(machine))?;
    for segment in &plan.segments {
        // What memory has more is zero: the guest's RAM is fresh.
        copy(
            machine,
            "kernel",
            &mut image,
            &segment.file,
            segment.memory.start,
        )?;
    }
    Ok(plan)
}

/// Loads the initrd.
pub(super) fn load_initrd(
    machine: &Machine,
    mut image: File,
    kernel_end: u64,
) -> Result<Range<u64>, BootError> {
    let len = image
        .metadata()
        .map_err(|source| BootError::Read {
            what: "initrd",
            source,
        })?
        .len();
    let place = place_initrd(len, kernel_end, &usable(machine))?;
    copy(machine, "initrd", &mut image, &(0..len), place.start)?;
    Ok(place)
}

/// Puts the command line in its place.
pub(super) fn write_command_line(machine: &Machine, line: &str) -> Result<(), BootError> {
    let line = CommandLine::new(line)?;
    machine
        .memory
        .write_slice(line.as_bytes(), GuestAddress(layout::COMMAND_LINE))
        .map_err(|source| BootError::Write {
            what: "command line",
            source,
        })
}

/// Copies bytes of a file to guest memory at `address`, which is zero: holes of the file are left out. A quarter of a kernel
/// is zeroes.
fn copy(
    machine: &Machine,
    what: &'static str,
    file: &mut File,
    bytes: &Range<u64>,
    address: u64,
) -> Result<(), BootError> {
    let mut next = bytes.start;
    while let Some(data) =
        data_in(file, next..bytes.end).map_err(|source| BootError::Read { what, source })?
    {
        file.seek(SeekFrom::Start(data.start))
            .map_err(|source| BootError::Read { what, source })?;
        let place = address + (data.start - bytes.start);
        let len = usize::try_from(data.end - data.start).expect("64-bit program");
        machine
            .memory
            .read_exact_volatile_from(GuestAddress(place), file, len)
            .map_err(|source| BootError::Write { what, source })?;
        next = data.end;
    }
    Ok(())
}

/// The first bytes inside `range` that are not a hole, up to the next one. All of it where the file system knows of none.
fn data_in(file: &File, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
    if range.is_empty() {
        return Ok(None);
    }
    let start = match seek(file, rustix::fs::SeekFrom::Data(range.start)) {
        Ok(start) => start,
        // Nothing but a hole up to the end of the file.
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(range)),
        Err(errno) => return Err(errno.into()),
    };
    if start >= range.end {
        return Ok(None);
    }
    let end = seek(file, rustix::fs::SeekFrom::Hole(start))?;
    Ok(Some(start..end.min(range.end)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn holes_are_found_and_everything_else_is_data() {
        let file =
            File::from(rustix::fs::memfd_create("holes", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        let page = 4096;
        file.set_len(10 * page).unwrap();
        for place in [2 * page, 3 * page, 7 * page] {
            file.write_all_at(b"data", place).unwrap();
        }
        for (range, expected) in [
            (0..10 * page, Some(2 * page..4 * page)),
            (3 * page + 5..10 * page, Some(3 * page + 5..4 * page)),
            (4 * page..10 * page, Some(7 * page..8 * page)),
            (4 * page..7 * page, None),
            (2 * page + 1..2 * page + 2, Some(2 * page + 1..2 * page + 2)),
            (8 * page..10 * page, None),
            (5..5, None),
        ] {
            assert_eq!(
                data_in(&file, range.clone()).unwrap(),
                expected,
                "{range:?}"
            );
        }
    }
}
