//! What is in guest memory when the first vCPU starts: kernel, initrd, command line, ACPI tables, PVH start info.

mod acpi;
mod aml;
mod kernel;
mod start_info;

use std::fs::File;
use std::os::fd::OwnedFd;

use vm_memory::GuestMemoryError;

use crate::machine::{EntryPoint, Machine};

/// What a kernel must know of this machine, appended to every command line. Early messages go to the serial port, until
/// the virtio console is there. Linux takes hardware-reduced ACPI for a sign of EFI, and without being told would jump
/// to a BIOS that is not there when it is to reboot.
const MACHINE: &str = "reboot=a earlyprintk=ttyS0 console=hvc0";

/// What to boot.
#[derive(Debug)]
pub(crate) struct BootSource {
    /// An ELF kernel with a PVH note.
    pub(crate) kernel: OwnedFd,
    /// Its initrd.
    pub(crate) initrd: OwnedFd,
    /// Its command line, without the console.
    pub(crate) command_line: String,
}

/// The kernel cannot be booted on this machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// The image is not one that we can load.
    #[error("the kernel is not a loadable ELF image")]
    Kernel(#[source] linux_loader::loader::Error),
    /// No PVH note.
    #[error(
        "the kernel has no PVH entry: it was built without CONFIG_PVH, or is a bzImage instead of a vmlinux"
    )]
    NotPvh,
    /// It starts where there is no RAM, or needs what is reserved for tables.
    #[error("the kernel wants to start at {0:#x}, where a VM of this size has no memory for it")]
    Entry(u64),
    /// Kernel and initrd do not fit.
    #[error("kernel and initrd need more than the VM's {mib} MiB of memory")]
    NoRoom {
        /// RAM below the hole.
        mib: u64,
    },
    /// The command line is longer than Linux reads, or has a NUL in it.
    #[error(
        "the kernel command line has {0} bytes, a NUL, or both are too many: the limit is 2047 without NUL"
    )]
    CommandLine(usize),
    /// A file could not be read.
    #[error("cannot read the {what}")]
    Read {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Guest memory does not take what is written.
    #[error("cannot write the {what} to guest memory")]
    Write {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: GuestMemoryError,
    },
}

/// Loads everything and says where the first vCPU begins.
pub(crate) fn load(machine: &Machine, source: BootSource) -> Result<EntryPoint, BootError> {
    let kernel = kernel::load_kernel(machine, File::from(source.kernel))?;
    let initrd = kernel::load_initrd(machine, File::from(source.initrd), kernel.end)?;
    kernel::write_command_line(machine, &format!("{} {MACHINE}", source.command_line))?;
    acpi::write(machine)?;
    start_info::write(machine, initrd)?;
    Ok(kernel.entry)
}
