//! A vmm without a VM, for the tests of the supervisor: speaks the launch and control wires, echoes on its links.
//!
//! The VM's name chooses its manners: `nokvm*` cannot start, `stubborn*` ignores the power button, everything else behaves.
//! Sound: it begins a run on each socket that it is given, and tells in its log what comes.
//! What it saves is one word, without which it restores nothing.
#![expect(unsafe_code, reason = "inherited descriptors have only numbers")]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a vmm says its pid on stdout"
)]

use std::{
    env, fs,
    io::Write,
    os::fd::{AsFd, FromRawFd, OwnedFd},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail};
use casemate_link::PacketSocket;
use casemate_sound_wire::{Channels, Format, MAX_PACKET, Rate, Shape, ToMixer, ToVmm};
use casemate_vmm_control::{
    Action, Event, Launch, MAX_CONTROL, MAX_LAUNCH, Phase, StopReason, decode, encode,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    net::accept,
};

/// All files of a snapshot.
const SAVED: &[u8] = b"saved";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let arguments: Vec<String> = env::args().collect();
    let (program, mode, number) = match arguments.as_slice() {
        [program, mode, number] => (program, mode, number),
        [program, own, _, mode, number] if own == "--own-user" => (program, mode, number),
        _ => bail!("usage: fake-vmm [--own-user UID:GID] --launch FD"),
    };
    let launch: Launch = decode(&fs::read(format!("/proc/self/fd/{number}"))?, MAX_LAUNCH)?;
    if mode == "--serve" {
        return serve(&launch);
    }
    if launch.name.as_str().starts_with("nokvm") {
        eprintln!("/dev/kvm is missing; switch virtualization on in the firmware");
        return Ok(ExitCode::from(8));
    }
    if let Some(restore) = &launch.restore {
        for number in [restore.state, restore.memory]
            .into_iter()
            .chain(restore.working_set)
        {
            if fs::read(format!("/proc/self/fd/{number}"))? != SAVED {
                eprintln!("the snapshot is of another build");
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    let child = Command::new(program)
        .args(["--serve", number])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    println!("{{\"pid\":{}}}", child.id());
    Ok(ExitCode::SUCCESS)
}

fn serve(launch: &Launch) -> Result<ExitCode> {
    let listener = inherited(launch.control)?;
    let mut links = Vec::new();
    for link in &launch.links {
        links.push((link.kind, PacketSocket::from(inherited(link.file)?)));
    }
    let mut sounds: Vec<(&str, PacketSocket)> = Vec::new();
    let mut control: Option<PacketSocket> = None;
    let mut phase = Phase::Running;
    loop {
        let mut fds = vec![PollFd::new(&listener, PollFlags::IN)];
        fds.extend(
            links
                .iter()
                .map(|(_, link)| PollFd::new(link, PollFlags::IN)),
        );
        fds.extend(
            control
                .iter()
                .map(|control| PollFd::new(control, PollFlags::IN)),
        );
        fds.extend(
            sounds
                .iter()
                .map(|(_, socket)| PollFd::new(socket, PollFlags::IN)),
        );
        poll(&mut fds, None)?;
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let first_sound = ready.len() - sounds.len();
        let mut index = first_sound;
        sounds.retain(|(kind, socket)| {
            index += 1;
            ready.get(index - 1) != Some(&true) || hear(kind, socket)
        });
        let count = links.len();
        let mut gone = Vec::new();
        for (index, (kind, link)) in links.iter().enumerate() {
            if ready.get(index + 1) == Some(&true) {
                match link.receive(64) {
                    Ok(packet) => link.send(&packet.bytes, &[])?,
                    Err(_) => gone.push(*kind),
                }
            }
        }
        links.retain(|(kind, _)| !gone.contains(kind));
        if let (Some(socket), Some(true)) = (&control, ready.get(count + 1)) {
            match socket.receive(MAX_CONTROL) {
                Ok(mut packet) => match decode(&packet.bytes, MAX_CONTROL)? {
                    Action::Ping => say(socket, &state(phase))?,
                    Action::Pause => {
                        phase = Phase::Paused;
                        say(socket, &state(phase))?;
                    }
                    Action::Resume => {
                        phase = Phase::Running;
                        say(socket, &state(phase))?;
                    }
                    Action::PowerButton if launch.name.as_str().starts_with("stubborn") => {}
                    Action::PowerButton => {
                        let reason = StopReason::PowerOff;
                        say(socket, &Event::Stopped { reason })?;
                        return Ok(ExitCode::SUCCESS);
                    }
                    Action::Snapshot { .. } => {
                        for file in packet.descriptors.drain(..) {
                            fs::File::from(file).write_all(SAVED)?;
                        }
                        say(socket, &state(phase))?;
                    }
                    Action::SaveWorkingSet if launch.restore.is_some() => {
                        let file = packet.descriptors.pop().context("no descriptor")?;
                        fs::File::from(file).write_all(SAVED)?;
                        say(socket, &state(phase))?;
                    }
                    Action::SaveWorkingSet => {
                        let what = "it was booted".to_owned();
                        say(socket, &Event::Failed { what })?;
                    }
                    Action::Kill => return Ok(ExitCode::SUCCESS),
                    Action::AddDisk { .. } | Action::RemoveDevice { .. } => {
                        let what = "a stand-in has no slots".to_owned();
                        say(socket, &Event::Failed { what })?;
                    }
                    Action::SetBalloon { .. } | Action::HintFreePages | Action::AskBalloon => {
                        let what = "a stand-in has no balloon".to_owned();
                        say(socket, &Event::Failed { what })?;
                    }
                    Action::AttachSpeaker if launch.sound.is_some() => {
                        sounds.retain(|(kind, _)| *kind != "speaker");
                        sounds.push(("speaker", begin(&mut packet.descriptors)?));
                    }
                    Action::GrantRecording if launch.sound.is_some() => {
                        sounds.retain(|(kind, _)| *kind != "microphone");
                        sounds.push(("microphone", begin(&mut packet.descriptors)?));
                    }
                    Action::AttachSpeaker | Action::GrantRecording => {
                        let what = "a stand-in has no sound card".to_owned();
                        say(socket, &Event::Failed { what })?;
                    }
                    Action::RevokeRecording => say(socket, &state(phase))?,
                    Action::AttachLink { kind } => {
                        let link = packet.descriptors.pop().context("no descriptor")?;
                        links.retain(|(old, _)| *old != kind);
                        links.push((kind, PacketSocket::from(link)));
                    }
                },
                Err(_) => control = None,
            }
        }
        if ready.first() == Some(&true) {
            let socket = PacketSocket::from(accept(&listener)?);
            say(&socket, &state(phase))?;
            control = Some(socket);
        }
    }
}

/// Begins a run on the socket that came along.
fn begin(descriptors: &mut Vec<OwnedFd>) -> Result<PacketSocket> {
    let socket = PacketSocket::from(descriptors.pop().context("no descriptor")?);
    let shape = Shape {
        format: Format::S16,
        rate: Rate::Hz48000,
        channels: Channels::Stereo,
    };
    let mut packet = Vec::new();
    ToMixer::Begin {
        run: 1,
        shape,
        period: 1920,
    }
    .encode(&mut packet);
    // A mixer that has just ended is heard of below.
    let _ = socket.send(&packet, &[]);
    Ok(socket)
}

/// Tells what came; false at the end.
fn hear(kind: &str, socket: &PacketSocket) -> bool {
    let packet = socket.receive(MAX_PACKET);
    match packet.as_ref().map(|packet| ToVmm::decode(&packet.bytes)) {
        Ok(Ok(ToVmm::Heard { .. })) => eprintln!("{kind} heard"),
        Ok(Ok(ToVmm::Frames { samples, .. })) => eprintln!("{kind} {} bytes", samples.len()),
        Ok(Err(error)) => eprintln!("{kind} {error}"),
        Err(_) => {
            eprintln!("{kind} closed");
            return false;
        }
    }
    true
}

fn state(phase: Phase) -> Event {
    Event::State { phase, pid: None }
}

fn say(socket: &PacketSocket, event: &Event) -> Result<()> {
    Ok(socket.send(&encode(event), &[])?)
}

fn inherited(number: i32) -> Result<OwnedFd> {
    // SAFETY: the launch description gives this number to this process alone, and it is taken once.
    let file = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_getfd(file.as_fd()).context("a descriptor was not inherited")?;
    Ok(file)
}
