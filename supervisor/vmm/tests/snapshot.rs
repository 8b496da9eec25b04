//! Saves a small guest on this machine's KVM, and lets it go on: here, in a clone, in two at once, and in a clone of one.
#![expect(
    dead_code,
    reason = "the toy's modules are shared with the test of boots"
)]

#[path = "toy/counter.rs"]
mod counter;
#[path = "toy/payload.rs"]
mod payload;
#[path = "toy/vm.rs"]
mod vm;

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use casemate_vm::VmId;
use casemate_vmm_control::{Action, Event, Launch, Phase, Restore, SnapshotKey, StopReason};
use counter::{COUNT, GENERATION, RANDOM, SPOILED};
use payload::End;
use rustix::fs::SealFlags;
use vm::{Parts, Vm};

/// Places on the PCI bus, after the bridge: random numbers, console, vsock, window memory.
const RNG_SLOT: u8 = 1;
const WINDOW_SLOT: u8 = 4;

/// Bytes before the state in its file.
const HEADER: usize = 88;

/// Says why nothing is tested on a machine without KVM.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn has_kvm() -> bool {
    let opened = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    if let Err(error) = &opened {
        println!("skipped: /dev/kvm: {error}");
    }
    opened.is_ok()
}

/// A number that the guest shows.
fn shown(parts: &Parts, offset: u64) -> u32 {
    u32::from_le_bytes(vm::peek(&parts.window, offset))
}

fn counted_to(parts: &Parts, count: u32) {
    vm::eventually("the guest counts on", || shown(parts, COUNT) >= count);
}

/// The files of a snapshot.
struct Snapshot {
    state: OwnedFd,
    memory: OwnedFd,
    key: SnapshotKey,
    of: VmId,
}

impl Snapshot {
    fn new(of: VmId) -> Self {
        Self {
            state: vm::memory("state", &[]),
            memory: vm::memory("saved-ram", &[]),
            key: SnapshotKey::new([0x5a; 32]),
            of,
        }
    }

    /// Asks a VM for it; what the VM answers.
    fn take(&self, vm: &Vm) -> Event {
        let key = self.key.clone();
        let files = [self.state.as_fd(), self.memory.as_fd()];
        vm.act_with(&Action::Snapshot { key }, &files);
        vm.event()
    }

    /// Of a running VM, which stands still afterwards. Nobody can change it any more.
    fn of(parts: &Parts, vm: &Vm) -> Self {
        let snapshot = Self::new(parts.id);
        vm.act(&Action::Pause);
        assert_eq!(phase(vm.event()), Phase::Paused);
        assert_eq!(phase(snapshot.take(vm)), Phase::Paused);
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
        rustix::fs::fcntl_add_seals(&snapshot.memory, seals).expect("nobody has it mapped");
        snapshot
    }

    fn restore(&self) -> Restore {
        Restore {
            state: self.state.as_raw_fd(),
            memory: self.memory.as_raw_fd(),
            key: self.key.clone(),
            taken_from: self.of,
            working_set: None,
        }
    }

    /// A launch description for a clone.
    fn launch(&self, parts: &Parts) -> Launch {
        Launch {
            restore: Some(self.restore()),
            ..parts.launch()
        }
    }

    /// The bytes of both files.
    fn bytes(&self) -> [Vec<u8>; 2] {
        [&self.state, &self.memory].map(|file| {
            let len = rustix::fs::fstat(file).expect("open").st_size;
            let mut bytes = vec![0; usize::try_from(len).expect("small")];
            let mut at = 0;
            while at < bytes.len() {
                let offset = u64::try_from(at).expect("small");
                at += rustix::io::pread(file, &mut bytes[at..], offset).expect("memory");
            }
            bytes
        })
    }
}

fn phase(event: Event) -> Phase {
    match event {
        Event::State { phase, .. } => phase,
        other => panic!("{other:?} instead of a state"),
    }
}

/// Parts of the VM with this id.
fn parts(id: u32) -> Parts {
    let mut parts = Parts::new(&counter::elf(RNG_SLOT, WINDOW_SLOT));
    parts.id = VmId(id);
    parts
}

/// A clone that has gone on for a while.
fn clone(id: u32, snapshot: &Snapshot, from: u32) -> (Parts, Vm) {
    let parts = parts(id);
    let vm = Vm::start_as(&parts, &snapshot.launch(&parts));
    vm::eventually("the first round", || shown(&parts, COUNT) != 0);
    assert!(shown(&parts, COUNT) >= from, "it goes on, not begins");
    counted_to(&parts, from + 20);
    assert_eq!(shown(&parts, SPOILED), 0, "memory is as it was");
    (parts, vm)
}

fn power_off(parts: &Parts, vm: Vm) {
    end(parts, vm, End::PowerOff);
}

