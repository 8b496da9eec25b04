//! The control socket: a supervisor connects, the newest connection wins, actions come and events go.
//!
//! A supervisor that sends what is not of the protocol, or does not read its events, loses its connection. The VM goes
//! on: the next supervisor connects anew.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use casemate_devices::balloon::{BalloonHandle, PAGE};
use casemate_devices::event_loop::{EventLoop, Interest, Ready, Registrar, Subscriber};
use casemate_devices::snd::{Host, Mixer};
use casemate_devices::vsock::VsockHandle;
use casemate_link::{Error as LinkError, Packet, PacketSocket};
use casemate_vm::{Mebibytes, RamSize, VmClass};
use casemate_vmm_control::{
    Action, Event, MAX_CONTROL, Phase, SnapshotKey, StopReason, decode, encode,
};
use rustix::net::SocketFlags;

use crate::devices::SoundCard;
use crate::machine::Line;
use crate::plug::Plugs;
use crate::snapshot::Saver;
use crate::stop::Stop;
use crate::vcpu::Vcpus;

const LISTENER: u32 = 0;
const CONNECTION: u32 = 1;
const NEWS: u32 = 2;

/// Most actions handled in one turn of the loop, so that a flood of them does not starve the guest's devices.
const TURN: usize = 16;

/// How long vCPUs may take to stand still. Pings wait meanwhile; the supervisor forgives more than this.
const PAUSE_LIMIT: Duration = Duration::from_secs(2);

/// The control socket of a running VM.
#[derive(Debug)]
pub(crate) struct Control(Arc<Mutex<Server>>);

/// What actions reach besides vCPUs.
#[derive(Debug)]
pub(crate) struct Reach {
    /// What the VM can be.
    pub(crate) class: VmClass,
    /// Guest memory.
    pub(crate) ram: RamSize,
    /// Asks for memory, when the guest has a balloon.
    pub(crate) balloon: Option<BalloonHandle>,
    /// Attaches links.
    pub(crate) vsock: VsockHandle,
    /// Decides who hears and is heard.
    pub(crate) sound: Option<SoundCard>,
    /// Presses the power button.
    pub(crate) power_button: Line,
    /// Adds and removes devices.
    pub(crate) plugs: Plugs,
}

#[derive(Debug)]
struct Server {
    listener: OwnedFd,
    connection: Option<Connection>,
    host_pid: Option<u32>,
    reach: Reach,
    vcpus: Arc<Vcpus>,
    saver: Saver,
    stop: Arc<Stop>,
}

/// A supervisor.
#[derive(Debug)]
struct Connection {
    socket: PacketSocket,
    /// To be closed as soon as the loop can forget it.
    broken: bool,
}

impl Connection {
    fn new(socket: PacketSocket) -> Self {
        Self {
            socket,
            broken: false,
        }
    }
}

impl Control {
    /// Serves the listening socket on `event_loop`.
    pub(crate) fn start(
        listener: OwnedFd,
        host_pid: Option<u32>,
        reach: Reach,
        vcpus: Arc<Vcpus>,
        saver: Saver,
        stop: Arc<Stop>,
        event_loop: &EventLoop,
    ) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        let server = Arc::new(Mutex::new(Server {
            listener,
            connection: None,
            host_pid,
            reach,
            vcpus,
            saver,
            stop,
        }));
        let id = event_loop.add(Arc::clone(&server));
        let held = server.lock().unwrap_or_else(PoisonError::into_inner);
        let mut registrar = event_loop.registrar(id);
        registrar.add(&held.listener.as_raw_fd(), LISTENER, Interest::Read)?;
        registrar.add(held.reach.plugs.bell(), NEWS, Interest::Read)?;
        drop(held);
        Ok(Self(server))
    }

    /// Says once that the VM has ended.
    pub(crate) fn stopped(&self, reason: StopReason) {
        let mut server = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that connected just now, so that it does not take the end of the socket for a crash.
        if let Some(socket) = server.newest() {
            server.connection = Some(Connection::new(socket));
        }
        server.send(&Event::Stopped { reason });
    }
}

impl Subscriber for Server {
    fn handle(&mut self, token: u32, _ready: Ready, registrar: &mut Registrar<'_>) {
        match token {
            LISTENER => self.accept(registrar),
            CONNECTION => self.serve(registrar),
            NEWS => {
                for event in self.reach.plugs.take_news() {
                    self.send(&event);
                }
                self.disconnect_if_broken(registrar);
            }
            _ => {}
        }
    }
}

