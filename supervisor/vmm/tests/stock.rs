//! Stock kernels of a distribution on this monitor. Runs where `CASEMATE_STOCK` names a folder with `vmlinux` (ELF),
//! `vmlinuz` (bzImage) and `initrd`, whose `/init` is `stock/init.sh`: in the lab, by `cargo xtask lab stock`. A software
//! /dev/kvm cannot run them.

#[path = "toy/payload.rs"]
#[expect(dead_code, reason = "the small guest has another test")]
mod payload;
#[path = "../../../tests/lab/vms/src/bin/lab-sound-guest/signal.rs"]
#[expect(dead_code, reason = "the guest reads it, too")]
mod signal;
#[path = "stock/sound.rs"]
mod sound;
#[path = "toy/vm.rs"]
#[expect(dead_code, reason = "shared with another test")]
mod vm;

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use casemate_vm::{PciAddress, VcpuCount, VmClass};
use casemate_vmm_control::{
    Action, Assigned, AssignedGroup, CpuModel, Event, KernelFormat, Launch, Phase, Sound,
    StopReason,
};
use vm::{Parts, Vm};

/// Where the kernels are.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn stock() -> Option<PathBuf> {
    let folder = std::env::var_os("CASEMATE_STOCK").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: CASEMATE_STOCK names no folder with kernels");
    }
    folder
}

/// A VM to be started.
struct Guest {
    kernel: &'static str,
    format: KernelFormat,
    cpu: CpuModel,
    vcpus: u8,
}

const ELF: Guest = Guest {
    kernel: "vmlinux",
    format: KernelFormat::Elf,
    cpu: CpuModel::Host,
    vcpus: 1,
};

impl Guest {
    /// Starts it and waits until its init is up.
    fn boot(&self, folder: &std::path::Path) -> (Parts, Vm) {
        self.boot_with(folder, |_| {})
    }

    /// The same, with a description that was changed.
    fn boot_with(&self, folder: &std::path::Path, change: impl FnOnce(&mut Launch)) -> (Parts, Vm) {
        let read = |name: &str| fs::read(folder.join(name)).expect("it was laid out");
        let parts = Parts::with_initrd(&read(self.kernel), &read("initrd"));
        let mut launch = parts.launch();
        launch.memory = casemate_vm::Mebibytes(256).try_into().expect("a size");
        launch.vcpus = VcpuCount::try_from(self.vcpus).expect("a number");
        launch.kernel_format = self.format;
        launch.cpu = self.cpu;
        let more = std::env::var("CASEMATE_STOCK_CMDLINE").unwrap_or_default();
        // Warnings, too.
        launch.cmdline = format!("loglevel=5 panic=-1 cryptomgr.notests {more}");
        change(&mut launch);
        let vm = Vm::start_as(&parts, &launch);
        let boot = said(&parts, "stock: up");
        let wrong = boot.lines().find(|line| line.contains("unchecked MSR"));
        assert_eq!(wrong, None, "a kernel needs a register that is denied");
        (parts, vm)
    }
}

/// How long a guest may take to say what it should: four times what it takes in a lab without hardware virtualization.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until the guest has said `text`; what it said until now.
fn said(parts: &Parts, text: &str) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let said = vm::printed(parts);
        if said.contains(text) {
            return said;
        }
        assert!(!said.contains("stock: sound failed"), "{said}");
        assert!(Instant::now() < end, "no word of {text:?}:\n{said}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What follows `label` on its line.
fn value<'a>(text: &'a str, label: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.split_once(label));
    line.map_or("", |(_, value)| value.trim())
}

fn end(vm: Vm) {
    vm.act(&Action::Kill);
    let reason = StopReason::Killed;
    assert_eq!(vm.event(), Event::Stopped { reason });
    assert_eq!(vm.wait(), Some(0));
}

