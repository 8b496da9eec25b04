//! Boots a small guest on this machine's KVM, as the supervisor would, and looks at the process from outside.
#![expect(
    dead_code,
    reason = "the toy's modules are shared with the test of snapshots"
)]

#[path = "toy/audit.rs"]
mod audit;
#[cfg(feature = "escape-probe")]
#[path = "toy/escape.rs"]
mod escape;
#[path = "toy/jail.rs"]
mod jail;
#[path = "toy/payload.rs"]
mod payload;
#[path = "toy/sound.rs"]
mod sound;
#[path = "toy/vm.rs"]
mod vm;

use std::fs;
use std::os::fd::AsFd as _;

use casemate_vm::{Mebibytes, VmClass};
use casemate_vmm_control::{
    Action, Assigned, Event, KernelFormat, Launch, Phase, StopReason, encode,
};
use payload::{Access, End, WINDOW_SLOT};
use vm::{Parts, Vm};

/// A VM whose guest has printed its line and mapped the window memory.
fn booted() -> (Parts, Vm) {
    let parts = Parts::new(&payload::elf(WINDOW_SLOT));
    let vm = Vm::start(&parts);
    vm::eventually("the greeting in the window memory", || {
        vm::peek(&parts.window, 4) == payload::GREETING.to_le_bytes()
    });
    (parts, vm)
}

#[test]
fn a_guest_ends_in_the_way_it_asks_for() {
    if !vm::has_kvm() {
        return;
    }
    for (end, reason, code) in [
        (End::PowerOff, StopReason::PowerOff, 0),
        (End::ResetRegister, StopReason::Reset, 3),
        (End::KeyboardReset, StopReason::Reset, 3),
        (End::TripleFault, StopReason::Reset, 3),
        (End::PowerOffAfterSweep, StopReason::PowerOff, 0),
    ] {
        let (parts, vm) = booted();
        assert_eq!(vm::printed(&parts), payload::LINE);
        rustix::io::pwrite(&parts.window, &[end as u8], 0).expect("memory");
        assert_eq!(vm.event(), Event::Stopped { reason }, "{end:?}");
        assert_eq!(vm.wait(), Some(code), "{end:?}");
    }
}

#[test]
fn control_answers_and_kills() {
    if !vm::has_kvm() {
        return;
    }
    let (parts, mut vm) = booted();
    vm.reconnect(&parts);
    vm.act(&Action::Ping);
    assert!(matches!(
        vm.event(),
        Event::State {
            phase: Phase::Running,
            ..
        }
    ));
    vm.act(&Action::AttachLink {
        kind: casemate_vmm_control::LinkKind::Rpc,
    });
    assert!(matches!(vm.event(), Event::Failed { .. }), "no descriptor");
    vm.act(&Action::Kill);
    let reason = StopReason::Killed;
    assert_eq!(vm.event(), Event::Stopped { reason });
    assert_eq!(vm.wait(), Some(0));
}

/// The phase that the VM says it is in; anything else is a failure.
fn phase(vm: &Vm) -> Phase {
    match vm.event() {
        Event::State { phase, .. } => phase,
        other => panic!("{other:?} instead of a state"),
    }
}

/// Time that the vCPU threads have spent on a processor, in nanoseconds.
fn vcpu_time(vm: &Vm) -> Vec<String> {
    let pid = vm.pid.as_raw_nonzero();
    fs::read_dir(format!("/proc/{pid}/task"))
        .expect("it runs")
        .map(|task| task.expect("it runs").path())
        .filter(|task| {
            fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("vcpu"))
        })
        .map(|task| {
            let times = fs::read_to_string(task.join("schedstat")).expect("it runs");
            times.split(' ').next().unwrap_or_default().to_owned()
        })
        .collect()
}

#[test]
fn a_paused_guest_stands_still_until_it_is_resumed() {
    if !vm::has_kvm() {
        return;
    }
    let (parts, mut vm) = booted();
    for _ in 0..20 {
        vm.act(&Action::Pause);
        assert_eq!(phase(&vm), Phase::Paused);
        vm.act(&Action::Resume);
        assert_eq!(phase(&vm), Phase::Running);
    }
    for _ in 0..2 {
        vm.act(&Action::Pause);
        assert_eq!(phase(&vm), Phase::Paused, "also when it is paused already");
    }
    // The guest polls this byte and would power off at once.
    rustix::io::pwrite(&parts.window, &[End::PowerOff as u8], 0).expect("memory");
    // The threads settle on their way to sleep, and then run no more.
    let mut before = vcpu_time(&vm);
    vm::eventually("rest", || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let earlier = std::mem::replace(&mut before, vcpu_time(&vm));
        earlier == before
    });
    for _ in 0..100 {
        vm.act(&Action::Ping);
        assert_eq!(phase(&vm), Phase::Paused);
    }
    assert_eq!(vcpu_time(&vm), before);
    assert_eq!(before.len(), 2);
    // The next supervisor is told.
    vm.reconnect(&parts);
    vm.act(&Action::Resume);
    // It has that byte to read, and may be through with everything before the answer is written.
    assert!(matches!(phase(&vm), Phase::Running | Phase::Stopped));
    let reason = StopReason::PowerOff;
    assert_eq!(vm.event(), Event::Stopped { reason });
    assert_eq!(vm.wait(), Some(0));
}

