//! The mixer with a real PipeWire of the test's own: what a VM plays reaches a sink, and what the sink plays is recorded;
//! a PipeWire may come late and go.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests"
)]

use std::{
    io::{BufRead as _, BufReader, ErrorKind},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use casemate_link::{Error, PacketSocket};
use casemate_sound_wire::{
    Channels, Format, MAX_AHEAD, MAX_FRAMES, MAX_PACKET, Order, Rate, Report, Shape, ToMixer, ToVmm,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const DEADLINE: Duration = Duration::from_secs(30);

/// A server with one sink that nobody hears, and no session manager.
const SERVER: &str = include_str!("server.conf");

/// Instead of a session manager, which would tell streams to have ports.
const PORTS: &str = "{ adapter.auto-port-config = { mode = dsp position = preserve } }";

/// Ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(program: &str, runtime: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env("XDG_RUNTIME_DIR", runtime)
        .env("PIPEWIRE_RUNTIME_DIR", runtime)
        .env("PIPEWIRE_PROPS", PORTS);
    command
}

fn link(runtime: &Path, from: &str, to: &str) {
    let status = command("pw-link", runtime).args([from, to]).status();
    assert!(status.unwrap().success(), "cannot link {from} to {to}");
}

/// Whether there is a PipeWire to start.
fn is_installed() -> bool {
    match Command::new("pw-link").arg("--version").output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("skipped: pw-link is not installed; cargo xtask setup installs it");
            false
        }
        other => {
            drop(other.unwrap());
            true
        }
    }
}

fn start_server(runtime: &Path, end: Instant) -> Process {
    let config = runtime.join("server.conf");
    std::fs::write(&config, SERVER).unwrap();
    let server = command("pipewire", runtime).arg("-c").arg(&config).spawn();
    let server = Process(server.unwrap());
    while UnixStream::connect(runtime.join("pipewire-0")).is_err() {
        assert!(Instant::now() < end, "PipeWire does not start");
        std::thread::yield_now();
    }
    server
}

/// A mixer, and the supervisor's end of its socket.
struct Mixer {
    orders: PacketSocket,
    process: Process,
}

impl Mixer {
    fn start(runtime: &Path, end: Instant) -> Self {
        let (orders, theirs) = PacketSocket::pair().unwrap();
        let process = command(env!("CARGO_BIN_EXE_casemate-sound"), runtime)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn();
        let mixer = Self {
            orders,
            process: Process(process.unwrap()),
        };
        mixer.reports(Report::Ready, end);
        mixer
    }

    fn reports(&self, expected: Report, end: Instant) {
        wait(&[&self.orders], end);
        let packet = self.orders.receive(2).unwrap();
        assert_eq!(Report::decode(&packet.bytes), Some(expected));
    }

    /// Gives it a socket; the other end.
    fn join(&self, order: Order<'_>) -> PacketSocket {
        let (ours, theirs) = PacketSocket::pair().unwrap();
        let sockets = [theirs.as_fd()];
        self.orders.send(&order.encode(), &sockets).unwrap();
        ours
    }
}

fn begin(socket: &PacketSocket, run: u32) {
    let mut packet = Vec::new();
    ToMixer::Begin {
        run,
        shape: SHAPE,
        period: 1920,
    }
    .encode(&mut packet);
    socket.send(&packet, &[]).unwrap();
}

/// Reads until the other end is closed.
fn until_closed(socket: &PacketSocket, end: Instant) {
    loop {
        wait(&[socket], end);
        match socket.receive(MAX_PACKET) {
            Err(Error::Closed) => return,
            other => drop(other.unwrap()),
        }
    }
}

