//! From the command line to the end of the VM, step by step.
//!
//! ```text
//! read description -> open KVM -> claim descriptors, close the rest
//!   -> jail (fork: the launcher waits outside, the VM goes on inside)
//!   -> machine, kernel or snapshot, devices, threads -> filters on every thread -> tell the launcher, run
//! ```
//!
//! Nothing of the guest runs before all filters are in place, and everything that parses what a template could
//! have spoiled (the kernel image, an overlay) happens inside the namespaces already.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use anyhow::{Context, Result};
use casemate_devices::event_loop::EventLoop;
use casemate_kernel::Format;
use casemate_vmm_control::{KernelFormat, Launch, StopReason};
use rustix::fs::{Mode, OFlags};

use crate::arguments::{Command, HELP};
use crate::boot::{self, BootSource};
use crate::control::{Control, Reach};
use crate::devices::{self, Peripherals};
use crate::generation;
use crate::inherited::{self, Begin, Inherited};
use crate::jail::{self, Filters, Inside, Jailed, ThreadClass};
use crate::machine::Machine;
use crate::report::{self, NoKvm};
use crate::snapshot::working_set::WorkingSet;
use crate::snapshot::{self, DeviceState, RestoreError, Saver};
use crate::stop::Stop;
use crate::vcpu::{Gate, Outside, Vcpus};

/// How long threads may take to end before the process ends anyway: a disk on a dead network file system must not
/// keep a stopped VM alive.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Does what the command line asks; returns when the VM has ended, or in the launcher when it runs.
///
/// # Errors
/// Whatever keeps the VM from running, for a person to read.
pub(crate) fn run(command: Command) -> Result<ExitCode> {
    let (description, namespaces, own_user) = match command {
        Command::Launch {
            description,
            namespaces,
            own_user,
        } => (description, namespaces, own_user),
        Command::Help => return print(HELP),
        Command::Version => return print(concat!("casemate-vmm ", env!("CARGO_PKG_VERSION"))),
    };
    let launch = inherited::read_launch(description)?;
    let mut inherited = Inherited::claim(&launch)?;
    let kvm = match inherited.kvm.take() {
        Some(kvm) => kvm,
        None => open_kvm()?,
    };
    match jail::enter(namespaces, own_user)? {
        Jailed::Launcher(code) => Ok(code),
        Jailed::Inside(inside) => run_inside(&launch, inherited, kvm, inside),
    }
}

fn print(text: &str) -> Result<ExitCode> {
    writeln!(std::io::stdout(), "{text}")?;
    Ok(ExitCode::SUCCESS)
}

fn open_kvm() -> Result<OwnedFd, NoKvm> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/dev/kvm", flags, Mode::empty())?)
}

/// Makes the machine as it is before anything runs: at the entry of a kernel, or where a snapshot was.
fn begin(kvm: OwnedFd, begin: Begin, launch: &Launch) -> Result<(Machine, Option<DeviceState>)> {
    let make = |saved| Machine::new(kvm, launch.memory, launch.vcpus, launch.cpu, saved);
    match begin {
        Begin::Boot { kernel, initrd } => {
            let machine = make(None)?;
            let source = BootSource {
                kernel,
                format: match launch.kernel_format {
                    KernelFormat::Elf => Format::Elf,
                    KernelFormat::BzImage => Format::BzImage,
                },
                initrd,
                command_line: launch.cmdline.clone(),
            };
            let entry = boot::load(&machine, source)?;
            machine.enter_at(entry)?;
            Ok((machine, None))
        }
        Begin::Restore(saved) => {
            let machine = make(Some(&saved.memory))?;
            let state = snapshot::read(&saved, &machine.host, machine.vcpus.len(), machine.ram)?;
            machine.restore(&state.chips, &state.vcpus)?;
            if let Some(file) = &saved.working_set {
                let set = WorkingSet::read(file, machine.ram).map_err(RestoreError::from)?;
                machine.prefault(&set);
            }
            Ok((machine, Some(state.devices)))
        }
    }
}