#[test]
fn a_paused_vm_can_be_killed() {
    if !vm::has_kvm() {
        return;
    }
    let (_parts, vm) = booted();
    vm.act(&Action::Pause);
    assert_eq!(phase(&vm), Phase::Paused);
    vm.act(&Action::Kill);
    let reason = StopReason::Killed;
    assert_eq!(vm.event(), Event::Stopped { reason });
    assert_eq!(vm.wait(), Some(0));
}

#[test]
fn a_balloon_is_asked_for_memory_and_says_how_it_stands() {
    if !vm::has_kvm() {
        return;
    }
    let stands = |target| Event::Balloon {
        target: Mebibytes(target),
        actual: Mebibytes(0),
        given: Mebibytes(0),
        rounds: 0,
    };
    // A guest without a driver for it, which gives nothing.
    let parts = Parts::full(&payload::elf(payload::WINDOW_SLOT_OF_FULL));
    let vm = Vm::start(&parts);
    let ram = parts.launch().memory.bytes() >> 20;
    let all = u32::try_from(ram).expect("small");
    for (action, answer) in [
        (Action::AskBalloon, Some(0)),
        (
            Action::SetBalloon {
                target: Mebibytes(16),
            },
            Some(16),
        ),
        (
            Action::SetBalloon {
                target: Mebibytes(all),
            },
            Some(all),
        ),
        (
            Action::SetBalloon {
                target: Mebibytes(all + 1),
            },
            None,
        ),
        (
            Action::SetBalloon {
                target: Mebibytes(u32::MAX),
            },
            None,
        ),
        (Action::HintFreePages, Some(all)),
        (
            Action::SetBalloon {
                target: Mebibytes(0),
            },
            Some(0),
        ),
    ] {
        vm.act(&action);
        match (vm.event(), answer) {
            (event, Some(target)) => assert_eq!(event, stands(target), "{action:?}"),
            (Event::Failed { what }, None) => assert!(what.contains("64 MiB"), "{what}"),
            (event, None) => panic!("{action:?} was answered by {event:?}"),
        }
    }
    let bare = Parts::new(&payload::elf(WINDOW_SLOT));
    let vm = Vm::start(&bare);
    for action in [
        Action::AskBalloon,
        Action::HintFreePages,
        Action::SetBalloon {
            target: Mebibytes(1),
        },
    ] {
        vm.act(&action);
        let Event::Failed { what } = vm.event() else {
            panic!("{action:?} was taken without a balloon");
        };
        assert!(what.contains("no balloon"), "{what}");
    }
}

/// Vendor and device number in a PCI slot, as the guest reads them.
fn identity(parts: &Parts, slot: u8) -> u32 {
    let address = 1 << 31 | u32::from(slot) << 11;
    vm::port(parts, Access::Out, 0xcf8, address);
    vm::port(parts, Access::In, 0xcfc, 0)
}

#[test]
fn a_disk_is_plugged_in_and_given_back() {
    /// Registers of the hot-plug controller.
    const INSERTED: u16 = 0x610;
    const LEAVING: u16 = 0x614;
    const EJECT: u16 = 0x618;
    /// A virtio block device.
    const BLOCK: u32 = 0x1042_1af4;
    if !vm::has_kvm() {
        return;
    }
    let (parts, vm) = booted();
    let slot = WINDOW_SLOT + 1;
    let bit = 1 << slot;
    let serial = "private";
    let add = Action::AddDisk {
        serial: serial.to_owned(),
        read_only: false,
    };
    let file = tempfile::tempfile().expect("a file");
    file.set_len(1 << 20).expect("room");
    for round in 0..5 {
        assert_eq!(identity(&parts, slot), u32::MAX, "round {round}");
        vm.act_with(&add, &[file.as_fd()]);
        let serial = serial.to_owned();
        assert_eq!(vm.event(), Event::DeviceAdded { slot, serial });
        assert_eq!(vm::port(&parts, Access::In, INSERTED, 0), bit);
        assert_eq!(identity(&parts, slot), BLOCK);

        // The guest gives nothing back that nobody wants.
        vm::port(&parts, Access::Out, EJECT, u32::MAX);
        assert_eq!(identity(&parts, slot), BLOCK);
        vm.act(&Action::RemoveDevice { slot });
        vm.act(&Action::Ping);
        assert_eq!(phase(&vm), Phase::Running);
        assert_eq!(vm::port(&parts, Access::In, LEAVING, 0), bit);
        vm::port(&parts, Access::Out, EJECT, bit);
        assert_eq!(vm.event(), Event::DeviceRemoved { slot });
    }
    // What was there from the start, what is empty and what is no slot.
    for slot in [0, 1, WINDOW_SLOT, slot, 32, 255] {
        vm.act(&Action::RemoveDevice { slot });
        assert!(matches!(vm.event(), Event::Failed { .. }), "{slot}");
    }
    let odd = tempfile::tempfile().expect("a file");
    odd.set_len(513).expect("room");
    for descriptors in [&[][..], &[file.as_fd(), file.as_fd()], &[odd.as_fd()]] {
        vm.act_with(&add, descriptors);
        assert!(
            matches!(vm.event(), Event::Failed { .. }),
            "{descriptors:?}"
        );
    }
    assert_eq!(vm::port(&parts, Access::In, INSERTED, 0), 0);
    vm.act(&Action::Kill);
    let reason = StopReason::Killed;
    assert_eq!(vm.event(), Event::Stopped { reason });
    assert_eq!(vm.wait(), Some(0));
}