impl Server {
    /// Replaces the connection by the newest of those that wait.
    fn accept(&mut self, registrar: &mut Registrar<'_>) {
        let Some(socket) = self.newest() else {
            return;
        };
        self.disconnect(registrar);
        if let Err(error) = registrar.add(&socket.as_fd().as_raw_fd(), CONNECTION, Interest::Read) {
            tracing::warn!(%error, "control connection");
            return;
        }
        self.connection = Some(Connection::new(socket));
        self.send(&self.state());
        self.disconnect_if_broken(registrar);
    }

    fn newest(&self) -> Option<PacketSocket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        std::iter::from_fn(|| rustix::net::accept_with(&self.listener, flags).ok())
            .last()
            .map(PacketSocket::from)
    }

    fn serve(&mut self, registrar: &mut Registrar<'_>) {
        for _ in 0..TURN {
            let Some(connection) = &mut self.connection else {
                return;
            };
            match connection.socket.receive(MAX_CONTROL) {
                Ok(packet) => self.act(packet),
                Err(LinkError::WouldBlock) => return,
                Err(error) => {
                    if !matches!(error, LinkError::Closed) {
                        tracing::warn!(%error, "control connection");
                    }
                    connection.broken = true;
                }
            }
            self.disconnect_if_broken(registrar);
        }
    }

    fn act(&mut self, packet: Packet) {
        match decode::<Action>(&packet.bytes, MAX_CONTROL) {
            Ok(Action::Ping) => self.send(&self.state()),
            Ok(Action::AttachLink { kind }) => {
                let mut descriptors = packet.descriptors.into_iter();
                match (descriptors.next(), descriptors.next()) {
                    (Some(link), None) => self.reach.vsock.attach_link(kind, link.into()),
                    _ => self.send(&failed("a link needs exactly one descriptor")),
                }
            }
            Ok(Action::AttachSpeaker) => {
                let attached = self.attach_speaker(packet.descriptors);
                self.refuse(attached);
            }
            Ok(Action::GrantRecording) => {
                let granted = self.grant_recording(packet.descriptors);
                self.refuse(granted);
            }
            Ok(Action::RevokeRecording) => {
                if let Some(card) = &self.reach.sound {
                    card.handle.revoke();
                }
                self.send(&self.state());
            }
            Ok(Action::PowerButton) => self.reach.power_button.pulse(),
            Ok(Action::AddDisk { serial, read_only }) => {
                let plugs = &self.reach.plugs;
                let taken = plugs.add_disk(serial, read_only, packet.descriptors);
                self.refuse(taken);
            }
            Ok(Action::RemoveDevice { slot }) => {
                let asked = self.reach.plugs.ask_back(slot);
                self.refuse(asked);
            }
            Ok(Action::Pause) => match self.vcpus.pause(PAUSE_LIMIT) {
                Ok(()) => self.send(&self.state()),
                Err(error) => self.send(&failed(&error.to_string())),
            },
            Ok(Action::Resume) => {
                self.vcpus.resume();
                self.send(&self.state());
            }
            Ok(Action::Snapshot { key }) => {
                let event = match self.snapshot(&key, packet.descriptors) {
                    Ok(()) => self.state(),
                    Err(what) => failed(&what),
                };
                self.send(&event);
            }
            Ok(Action::SaveWorkingSet) => {
                let event = match self.working_set(packet.descriptors) {
                    Ok(()) => self.state(),
                    Err(error) => failed(&format!("{error:#}")),
                };
                self.send(&event);
            }
            Ok(Action::SetBalloon { target }) => {
                let event = self.set_balloon(target);
                self.send(&event);
            }
            Ok(Action::HintFreePages) => {
                let event = self.balloon(BalloonHandle::start_hinting);
                self.send(&event);
            }
            Ok(Action::AskBalloon) => {
                let event = self.balloon(|_| ());
                self.send(&event);
            }
            Ok(Action::Kill) => self.stop.ask(StopReason::Killed),
            Err(error) => {
                tracing::warn!(%error, "control message");
                self.send(&failed("not an action of this protocol"));
                if let Some(connection) = &mut self.connection {
                    connection.broken = true;
                }
            }
        }
    }

    fn attach_speaker(&self, descriptors: Vec<OwnedFd>) -> anyhow::Result<()> {
        let host = mixer(descriptors)?;
        let card = self.reach.sound.as_ref();
        let card = card.context("the VM has no sound card")?;
        card.handle.attach_speaker(host);
        Ok(())
    }

    fn grant_recording(&self, descriptors: Vec<OwnedFd>) -> anyhow::Result<()> {
        let host = mixer(descriptors)?;
        let card = self.reach.sound.as_ref().filter(|card| card.can_record);
        let card = card.context("the VM has no sound card that can record")?;
        card.handle.grant(host);
        Ok(())
    }

    fn snapshot(&self, key: &SnapshotKey, files: Vec<OwnedFd>) -> Result<(), String> {
        let Ok([state, memory]) = <[OwnedFd; 2]>::try_from(files) else {
            return Err("a snapshot needs two descriptors, for state and memory".to_owned());
        };
        if self.reach.class == VmClass::Passthrough {
            return Err("a passthrough VM cannot be saved".to_owned());
        }
        if self.reach.plugs.controller().is_in_use() {
            return Err("something is plugged into the VM: take it out first".to_owned());
        }
        self.saver
            .save(&self.vcpus, key.bytes(), &state, &memory)
            .map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }

    fn working_set(&self, files: Vec<OwnedFd>) -> anyhow::Result<()> {
        let [file] = <[OwnedFd; 1]>::try_from(files)
            .ok()
            .context("a working set needs exactly one descriptor")?;
        Ok(self.saver.save_working_set(file)?)
    }

    fn set_balloon(&self, target: Mebibytes) -> Event {
        let bytes = u64::from(target.0) << 20;
        let ram = self.reach.ram.bytes();
        match u32::try_from(bytes / PAGE) {
            Ok(pages) if bytes <= ram => self.balloon(|balloon| balloon.set_target(pages)),
            _ => failed(&format!(
                "the guest has {} MiB of memory and cannot give {}",
                ram >> 20,
                target.0
            )),
        }
    }

    /// Does something with the balloon and says how it stands.
    fn balloon(&self, act: impl FnOnce(&BalloonHandle)) -> Event {
        let Some(balloon) = &self.reach.balloon else {
            return failed("this VM has no balloon");
        };
        act(balloon);
        let mebibytes = |bytes: u64| Mebibytes(u32::try_from(bytes >> 20).unwrap_or(u32::MAX));
        let pages = |pages: u32| mebibytes(u64::from(pages).saturating_mul(PAGE));
        Event::Balloon {
            target: pages(balloon.target()),
            actual: pages(balloon.actual()),
            given: mebibytes(balloon.given()),
            rounds: balloon.rounds(),
        }
    }

    /// Says why an action was not taken, if it was not.
    fn refuse(&mut self, outcome: anyhow::Result<()>) {
        if let Err(error) = outcome {
            self.send(&failed(&format!("{error:#}")));
        }
    }

    fn state(&self) -> Event {
        Event::State {
            phase: match self.stop.reason() {
                None if self.vcpus.is_paused() => Phase::Paused,
                None => Phase::Running,
                Some(_) => Phase::Stopped,
            },
            pid: self.host_pid,
        }
    }

    /// Sends without waiting; a supervisor that does not read is let go.
    fn send(&mut self, event: &Event) {
        if let Some(connection) = &mut self.connection
            && connection.socket.send(&encode(event), &[]).is_err()
        {
            connection.broken = true;
        }
    }

    fn disconnect_if_broken(&mut self, registrar: &mut Registrar<'_>) {
        if self
            .connection
            .as_ref()
            .is_some_and(|connection| connection.broken)
        {
            self.disconnect(registrar);
        }
    }

    fn disconnect(&mut self, registrar: &mut Registrar<'_>) {
        if let Some(connection) = self.connection.take() {
            // While it is open: its number could mean another descriptor as soon as it is not.
            let _ = registrar.remove(&connection.socket.as_fd().as_raw_fd());
        }
    }
}

/// The mixer behind the one descriptor of a message.
fn mixer(descriptors: Vec<OwnedFd>) -> anyhow::Result<Box<dyn Host>> {
    let [socket] = <[OwnedFd; 1]>::try_from(descriptors)
        .ok()
        .context("sound needs exactly one descriptor")?;
    Ok(Box::new(Mixer::new(socket)))
}

fn failed(what: &str) -> Event {
    Event::Failed {
        what: what.to_owned(),
    }
}