#[test]
fn an_elf_kernel_lies_where_it_was_linked_to_and_a_bzimage_where_it_likes() {
    let Some(folder) = stock() else { return };
    let place = |kernel, format| {
        let guest = Guest {
            kernel,
            format,
            ..ELF
        };
        let (parts, vm) = guest.boot(&folder);
        let text = said(&parts, "stock: cpus");
        assert!(!text.contains("stock: complaint"), "{text}");
        end(vm);
        value(&text, "stock: code").to_owned()
    };
    let elf = place("vmlinux", KernelFormat::Elf);
    assert!(elf.starts_with("01000000-"), "{elf}");
    let places: Vec<_> = (0..3)
        .map(|_| place("vmlinuz", KernelFormat::BzImage))
        .collect();
    // Three times the same of some eighty would be chance once in thousands.
    assert!(places.iter().any(|place| *place != places[0]), "{places:?}");
    assert!(places.iter().all(|place| place.contains('-')), "{places:?}");
}

#[test]
fn the_compatible_processor_is_what_its_table_says() {
    let Some(folder) = stock() else { return };
    // Without XSAVE: the emulator under a lab does not tell a hypervisor that its guest executes XSETBV, so KVM enters the
    // guest with what XCR0 was at reset, and a signal's frame cannot be restored sooner or later.
    for vcpus in [1, 2] {
        let guest = Guest {
            cpu: CpuModel::Compatible,
            vcpus,
            ..ELF
        };
        let (parts, vm) = guest.boot_with(&folder, |launch| launch.cmdline.push_str(" noxsave"));
        let text = said(&parts, "stock: cpus");
        assert_eq!(value(&text, "stock: cpus"), vcpus.to_string());
        assert_eq!(
            value(&text, "stock: model"),
            "Casemate virtual CPU, x86-64-v2"
        );
        let flags: Vec<_> = value(&text, "stock: flags").split(' ').collect();
        for flag in ["sse4_2", "popcnt", "aes", "hypervisor", "nx"] {
            assert!(flags.contains(&flag), "{flag} of {flags:?}");
        }
        for flag in ["avx", "avx2", "svm", "vmx", "la57", "xsaveopt", "bmi1"] {
            assert!(!flags.contains(&flag), "{flag} of {flags:?}");
        }
        end(vm);
    }
}

/// Host devices that are bound to vfio-pci, each the only one of its group that a driver wants, as descriptors that a
/// VM inherits.
struct HostDevices {
    container: OwnedFd,
    /// Addresses with their groups.
    devices: Vec<(PciAddress, OwnedFd)>,
}

/// Opens a file of vfio for a VM; somebody may still have it.
fn open_vfio(path: &str) -> std::io::Result<OwnedFd> {
    let file = fs::File::options().read(true).write(true).open(path)?;
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty())?;
    Ok(file.into())
}

impl HostDevices {
    /// Those that the variable names, of which there are none outside of the lab.
    fn open(variable: &str) -> Option<Self> {
        let names = std::env::var(variable).ok()?;
        let device = |name: &str| {
            let link = fs::read_link(format!("/sys/bus/pci/devices/{name}/iommu_group"));
            let group = link.expect("an IOMMU is there");
            let number = group.file_name().expect("a number").to_string_lossy();
            let path = format!("/dev/vfio/{number}");
            // The kernel lets nobody have a group that another has, so it waits for the VM before.
            let mut file = None;
            vm::eventually(&format!("{path} is free"), || {
                file = open_vfio(&path).ok();
                file.is_some()
            });
            (
                name.parse().expect("an address"),
                file.expect("just opened"),
            )
        };
        Some(Self {
            container: open_vfio("/dev/vfio/vfio").expect("vfio is loaded"),
            devices: names.split_whitespace().map(device).collect(),
        })
    }

    fn describe(&self, launch: &mut Launch) {
        launch.class = VmClass::Passthrough;
        let groups = self.devices.iter().map(|(address, group)| AssignedGroup {
            file: group.as_raw_fd(),
            devices: vec![*address],
        });
        launch.assigned = Some(Assigned {
            container: self.container.as_raw_fd(),
            groups: groups.collect(),
        });
    }

    /// Boots a guest that has them; the test has them no longer, so that they are free when the VM gives them back.
    /// The slots where they are: after bridge, rng, console, vsock and window memory.
    fn boot(self, folder: &std::path::Path) -> (Parts, Vm, std::ops::Range<u8>) {
        let (parts, vm) = ELF.boot_with(folder, |launch| self.describe(launch));
        let count = u8::try_from(self.devices.len()).expect("a few");
        (parts, vm, 5..5 + count)
    }
}