#[test]
fn what_cannot_start_says_why() {
    if !vm::has_kvm() {
        return;
    }
    let parts = Parts::new(&payload::elf(WINDOW_SLOT));
    let not_elf = Parts::new(b"not a kernel, and long enough to have an ELF header in front of it");
    let launch = parts.launch();
    let change = |change: fn(&mut Launch)| {
        let mut changed = launch.clone();
        change(&mut changed);
        changed
    };
    for (what, launch) in [
        ("not a loadable ELF image", not_elf.launch()),
        (
            "not a bzImage",
            change(|launch| launch.kernel_format = KernelFormat::BzImage),
        ),
        (
            "at most 2047 are read",
            change(|launch| launch.cmdline = "x".repeat(2048)),
        ),
        (
            "a NUL at byte 1",
            change(|launch| launch.cmdline = "a\0b".to_owned()),
        ),
        (
            "a passthrough VM has no balloon",
            change(|launch| {
                launch.class = VmClass::Passthrough;
                launch.balloon = true;
            }),
        ),
        (
            "a cloneable VM has no host devices",
            change(|launch| {
                launch.assigned = Some(Assigned {
                    container: launch.kernel,
                    groups: Vec::new(),
                });
            }),
        ),
        // Not a container: whatever it answers, it is named.
        (
            "VFIO container",
            change(|launch| {
                launch.class = VmClass::Passthrough;
                launch.assigned = launch.window_memory.take().map(|container| Assigned {
                    container,
                    groups: Vec::new(),
                });
            }),
        ),
        (
            "named twice",
            change(|launch| launch.initrd = launch.kernel),
        ),
        ("is not open", change(|launch| launch.initrd = 1000)),
    ] {
        refused(what, &encode(&launch));
    }
    // What is no size of a machine is no launch description.
    let text = String::from_utf8(encode(&launch)).expect("JSON");
    for (what, from, to) in [
        ("0 vCPUs; a VM has 1 to 8", "\"vcpus\":2", "\"vcpus\":0"),
        ("9 vCPUs; a VM has 1 to 8", "\"vcpus\":2", "\"vcpus\":9"),
        (
            "63 MiB of memory; a VM has 64",
            "\"memory\":64",
            "\"memory\":63",
        ),
        ("65537 MiB of memory", "\"memory\":64", "\"memory\":65537"),
        // Names are parts of paths elsewhere.
        ("malformed", "\"toy\"", "\"../toy\""),
        ("malformed", "\"toy\"", "\"a/b\""),
        ("malformed", "\"toy\"", "\"..\""),
        ("malformed", "\"toy\"", "\"\""),
        ("malformed", "\"toy\"", "\"toy\\n\""),
        ("malformed", "\"toy\"", "\"to\\u0000y\""),
        ("malformed", "\"toy\"", &format!("{:?}", "x".repeat(65))),
        ("malformed", "\"toy\"", "{}"),
        // Numbers of descriptors that are none.
        ("is a standard stream", "\"kernel\":", "\"kernel\":-"),
        ("malformed", "\"kernel\":", "\"kernel\":999999999"),
        ("malformed", "\"vcpus\":", "\"more\":1,\"vcpus\":"),
        ("malformed", "\"vcpus\":2", "\"vcpus\":2,\"vcpus\":2"),
    ] {
        let changed = text.replace(from, to);
        assert_ne!(changed, text);
        refused(what, changed.as_bytes());
    }
}

/// The launcher ends with one line that says `what`.
fn refused(what: &str, description: &[u8]) {
    let output = vm::start_described(description);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{what}: {errors}");
    assert!(errors.contains(what), "{what}: {errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(output.stdout.is_empty());
}