fn end(parts: &Parts, vm: Vm, how: End) {
    rustix::io::pwrite(&parts.window, &[how as u8], 0).expect("memory");
    let reason = StopReason::PowerOff;
    assert_eq!(vm.event(), Event::Stopped { reason });
    assert_eq!(vm.wait(), Some(0));
}

fn kill(vm: Vm) {
    vm.act(&Action::Kill);
    assert_eq!(vm.wait(), Some(0));
}

#[test]
fn clones_go_on_where_the_saved_guest_was() {
    if !has_kvm() {
        return;
    }
    let first = parts(3);
    let vm = Vm::start(&first);
    counted_to(&first, 20);
    let snapshot = Snapshot::of(&first, &vm);
    let (at, generation) = (shown(&first, COUNT), shown(&first, GENERATION));
    let files = snapshot.bytes();
    // The one that was saved goes on like any other.
    vm.act(&Action::Resume);
    assert_eq!(phase(vm.event()), Phase::Running);
    counted_to(&first, at + 20);
    kill(vm);

    // Two at once, each with its own memory and its own random numbers.
    let (second, vm2) = clone(4, &snapshot, at);
    let (third, vm3) = clone(5, &snapshot, at);
    let generations = [
        generation,
        shown(&second, GENERATION),
        shown(&third, GENERATION),
    ];
    assert!(!generations.contains(&0), "{generations:x?}");
    assert_ne!(generations[0], generations[1]);
    assert_ne!(generations[0], generations[2]);
    assert_ne!(generations[1], generations[2]);
    assert_ne!(shown(&second, RANDOM), shown(&third, RANDOM));

    // A clone of a clone: pages that neither of them ever wrote are there, too.
    let again = Snapshot::of(&second, &vm2);
    let later = shown(&second, COUNT);
    kill(vm2);
    let (fourth, vm4) = clone(6, &again, later);
    // What one does to its memory is nobody else's.
    end(&third, vm3, End::PowerOffAfterSpoiling);
    let (fifth, vm5) = clone(7, &snapshot, at);
    power_off(&fifth, vm5);
    counted_to(&fourth, shown(&fourth, COUNT) + 20);
    assert_eq!(shown(&fourth, SPOILED), 0);
    power_off(&fourth, vm4);
    assert!(snapshot.bytes() == files, "clones change nothing in it");
}

#[test]
fn a_snapshot_has_only_what_the_guest_has_touched() {
    if !has_kvm() {
        return;
    }
    let parts = parts(3);
    let vm = Vm::start(&parts);
    counted_to(&parts, 3);
    let snapshot = Snapshot::of(&parts, &vm);
    kill(vm);
    let memory = rustix::fs::fstat(&snapshot.memory).expect("open");
    assert_eq!(memory.st_size, (64 << 20) + 4096, "all of RAM, and a name");
    let kib = memory.st_blocks / 2;
    assert!(kib < 2048, "{kib} KiB of 64 MiB are there");
    let [state, _] = snapshot.bytes();
    assert!(state.len() < 64 * 1024, "{} bytes", state.len());
    let key = [0x5a; 8];
    assert!(!state.windows(8).any(|bytes| bytes == key), "no key in it");
}

#[test]
fn snapshots_are_refused_where_they_make_no_sense() {
    if !has_kvm() {
        return;
    }
    let parts = parts(3);
    let vm = Vm::start(&parts);
    let refused = |event: Event, why: &str| match event {
        Event::Failed { what } => assert!(what.contains(why), "{what}"),
        other => panic!("{other:?} instead of a refusal"),
    };
    refused(Snapshot::new(parts.id).take(&vm), "pause it first");
    vm.act(&Action::Pause);
    assert_eq!(phase(vm.event()), Phase::Paused);
    let snapshot = Snapshot::new(parts.id);
    let key = snapshot.key.clone();
    vm.act_with(&Action::Snapshot { key }, &[snapshot.state.as_fd()]);
    refused(vm.event(), "two descriptors");
    rustix::io::pwrite(&snapshot.memory, b"old", 0).expect("memory");
    refused(snapshot.take(&vm), "not empty");
    // And after all that it goes on.
    vm.act(&Action::Resume);
    assert_eq!(phase(vm.event()), Phase::Running);
    counted_to(&parts, 20);
    power_off(&parts, vm);
}

