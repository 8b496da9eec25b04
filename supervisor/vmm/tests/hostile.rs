//! A small guest that does what no driver would, under real KVM, against the whole vmm in its jail: broken rings, odd
//! registers, requests out of bounds. After each case the same device must do a well-formed request, after each boot the
//! VM must power off in order. The guest prints a verdict per case; tables and assembler are in `hostile/`.
//!
//! Cases by row of the test plan (B1 ports, holes and model-specific registers, B2 queues and transport, B3 devices) are in the names. What is
//! tested here without KVM is in `devices`; this shows that the whole process stands.

#[path = "hostile/asm.rs"]
mod asm;
#[path = "hostile/chains.rs"]
mod chains;
#[path = "hostile/devices.rs"]
mod devices;
#[path = "hostile/guest.rs"]
mod guest;
#[path = "hostile/heard.rs"]
mod heard;
#[expect(dead_code, reason = "only the file around the code is used")]
#[path = "toy/payload.rs"]
mod payload;
#[path = "hostile/proof.rs"]
mod proof;
#[path = "hostile/registers.rs"]
mod registers;
#[path = "hostile/transport.rs"]
mod transport;
#[expect(dead_code, reason = "other tests use more of it")]
#[path = "toy/vm.rs"]
mod vm;

use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};

use casemate_sound_wire::{MAX_PACKET, ToMixer};
use casemate_vmm_control::{
    Disk, DiskFormat, Event, Launch, MacAddress, Network, Sound, StopReason, WireFile,
};
use guest::{Device, Guest};
use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use vm::{Parts, Vm};

/// Says why nothing is tested on a machine without KVM.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn has_kvm() -> bool {
    let mut kvm = std::fs::OpenOptions::new();
    let opened = kvm.read(true).write(true).open("/dev/kvm");
    if let Err(error) = &opened {
        println!("skipped: /dev/kvm: {error}");
    }
    opened.is_ok()
}

/// Boots a guest with these cases and holds each verdict against "ok".
#[expect(clippy::print_stdout, reason = "a verdict per case")]
fn boot(cases: usize, write: impl FnOnce(&mut Guest)) {
    if !has_kvm() {
        return;
    }
    let printed = run(write);
    println!("{printed}");
    let lines: Vec<&str> = printed.lines().collect();
    let failed: Vec<&&str> = lines
        .iter()
        .filter(|line| line.starts_with("case ") && !line.ends_with(" ok"))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let passed = lines.iter().filter(|line| line.ends_with(" ok")).count();
    assert_eq!(passed, cases, "verdicts");
}

/// Boots a guest with these cases to its end, and gives what it printed.
fn run(write: impl FnOnce(&mut Guest)) -> String {
    run_with(None, write)
}

/// Like [`run`], with somebody at the other end of the sound card.
fn run_with(speaker: Option<&OwnedFd>, write: impl FnOnce(&mut Guest)) -> String {
    let mut guest = Guest::new();
    write(&mut guest);
    let parts = Parts::new(&payload::image(&guest.finish()));
    let disk = disk();
    let (near, far) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::empty(),
        None,
    )
    .expect("sockets");
    let launch = Launch {
        balloon: true,
        sound: Some(Sound {
            speaker: speaker.map(|socket| socket.as_raw_fd()),
            can_record: true,
        }),
        disks: vec![Disk {
            serial: "hostile".to_owned(),
            read_only: true,
            format: DiskFormat::Raw {
                file: disk.as_raw_fd(),
            },
        }],
        networks: vec![Network {
            mac: MacAddress::new(proof::MAC).expect("an address"),
            wire: WireFile::Cable {
                file: near.as_raw_fd(),
            },
        }],
        ..parts.launch()
    };
    // Frames that wait for a buffer of the guest's: one for each of its broken ones.
    for _ in 0..64 {
        rustix::net::send(&far, &[0; 72], rustix::net::SendFlags::DONTWAIT).expect("room");
    }
    let vm = Vm::start_as(&parts, &launch);
    let event = vm.event();
    let printed = text(&parts.window);
    assert_eq!(printed.lines().last(), Some("all cases done"), "{printed}");
    let reason = StopReason::PowerOff;
    assert_eq!(event, Event::Stopped { reason });
    assert_eq!(vm.wait(), Some(0));
    printed
}

/// What the guest has printed: all text at the start of the window memory.
fn text(window: &OwnedFd) -> String {
    let mut bytes = vec![0; 1 << 20];
    let len = rustix::io::pread(window, &mut bytes, 0).expect("memory");
    let text = bytes[..len].split(|&byte| byte == 0).next();
    String::from_utf8(text.unwrap_or_default().to_vec()).expect("text")
}

