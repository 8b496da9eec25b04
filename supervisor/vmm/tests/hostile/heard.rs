//! The whole way of sound: a guest under KVM plays through its card, the vmm's socket and the mixer's process into a
//! PipeWire of the test's own, where another line of the mixer records it.

use std::{
    io::{BufRead as _, BufReader},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use casemate_link::PacketSocket;
use casemate_sound_wire::{
    Channels, Format, MAX_PACKET, Order, Rate, Report, Shape, ToMixer, ToVmm,
};
use casemate_vmm_control::{Action, Launch, Sound};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::FdFlags,
};

use crate::{
    Parts, Vm,
    guest::{Device, Guest, available, used},
    has_kvm, payload, proof,
};

const DEADLINE: Duration = Duration::from_secs(60);
const SERVER: &str = include_str!("../../../sound/tests/server.conf");
/// Instead of a session manager, which would tell streams to have ports.
const PORTS: &str = "{ adapter.auto-port-config = { mode = dsp position = preserve } }";
/// Frames of one message of the guest's.
const FRAMES: u16 = 128;

/// Ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(program: impl AsRef<Path>, runtime: &Path) -> Command {
    let mut command = Command::new(program.as_ref());
    command
        .env("XDG_RUNTIME_DIR", runtime)
        .env("PIPEWIRE_RUNTIME_DIR", runtime)
        .env("PIPEWIRE_PROPS", PORTS);
    command
}

/// The mixer of this build, when it and a PipeWire are there.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn mixer() -> Option<PathBuf> {
    let path = std::env::current_exe()
        .ok()?
        .parent()?
        .with_file_name("casemate-sound");
    let link = Command::new("pw-link").arg("--version").output();
    if !path.exists() || link.is_err() {
        println!("skipped: casemate-sound is not built, or pw-link is not installed");
        return None;
    }
    Some(path)
}

/// The left sample of a frame of the guest's, far from silence and from its neighbours.
fn left(frame: u16) -> i16 {
    let sign = if frame.is_multiple_of(2) { 1 } else { -1 };
    let step = i16::try_from(frame).expect("few frames");
    sign * (8000 + 100 * step)
}

/// Plays one message again and again.
fn guest() -> Vec<u8> {
    let samples: Vec<u8> = (0..FRAMES)
        .flat_map(|frame| [left(frame), 0])
        .flat_map(i16::to_le_bytes)
        .collect();
    let mut guest = Guest::new();
    guest.bytes(proof::FIRST + 0x400, &samples);
    guest.case("play", |guest| guest.prove(Device::Sound));
    let again = guest.code.label();
    guest.code.place(again);
    // Every place of the ring names the same message: it is zero.
    let [index, heard] = [available(2) + 2, used(2) + 2].map(u32::to_le_bytes);
    guest.code.raw(&[0x66, 0xff, 0x05]); // inc word [index]
    guest.code.raw(&index);
    guest.kick(Device::Sound, 2);
    guest.code.raw(&[0x66, 0xa1]); // mov ax, [heard]
    guest.code.raw(&heard);
    guest.code.raw(&[0x66, 0x3b, 0x05]); // cmp ax, [index]
    guest.code.raw(&index);
    guest.code.raw(&[0x75, 0xf1]); // jne back to mov
    guest.code.jump(again);
    guest.finish()
}

fn wait(socket: &PacketSocket, end: Instant) {
    let rest = end.saturating_duration_since(Instant::now());
    let rest = Timespec::try_from(rest).expect("a time");
    let mut polled = [PollFd::new(socket, PollFlags::IN)];
    let ready = poll(&mut polled, Some(&rest)).expect("a socket");
    assert!(ready > 0, "nothing comes");
}

fn give(orders: &PacketSocket, order: Order<'_>) -> PacketSocket {
    let (ours, mixer) = PacketSocket::pair().expect("sockets");
    orders
        .send(&order.encode(), &[mixer.as_fd()])
        .expect("the mixer listens");
    ours
}