#[test]
fn what_a_vm_plays_is_heard_and_what_is_heard_is_recorded() {
    if !is_installed() {
        return;
    }
    let end = Instant::now() + DEADLINE;
    let directory = tempfile::tempdir().unwrap();
    let runtime = directory.path();
    let _server = start_server(runtime, end);
    let ports = command("pw-link", runtime)
        .args(["-m", "-o", "-i"])
        .stdout(Stdio::piped())
        .spawn();
    let mut ports = Process(ports.unwrap());
    let mut lines = BufReader::new(ports.0.stdout.take().unwrap()).lines();

    let mut mixer = Mixer::start(runtime, end);
    let speaker = mixer.join(Order::Speaker("work"));
    let recorder = mixer.join(Order::Recorder("work"));
    for socket in [&speaker, &recorder] {
        begin(socket, 1);
        mixer.reports(Report::Server, end);
    }
    let mut missing = vec!["casemate.work:output_FL", "casemate.work:input_FL"];
    while !missing.is_empty() {
        let line = lines.next().expect("pw-link tells of ports").unwrap();
        missing.retain(|port| !line.contains(port));
    }
    link(runtime, "casemate.work:output_FL", "ear:playback_FL");
    link(runtime, "ear:monitor_FL", "casemate.work:input_FL");
    listen(1, &speaker, &recorder, end);

    // A vmm that says what is not of the wire loses its line, and no other.
    let hostile = mixer.join(Order::Speaker("hostile"));
    hostile.send(b"noise", &[]).unwrap();
    until_closed(&hostile, end);
    for socket in [&speaker, &recorder] {
        begin(socket, 2);
    }
    listen(2, &speaker, &recorder, end);

    let order = Order::Revoke("work").encode();
    mixer.orders.send(&order, &[]).unwrap();
    until_closed(&recorder, end);
    drop(mixer.orders);
    until_closed(&speaker, end);
    assert!(mixer.process.0.wait().unwrap().success());
}

#[test]
fn a_pipewire_that_is_not_there_is_missed_and_found_when_it_comes() {
    if !is_installed() {
        return;
    }
    let end = Instant::now() + DEADLINE;
    let directory = tempfile::tempdir().unwrap();
    let mixer = Mixer::start(directory.path(), end);
    let speaker = mixer.join(Order::Speaker("work"));
    begin(&speaker, 1);
    // Nothing was heard, and that is said at once.
    wait(&[&speaker], end);
    let packet = speaker.receive(MAX_PACKET).unwrap();
    let heard = ToVmm::Heard {
        run: 1,
        total: 0,
        latency: 0,
    };
    assert_eq!(ToVmm::decode(&packet.bytes), Ok(heard));
    mixer.reports(Report::NoServer, end);
    let server = start_server(directory.path(), end);
    mixer.reports(Report::Server, end);
    drop(server);
    mixer.reports(Report::NoServer, end);
}

const SHAPE: Shape = Shape {
    format: Format::S16,
    rate: Rate::Hz48000,
    channels: Channels::Stereo,
};

fn wait(sockets: &[&PacketSocket], end: Instant) -> Vec<bool> {
    let rest = end.saturating_duration_since(Instant::now());
    let rest = Timespec::try_from(rest).unwrap();
    let mut polled: Vec<_> = sockets
        .iter()
        .map(|it| PollFd::new(*it, PollFlags::IN))
        .collect();
    assert!(poll(&mut polled, Some(&rest)).unwrap() > 0, "nothing comes");
    polled.iter().map(|it| !it.revents().is_empty()).collect()
}

/// In this run, plays half of full scale on the left until that is recorded.
fn listen(number: u32, speaker: &PacketSocket, recorder: &PacketSocket, end: Instant) {
    let samples = [0, 0x40, 0, 0].repeat(MAX_FRAMES / 4);
    let (mut sent, mut heard) = (0_u64, 0);
    loop {
        while sent - heard + MAX_FRAMES as u64 <= u64::from(MAX_AHEAD) / 2 {
            let mut packet = ToMixer::frames_header(number).to_vec();
            packet.extend(&samples);
            speaker.send(&packet, &[]).unwrap();
            sent += MAX_FRAMES as u64;
        }
        let ready = wait(&[speaker, recorder], end);
        if ready.first() == Some(&true) {
            let packet = speaker.receive(MAX_PACKET).unwrap();
            if let Ok(ToVmm::Heard { run, total, .. }) = ToVmm::decode(&packet.bytes)
                && run == number
            {
                assert!(total >= heard && total <= sent, "{heard} {total} {sent}");
                heard = total;
            }
        }
        if ready.last() == Some(&true) {
            let packet = recorder.receive(MAX_PACKET).unwrap();
            let Ok(ToVmm::Frames { run, samples, .. }) = ToVmm::decode(&packet.bytes) else {
                panic!("a mixer says something else on a line that records");
            };
            if run != number {
                continue;
            }
            let (frames, _) = samples.as_chunks::<4>();
            let loud = |frame: &[u8; 4]| {
                let [a, b, ..] = *frame;
                (0x3FF0..0x4010).contains(&i16::from_le_bytes([a, b]))
            };
            if heard > 0 && frames.iter().filter(|frame| loud(frame)).count() > 200 {
                return;
            }
        }
    }
}