/// A disk whose every word is known.
fn disk() -> OwnedFd {
    let content: Vec<u8> = (0..proof::DISK / 4)
        .flat_map(|index| proof::word(index).to_le_bytes())
        .collect();
    let memory = rustix::fs::memfd_create("disk", MemfdFlags::empty()).expect("memory");
    let mut file = std::fs::File::from(memory);
    file.write_all(&content).expect("memory");
    let file = OwnedFd::from(file);
    rustix::io::fcntl_setfd(&file, FdFlags::empty()).expect("open");
    file
}

fn chains_of(device: Device) {
    for target in chains::TARGETS {
        if target.device == device {
            boot(chains::CASES, |guest| {
                for row in 0..chains::CASES {
                    chains::case(guest, target, row);
                }
            });
        }
    }
}

fn transport_of(device: Device) {
    boot(transport::CASES, |guest| {
        for row in 0..transport::CASES {
            transport::case(guest, device, row);
        }
    });
}

#[test]
fn broken_chains_of_blk() {
    chains_of(Device::Block);
}

#[test]
fn broken_chains_of_rng() {
    chains_of(Device::Rng);
}

#[test]
fn broken_chains_of_console() {
    chains_of(Device::Console);
}

#[test]
fn broken_chains_of_vsock() {
    chains_of(Device::Vsock);
}

#[test]
fn broken_chains_of_net() {
    chains_of(Device::Net);
}

#[test]
fn broken_chains_of_balloon() {
    chains_of(Device::Balloon);
}

#[test]
fn broken_chains_of_snd() {
    chains_of(Device::Sound);
}

#[test]
fn odd_registers_of_snd() {
    transport_of(Device::Sound);
}

#[test]
fn odd_registers_of_blk() {
    transport_of(Device::Block);
}

#[test]
fn odd_registers_of_rng() {
    transport_of(Device::Rng);
}

#[test]
fn odd_registers_of_console() {
    transport_of(Device::Console);
}

#[test]
fn odd_registers_of_vsock() {
    transport_of(Device::Vsock);
}

#[test]
fn odd_registers_of_net() {
    transport_of(Device::Net);
}

#[test]
fn odd_registers_of_balloon() {
    transport_of(Device::Balloon);
}

#[test]
fn ports_holes_and_configuration_space() {
    for device in [Device::Block, Device::Vsock] {
        boot(transport::MACHINE_CASES, |guest| {
            for row in 0..transport::MACHINE_CASES {
                transport::machine_case(guest, device, row);
            }
        });
    }
}

#[test]
fn requests_out_of_bounds() {
    let rows = devices::rows();
    for rows in rows.chunks(40) {
        boot(rows.len(), |guest| {
            for row in rows {
                devices::case(guest, row);
            }
        });
    }
}

/// What a guest plays comes out of the vmm's socket, and a mixer that never answers does not hold the guest up.
#[test]
fn a_guest_plays_to_its_mixer() {
    if !has_kvm() {
        return;
    }
    let (near, far) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::empty(),
        None,
    )
    .expect("sockets");
    let samples: Vec<u8> = (0..=255).cycle().take(512).collect();
    let printed = run_with(Some(&near), |guest| {
        guest.bytes(proof::FIRST + 0x400, &samples);
        guest.case("play", |guest| guest.prove(Device::Sound));
    });
    assert!(printed.contains("case play: ok"), "{printed}");
    let mut packet = vec![0; MAX_PACKET];
    let mut heard: Vec<u8> = Vec::new();
    let mut begun = Vec::new();
    while let Ok((len, _)) = rustix::net::recv(&far, &mut packet[..], RecvFlags::DONTWAIT)
        && len > 0
    {
        match ToMixer::decode(&packet[..len]).expect("of the wire") {
            ToMixer::Begin { shape, period, .. } => begun.push((shape.bytes_per_second(), period)),
            ToMixer::Frames { samples, .. } => heard.extend(samples),
            ToMixer::End { .. } => {}
        }
    }
    assert_eq!(begun[0], (192_000, 512));
    assert_eq!(heard, samples);
}

#[test]
fn a_case_can_fail() {
    if !has_kvm() {
        return;
    }
    let printed = run(|guest| {
        guest.case("wrong", |guest| {
            guest.start(Device::Rng, 0);
            guest.expect(asm::Width::Long, guest::BUFFERS, u32::MAX, 0xdead);
        });
        guest.case("right", |guest| guest.prove(Device::Rng));
    });
    // The two steps before it are those of the start.
    let expected = "case wrong: FAILED at step 00000003 with 00000000\ncase right: ok\n";
    assert!(printed.starts_with(expected), "{printed}");
}

/// The plan asks for at least two hundred from a real guest.
#[test]
fn there_are_enough_cases() {
    let devices = Device::ALL.len();
    let all = chains::TARGETS.len() * chains::CASES
        + devices * transport::CASES
        + 2 * transport::MACHINE_CASES
        + devices::rows().len();
    println!("{all} cases");
    assert!(all >= 600, "{all}");
}

#[test]
fn registers_that_are_not_for_guests_fault() {
    boot(registers::CASES, registers::cases);
}
