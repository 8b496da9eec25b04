//! What is in guest memory when the first vCPU starts: kernel, initrd, command line, ACPI tables, and what the boot protocol asks for.

mod acpi;
mod aml;
mod kernel;
mod memory_map;
mod start_info;
mod zero_page;

use std::fs::File;
use std::os::fd::OwnedFd;

use casemate_kernel::{Entry, Format, ImageError, InvalidCommandLine, NoRoom};
use vm_memory::GuestMemoryError;

use crate::machine::{EntryPoint, Machine};

/// What a kernel must know of this machine, appended to every command line. Early messages go to the serial port, until
/// the virtio console is there. Linux takes hardware-reduced ACPI for a sign of EFI, and without being told would jump
/// to a BIOS that is not there when it is to reboot. Nothing on the PCI bus needs a workaround before ACPI tells of it: a
/// kernel for PCs would look for graphics bridges on all 256 buses, which are 33,000 exits.
const MACHINE: &str = "reboot=a earlyprintk=ttyS0 console=hvc0 pci=noearly";

/// What to boot.
#[derive(Debug)]
pub(crate) struct BootSource {
    /// The kernel.
    pub(crate) kernel: OwnedFd,
    /// What kind of image it is.
    pub(crate) format: Format,
    /// Its initrd.
    pub(crate) initrd: OwnedFd,
    /// Its command line, without the console.
    pub(crate) command_line: String,
}

/// The kernel cannot be booted on this machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// The image is not one that we can load.
    #[error(transparent)]
    Kernel(#[from] ImageError),
    /// Kernel and initrd do not fit.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The command line is not one.
    #[error(transparent)]
    CommandLine(#[from] InvalidCommandLine),
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

/// Loads everything and says where the first vCPU begins. What fails leaves nothing that could run.
pub(crate) fn load(machine: &Machine, source: BootSource) -> Result<EntryPoint, BootError> {
    let plan = kernel::load_kernel(machine, File::from(source.kernel), source.format)?;
    let initrd = kernel::load_initrd(machine, File::from(source.initrd), plan.end)?;
    kernel::write_command_line(machine, &format!("{} {MACHINE}", source.command_line))?;
    acpi::write(machine)?;
    match plan.entry {
        Entry::Pvh { address } => {
            start_info::write(machine, &initrd)?;
            Ok(EntryPoint::Pvh { address })
        }
        Entry::Long { address, setup } => {
            zero_page::write(machine, &setup, &initrd)?;
            Ok(EntryPoint::Long { address })
        }
    }
}