/// What the guest has to say of each device that it found at work; the variable has them with `|` between.
fn expected_of_devices(variable: &str) -> Vec<String> {
    let text = std::env::var(variable).unwrap_or_default();
    let words = text.split('|').filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

#[test]
fn host_devices_work_in_a_vm_and_are_given_back() {
    let Some(folder) = stock() else { return };
    // Taken out of a running guest, which leaves them good for another; and ended with their VM.
    for unplug in [true, false] {
        let Some(devices) = HostDevices::open("CASEMATE_ASSIGN") else {
            return;
        };
        let (parts, vm, slots) = devices.boot(&folder);
        for text in expected_of_devices("CASEMATE_ASSIGN_SAYS") {
            said(&parts, &text);
        }
        if unplug {
            for slot in slots {
                vm.act(&Action::RemoveDevice { slot });
                assert_eq!(vm.event(), Event::DeviceRemoved { slot });
            }
            said(&parts, "stock: no host device");
            // While the VM runs on.
            drop(HostDevices::open("CASEMATE_ASSIGN"));
            vm.act(&Action::Ping);
            assert!(matches!(vm.event(), Event::State { .. }));
        }
        end(vm);
    }
}

/// By the driver of a stock kernel, whose guest says what it hears.
#[test]
fn a_sound_card_plays_what_it_is_given_and_records_silence_without_a_grant() {
    let Some(folder) = stock() else { return };
    let [near, far] = vm::pair();
    let (parts, vm) = ELF.boot_with(&folder, |launch| {
        launch.sound = Some(Sound {
            speaker: Some(near.as_raw_fd()),
            can_record: true,
        });
    });
    drop(near);
    let speaker = sound::Speaker::start(far);
    // In the middle of the last run the VM stands still, and nothing of it is lost.
    said(&parts, "stock: sound 1 played");
    speaker.wait_for_run(sound::RUNS.len());
    vm.act(&Action::Pause);
    let phase = Phase::Paused;
    assert!(matches!(vm.event(), Event::State { phase: is, .. } if is == phase));
    vm.act(&Action::Resume);
    assert!(matches!(vm.event(), Event::State { .. }));
    said(&parts, "stock: sound recorded silence");
    println!(
        "the card is {}, and recorded silence without a grant",
        value(&vm::printed(&parts), "stock: card")
    );
    end(vm);
    speaker.end();
}

#[test]
fn disks_are_plugged_in_used_and_given_back() {
    let Some(folder) = stock() else { return };
    let (parts, vm) = ELF.boot(&folder);
    let mut slots = Vec::new();
    for round in 0..3 {
        let disks: Vec<_> = ["left", "right"]
            .into_iter()
            .map(|serial| {
                let file = tempfile::tempfile().expect("a file");
                file.set_len(1 << 20).expect("room");
                let text = format!("{serial}{round}-from-host\n");
                file.write_all_at(text.as_bytes(), 0).expect("room");
                (format!("{serial}{round}"), file)
            })
            .collect();
        let mut places = Vec::new();
        for (serial, file) in &disks {
            let add = Action::AddDisk {
                serial: serial.clone(),
                read_only: false,
            };
            vm.act_with(&add, &[file.as_fd()]);
            match vm.event() {
                Event::DeviceAdded { slot, serial: of } => {
                    assert_eq!(&of, serial);
                    places.push(slot);
                }
                other => panic!("{other:?}"),
            }
            // The guest has found it, read its start and written its second sector.
            said(&parts, &format!("{serial}-from-host"));
            said(&parts, &format!("stock: wrote {serial}"));
            let mut sector = [0; 16];
            file.read_exact_at(&mut sector, 512).expect("a sector");
            assert!(sector.starts_with(b"written by guest"), "{sector:?}");
        }
        for ((serial, _), slot) in disks.iter().zip(&places) {
            vm.act(&Action::RemoveDevice { slot: *slot });
            assert_eq!(vm.event(), Event::DeviceRemoved { slot: *slot });
            said(&parts, &format!("stock: lost {serial}"));
        }
        slots.push(places);
    }
    assert!(slots.windows(2).all(|pair| pair[0] == pair[1]), "{slots:?}");
    end(vm);
}
