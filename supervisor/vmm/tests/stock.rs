//! Stock kernels of a distribution on this monitor. Runs where `CASEMATE_STOCK` names a folder with `vmlinux` (ELF),
//! `vmlinuz` (bzImage) and `initrd`, whose `/init` is `stock/init.sh`: in the lab, by `cargo xtask lab stock`. A software
//! /dev/kvm cannot run them.

#[path = "toy/payload.rs"]
#[expect(dead_code, reason = "the small guest has another test")]
mod payload;
#[path = "toy/vm.rs"]
#[expect(dead_code, reason = "shared with another test")]
mod vm;

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use casemate_vm::{PciAddress, VcpuCount, VmClass};
use casemate_vmm_control::{
    Action, Assigned, AssignedGroup, CpuModel, Event, KernelFormat, Launch, StopReason,
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
        launch.cmdline = "quiet panic=-1 cryptomgr.notests".to_owned();
        change(&mut launch);
        let vm = Vm::start_as(&parts, &launch);
        said(&parts, "stock: up");
        (parts, vm)
    }
}

/// Waits until the guest has said `text`; what it said until now.
fn said(parts: &Parts, text: &str) -> String {
    vm::eventually(text, || vm::printed(parts).contains(text));
    vm::printed(parts)
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
    let guest = Guest {
        cpu: CpuModel::Compatible,
        vcpus: 2,
        ..ELF
    };
    let (parts, vm) = guest.boot(&folder);
    let text = said(&parts, "stock: cpus");
    assert_eq!(value(&text, "stock: cpus"), "2");
    assert_eq!(
        value(&text, "stock: model"),
        "Casemate virtual CPU, x86-64-v2"
    );
    let flags: Vec<_> = value(&text, "stock: flags").split(' ').collect();
    for flag in ["sse4_2", "popcnt", "aes", "xsave", "hypervisor", "nx"] {
        assert!(flags.contains(&flag), "{flag} of {flags:?}");
    }
    for flag in ["avx", "avx2", "svm", "vmx", "la57", "xsaveopt", "bmi1"] {
        assert!(!flags.contains(&flag), "{flag} of {flags:?}");
    }
    end(vm);
}

/// A host device that is bound to vfio-pci, with its group.
struct HostDevice {
    address: PciAddress,
    group: OwnedFd,
}

/// Devices that `CASEMATE_ASSIGN` names, each the only one of its group that a driver wants.
fn host_devices() -> Vec<HostDevice> {
    let names = std::env::var("CASEMATE_ASSIGN").unwrap_or_default();
    let open = |path: &str| -> OwnedFd {
        let file = fs::File::options().read(true).write(true).open(path);
        file.unwrap_or_else(|error| panic!("{path}: {error}"))
            .into()
    };
    names
        .split_whitespace()
        .map(|name| {
            let link = fs::read_link(format!("/sys/bus/pci/devices/{name}/iommu_group"));
            let group = link.expect("an IOMMU is there");
            let number = group.file_name().expect("a number").to_string_lossy();
            HostDevice {
                address: name.parse().expect("an address"),
                group: open(&format!("/dev/vfio/{number}")),
            }
        })
        .collect()
}

/// What the guest has to say of each device that it found at work; `CASEMATE_ASSIGN_SAYS` has them with `|` between.
fn expected_of_devices() -> Vec<String> {
    let text = std::env::var("CASEMATE_ASSIGN_SAYS").unwrap_or_default();
    let words = text.split('|').filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

#[test]
fn host_devices_work_in_a_vm_and_are_given_back() {
    let Some(folder) = stock() else { return };
    let devices = host_devices();
    if devices.is_empty() {
        // The lab names them; see the task that starts it.
        return;
    }
    let container = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/vfio/vfio")
        .expect("vfio is loaded");
    for descriptor in devices
        .iter()
        .map(|device| device.group.as_fd())
        .chain([container.as_fd()])
    {
        rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty()).expect("open");
    }
    let (parts, vm) = ELF.boot_with(&folder, |launch| {
        launch.class = VmClass::Passthrough;
        launch.assigned = Some(Assigned {
            container: container.as_raw_fd(),
            groups: devices
                .iter()
                .map(|device| AssignedGroup {
                    file: device.group.as_raw_fd(),
                    devices: vec![device.address],
                })
                .collect(),
        });
    });
    // The VM has its own copies; the kernel lets nobody else have a group.
    drop(container);
    let slots = devices.len();
    drop(devices);
    for text in expected_of_devices() {
        said(&parts, &text);
    }
    // After bridge, rng, console, vsock and window memory.
    for slot in (5..).take(slots) {
        vm.act(&Action::RemoveDevice { slot });
        assert_eq!(vm.event(), Event::DeviceRemoved { slot });
    }
    said(&parts, "stock: no host device");
    end(vm);
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