/// Builds the VM, runs it, takes it down.
fn run_inside(
    launch: &Launch,
    inherited: Inherited,
    kvm: OwnedFd,
    mut inside: Inside,
) -> Result<ExitCode> {
    report::set_name(&launch.name.to_string());
    let windows = inherited
        .window_memory
        .as_ref()
        .map_or(Ok(0), inherited::len)?;
    // How much of an assigned device is mapped is known only when it is.
    if inherited.assigned.is_none() {
        inside.limit_memory(launch.memory.bytes().saturating_add(windows))?;
    }
    let (mut machine, saved) = begin(kvm, inherited.begin, launch)?;
    generation::renew(&machine.memory).context("cannot say which clone the guest is")?;

    let main_loop = EventLoop::new().context("cannot make the event loop")?;
    let stop = Arc::new(Stop::new(main_loop.clone()));
    let peripherals = Peripherals {
        id: launch.id,
        disks: inherited.disks,
        networks: inherited.networks,
        balloon: launch.balloon,
        sound: inherited.sound,
        assigned: inherited.assigned,
        window_memory: inherited.window_memory,
        console_log: inherited.console_log,
        links: inherited.links,
    };
    let devices = devices::assemble(&machine, peripherals, &main_loop, &stop, saved.as_ref())?;
    let vcpus = std::mem::take(&mut machine.vcpus);
    let workers = devices.disks.iter().map(|disk| disk.workers.len());
    let threads = 1 + vcpus.len() + workers.sum::<usize>() + 1;
    let gate = Gate {
        filters: Arc::new(Filters::new().context("cannot compile the system call filters")?),
        barrier: Arc::new(Barrier::new(threads)),
    };
    let outside = Outside {
        memory: devices.memory_bus,
        ports: devices.port_bus,
        stop: Arc::clone(&stop),
    };
    let saver = Saver {
        vm: Arc::clone(&machine.vm),
        memory: Arc::clone(&machine.memory),
        msrs: machine.msrs,
        host: machine.host,
        id: launch.id.0,
        ram: machine.ram,
        root: devices.root,
        ports: devices.config_ports,
        serial: devices.serial,
        disks: devices.disks.clone(),
        sound: devices.sound.as_ref().map(|card| Arc::clone(&card.device)),
        pagemap: inside.pagemap.take(),
    };
    let loops = devices.disks.into_iter().flat_map(|disk| disk.workers);
    let loops = loops.chain([devices.plug_loop]).collect();
    let disks = devices::run_disks(loops, &gate).context("cannot start a thread")?;
    let vcpus = Vcpus::spawn(vcpus, &outside, &gate, saved.is_some())
        .context("cannot start a vCPU's thread")?;
    let vcpus = Arc::new(vcpus);
    let control = Control::start(
        inherited.control,
        inside.host_pid,
        Reach {
            vsock: devices.vsock.clone(),
            sound: devices.sound,
            power_button: devices.power_button,
            plugs: devices.plugs,
            class: launch.class,
            ram: launch.memory,
            balloon: devices.balloon,
        },
        Arc::clone(&vcpus),
        saver,
        Arc::clone(&stop),
        &main_loop,
    )
    .context("cannot listen on the control socket")?;
    inside.ready().context("the launcher has gone")?;
    gate.pass(ThreadClass::Main);
    tracing::info!("running");

    if let Err(error) = main_loop.run() {
        tracing::error!(%error, "event loop");
        stop.ask(StopReason::Error);
    }
    let reason = stop.reason().unwrap_or(StopReason::Error);
    // Killed means at once: whoever asked does not care for what is in flight.
    if reason != StopReason::Killed {
        let ended = vcpus.stop(STOP_LIMIT) && disks.stop(STOP_LIMIT);
        if !ended {
            tracing::warn!("a thread did not end in time");
        }
    }
    control.stopped(reason);
    tracing::info!(?reason, "stopped");
    Ok(report::exit_code(reason))
}