fn link(runtime: &Path, from: &str, to: &str) {
    let status = command("pw-link", runtime).args([from, to]).status();
    assert!(status.expect("pw-link").success(), "{from} to {to}");
}

/// Whether what a message holds is in there, whole.
fn holds_a_message(recorded: &[i16]) -> bool {
    recorded.windows(usize::from(FRAMES)).any(|window| {
        // Floats on the way round to the next but one at worst.
        (0..FRAMES)
            .zip(window)
            .all(|(frame, sample)| left(frame).abs_diff(*sample) <= 2)
    })
}

#[test]
fn what_a_guest_plays_reaches_pipewire() {
    let Some(mixer) = mixer().filter(|_| has_kvm()) else {
        return;
    };
    let end = Instant::now() + DEADLINE;
    let directory = tempfile::tempdir().expect("a directory");
    let runtime = directory.path();
    let config = runtime.join("server.conf");
    std::fs::write(&config, SERVER).expect("a file");
    let server = command("pipewire", runtime).arg("-c").arg(&config).spawn();
    let _server = Process(server.expect("pipewire"));
    while UnixStream::connect(runtime.join("pipewire-0")).is_err() {
        assert!(Instant::now() < end, "PipeWire does not start");
        std::thread::yield_now();
    }
    let ports = command("pw-link", runtime)
        .args(["-m", "-o", "-i"])
        .stdout(Stdio::piped())
        .spawn();
    let mut ports = Process(ports.expect("pw-link"));
    let told = ports.0.stdout.take().expect("piped");

    let (orders, theirs) = PacketSocket::pair().expect("sockets");
    let process = command(mixer, runtime)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn();
    let _mixer = Process(process.expect("the mixer"));
    wait(&orders, end);
    let first = orders.receive(2).expect("the mixer");
    assert_eq!(Report::decode(&first.bytes), Some(Report::Ready));
    let witness = give(&orders, Order::Recorder("witness"));
    let mut begin = Vec::new();
    ToMixer::Begin {
        run: 1,
        shape: Shape {
            format: Format::S16,
            rate: Rate::Hz48000,
            channels: Channels::Mono,
        },
        period: 512,
    }
    .encode(&mut begin);
    witness.send(&begin, &[]).expect("the mixer listens");
    let speaker = OwnedFd::from(give(&orders, Order::Speaker("guest")));
    rustix::io::fcntl_setfd(&speaker, FdFlags::empty()).expect("open");

    let parts = Parts::new(&payload::image(&guest()));
    let launch = Launch {
        sound: Some(Sound {
            speaker: Some(speaker.as_raw_fd()),
            can_record: true,
        }),
        ..parts.launch()
    };
    let vm = Vm::start_as(&parts, &launch);
    let mut missing = vec!["casemate.witness:input_MONO", "casemate.guest:output_FL"];
    let mut lines = BufReader::new(told).lines();
    while !missing.is_empty() {
        let line = lines.next().expect("more").expect("pw-link tells of ports");
        missing.retain(|port| !line.contains(port));
    }
    link(runtime, "ear:monitor_FL", "casemate.witness:input_MONO");
    link(runtime, "casemate.guest:output_FL", "ear:playback_FL");
    let mut recorded: Vec<i16> = Vec::new();
    while !holds_a_message(&recorded) {
        wait(&witness, end);
        let packet = witness.receive(MAX_PACKET).expect("the mixer");
        let Ok(ToVmm::Frames { samples, .. }) = ToVmm::decode(&packet.bytes) else {
            panic!("no samples: {:?}", packet.bytes);
        };
        // What is long past is not looked at again.
        let old = recorded.len().saturating_sub(usize::from(FRAMES));
        recorded.drain(..old);
        let (samples, _) = samples.as_chunks::<2>();
        recorded.extend(samples.iter().map(|bytes| i16::from_le_bytes(*bytes)));
    }
    vm.act(&Action::Kill);
    assert_eq!(vm.wait(), Some(0));
}