#[test]
fn what_is_not_the_whole_snapshot_does_not_run() {
    if !has_kvm() {
        return;
    }
    let first = parts(3);
    let vm = Vm::start(&first);
    counted_to(&first, 20);
    let snapshot = Snapshot::of(&first, &vm);
    kill(vm);
    let [state, memory] = snapshot.bytes();
    let changed = |at: usize| {
        let mut bytes = state.clone();
        bytes[at] ^= 1;
        vm::memory("state", &bytes)
    };
    let of_key = |state: &OwnedFd| Restore {
        state: state.as_raw_fd(),
        ..snapshot.restore()
    };
    let header = changed(16);
    let host = changed(30);
    let body = changed(HEADER + 100);
    let mac = changed(state.len() - 1);
    let cut = vm::memory("state", &state[..state.len() - 512]);
    let empty = vm::memory("state", &[]);
    let writable = vm::memory("saved-ram", &memory);
    let mut other = memory.clone();
    let name = other.len() - 4096 + 10;
    other[name] ^= 1;
    let other = vm::memory("saved-ram", &other);
    let short = vm::memory("saved-ram", &memory[..memory.len() - 4097]);
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
    for file in [&other, &short] {
        rustix::fs::fcntl_add_seals(file, seals).expect("nobody has it mapped");
    }
    let with_memory = |memory: &OwnedFd| Restore {
        memory: memory.as_raw_fd(),
        ..snapshot.restore()
    };
    let clone = parts(4);
    for (why, restore, vcpus) in [
        ("another build", of_key(&header), 2),
        ("another processor or host kernel", of_key(&host), 2),
        ("was changed", of_key(&body), 2),
        ("was changed", of_key(&mac), 2),
        ("cut off", of_key(&cut), 2),
        ("no saved state", of_key(&empty), 2),
        ("can be written", with_memory(&writable), 2),
        ("is not the one of this saved state", with_memory(&other), 2),
        ("is not the one of this saved state", with_memory(&short), 2),
        (
            "sealed with another key",
            Restore {
                key: SnapshotKey::new([1; 32]),
                ..snapshot.restore()
            },
            2,
        ),
        (
            "of VM 3, not of VM 9",
            Restore {
                taken_from: VmId(9),
                ..snapshot.restore()
            },
            2,
        ),
        ("another processor", snapshot.restore(), 1),
    ] {
        let launch = Launch {
            restore: Some(restore),
            vcpus: u8::try_into(vcpus).expect("a number of vCPUs"),
            ..clone.launch()
        };
        let output = vm::start(&launch);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{why}: {errors}");
        assert!(errors.contains(why), "{why}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert_eq!(shown(&clone, COUNT), 0, "no guest code has run");
    }
}

/// Asks a VM which pages it has changed; what it answers, and what it wrote.
fn working_set(vm: &Vm) -> (Event, OwnedFd) {
    let file = vm::memory("working-set", &[]);
    vm.act_with(&Action::SaveWorkingSet, &[file.as_fd()]);
    (vm.event(), file)
}

#[test]
fn a_clone_is_given_what_an_earlier_one_has_changed() {
    if !has_kvm() {
        return;
    }
    let first = parts(3);
    let vm = Vm::start(&first);
    counted_to(&first, 20);
    let (refused, _) = working_set(&vm);
    assert!(
        matches!(&refused, Event::Failed { what } if what.contains("was booted")),
        "{refused:?}"
    );
    let snapshot = Snapshot::of(&first, &vm);
    let (at, files) = (shown(&first, COUNT), snapshot.bytes());
    kill(vm);

    let (second, vm2) = clone(4, &snapshot, at);
    let (answer, set) = working_set(&vm2);
    assert_eq!(phase(answer), Phase::Running);
    vm2.act(&Action::SaveWorkingSet);
    let refused = vm2.event();
    assert!(
        matches!(&refused, Event::Failed { what } if what.contains("one descriptor")),
        "{refused:?}"
    );
    power_off(&second, vm2);
    let len = rustix::fs::fstat(&set).expect("open").st_size;
    assert!(len > 8 && len % 4 == 0, "{len} bytes");

    // One that has them at once is as any other, and changes the files as little.
    let with = |set: &OwnedFd| Restore {
        working_set: Some(set.as_raw_fd()),
        ..snapshot.restore()
    };
    let third = parts(5);
    let launch = Launch {
        restore: Some(with(&set)),
        ..third.launch()
    };
    let vm3 = Vm::start_as(&third, &launch);
    counted_to(&third, at + 20);
    assert_eq!(shown(&third, SPOILED), 0, "memory is as it was");
    let (answer, again) = working_set(&vm3);
    assert_eq!(phase(answer), Phase::Running);
    let again = rustix::fs::fstat(&again).expect("open").st_size;
    assert!(again >= len, "{again} bytes after {len}");
    power_off(&third, vm3);
    assert!(snapshot.bytes() == files, "clones change nothing in it");

    // What is no set, or one of a larger VM.
    let beyond = [&b"CMWRKSET"[..], &16_384_u32.to_le_bytes()].concat();
    for (bytes, why) in [(&b"pages"[..], "is none"), (&beyond, "beyond the memory")] {
        let file = vm::memory("working-set", bytes);
        let fourth = parts(6);
        let launch = Launch {
            restore: Some(with(&file)),
            ..fourth.launch()
        };
        let output = vm::start(&launch);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(why), "{errors}");
        assert_eq!(shown(&fourth, COUNT), 0, "no guest code has run");
    }
}
