//! Kernel, initrd and command line into guest memory. What goes where is decided by `casemate-kernel`.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::ops::Range;

use casemate_kernel::{CommandLine, Format, Plan, place_initrd, plan};
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

/// Copies bytes of a file to guest memory at `address`.
fn copy(
    machine: &Machine,
    what: &'static str,
    file: &mut File,
    bytes: &Range<u64>,
    address: u64,
) -> Result<(), BootError> {
    file.seek(SeekFrom::Start(bytes.start))
        .map_err(|source| BootError::Read { what, source })?;
    let len = usize::try_from(bytes.end - bytes.start).expect("64-bit program");
    machine
        .memory
        .read_exact_volatile_from(GuestAddress(address), file, len)
        .map_err(|source| BootError::Write { what, source })
}
