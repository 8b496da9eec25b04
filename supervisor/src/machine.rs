//! One running vmm, as the supervisor holds it: its control socket, its process, its window memory.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use casemate_link::PacketSocket;
use casemate_vmm_control::{Action, Event, LinkKind, Phase, StopReason};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until, timeout};

use crate::{
    control::{Control, ControlError},
    life::Ending,
    process::Process,
    refusal::{Kind, Refusal},
    run_record::RunRecord,
};

/// Pings that may go unanswered. A vmm that stops at the worst moment is found out one ping later.
const MAX_UNANSWERED: u32 = 3;

/// Events that a vmm may send between two pings; a hostile one would keep its driver busy for ever.
const MAX_EVENTS: u32 = 200;

/// How long a process may outlive its control socket before it is killed.
const LAST_BREATH: Duration = Duration::from_secs(5);

/// Finds out a vmm that does not answer any more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watchdog {
    /// How long a vmm may be silent before it is ended.
    pub(crate) silence: Duration,
}

impl Watchdog {
    /// How often a vmm is asked whether it is well.
    fn ping_every(self) -> Duration {
        self.silence / (MAX_UNANSWERED + 1)
    }
}

/// A running vmm.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) record: RunRecord,
    /// Absent after adoption: nobody can get it back from a vmm that cannot be looked into.
    pub(crate) window_memory: Option<OwnedFd>,
    control: Control,
    /// Absent only when the supervisor died between spawning the vmm and learning its pid.
    process: Option<Process>,
    watchdog: Watchdog,
    pings: Interval,
    unanswered: u32,
    events: u32,
    ending: Option<Ending>,
    /// Whether its vCPUs shall stand still.
    held: bool,
    /// Set when the control socket was closed or its protocol broken.
    lost: Option<Instant>,
}

/// What a machine reports to its driver.
#[derive(Debug)]
pub(crate) enum Occurrence {
    Ended(Ending),
    Misbehaved(String),
    /// Its vCPUs stand still, as was asked; may be told more than once.
    StandsStill,
}

impl Machine {
    pub(crate) fn new(
        record: RunRecord,
        control: Control,
        process: Option<Process>,
        window_memory: Option<OwnedFd>,
        watchdog: Watchdog,
    ) -> Self {
        let every = watchdog.ping_every();
        let mut pings = interval_at(Instant::now() + every, every);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            record,
            window_memory,
            control,
            process,
            watchdog,
            pings,
            unanswered: 0,
            events: 0,
            ending: None,
            held: false,
            lost: None,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, |process| process.id().pid)
    }

    /// The next thing that the driver must know. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Occurrence {
        loop {
            if let Some(since) = self.lost {
                return self.wait_for_end(since).await;
            }
            tokio::select! {
                biased;
                event = self.control.receive() => {
                    if let Some(occurrence) = self.heard(event) {
                        return occurrence;
                    }
                }
                () = ended(self.process.as_ref()) => {
                    self.read_last_words();
                    return Occurrence::Ended(self.take_ending());
                }
                _ = self.pings.tick() => {
                    if let Some(occurrence) = self.ping() {
                        return occurrence;
                    }
                }
            }
        }
    }

    pub(crate) fn press_power_button(&self) -> io::Result<()> {
        self.control.send(&Action::PowerButton, &[])
    }

    /// Makes its vCPUs stand still; [`Occurrence::StandsStill`] comes when they do.
    pub(crate) fn hold(&mut self) -> io::Result<()> {
        self.held = true;
        self.control.send(&Action::Pause, &[])
    }

    /// Lets its vCPUs go on.
    pub(crate) fn release(&mut self) -> io::Result<()> {
        self.held = false;
        self.control.send(&Action::Resume, &[])
    }

    /// Asks for something that is answered by its state, and waits for that. Only for a machine whose [`Self::next`] nobody
    /// waits for: no ping may be under way.
    pub(crate) async fn perform(
        &self,
        action: &Action,
        files: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<(), Refusal> {
        self.control
            .send(action, files)
            .map_err(|error| Refusal::io("its vmm cannot be asked", &error))?;
        match timeout(limit, self.control.receive()).await {
            Ok(Ok(Event::State { .. })) => Ok(()),
            Ok(Ok(Event::Failed { what })) => Err(Refusal::failed(format!(
                "its vmm could not: {}",
                what.escape_default()
            ))),
            Ok(Ok(_)) => Err(Refusal::failed("its vmm answered something else")),
            Ok(Err(error)) => Err(Refusal::failed(format!("its vmm failed: {error}"))),
            Err(_) => Err(Refusal::new(
                Kind::TimedOut,
                format!("its vmm did not answer in {} seconds", limit.as_secs()),
            )),
        }
    }

    /// Returns when its process has ended.
    pub(crate) async fn ended(&self) {
        ended(self.process.as_ref()).await;
    }

    /// Ends it at once.
    pub(crate) fn kill(&self) {
        match &self.process {
            Some(process) => process.kill(),
            None => {
                if let Err(error) = self.control.send(&Action::Kill, &[]) {
                    tracing::warn!(%error, "a vmm of unknown pid could not be told to end");
                }
            }
        }
    }

    /// Gives the vmm a new link to a service and returns the service's end.
    pub(crate) fn new_link(&self, kind: LinkKind) -> io::Result<PacketSocket> {
        let (vmm, service) = PacketSocket::pair()?;
        self.control
            .send(&Action::AttachLink { kind }, &[vmm.as_fd()])?;
        Ok(service)
    }

    /// Gives the VM's sound a new socket and returns the mixer's end.
    pub(crate) fn new_speaker(&self) -> io::Result<PacketSocket> {
        self.sound_socket(&Action::AttachSpeaker)
    }

    /// Lets the guest record from a new socket and returns the mixer's end. When that is shut down the grant has ended,
    /// whatever the vmm does.
    pub(crate) fn grant_recording(&self) -> io::Result<PacketSocket> {
        self.sound_socket(&Action::GrantRecording)
    }

    /// Tells the vmm that the guest records silence from now on.
    pub(crate) fn revoke_recording(&self) -> io::Result<()> {
        self.control.send(&Action::RevokeRecording, &[])
    }

    fn sound_socket(&self, action: &Action) -> io::Result<PacketSocket> {
        let (vmm, mixer) = PacketSocket::pair()?;
        self.control.send(action, &[vmm.as_fd()])?;
        Ok(mixer)
    }

    fn heard(&mut self, event: Result<Event, ControlError>) -> Option<Occurrence> {
        self.unanswered = 0;
        self.events += 1;
        if self.events > MAX_EVENTS {
            return Some(self.misbehaved("it flooded its control socket"));
        }
        match event {
            Ok(Event::State {
                phase: Phase::Paused,
                ..
            }) if self.held => return Some(Occurrence::StandsStill),
            // A supervisor that held it has ended meanwhile, or this answer and our word to go on have crossed.
            Ok(Event::State {
                phase: Phase::Paused,
                ..
            }) => {
                if let Err(error) = self.release() {
                    tracing::warn!(vm = self.record.id.0, %error, "a VM stands still and cannot be told to go on");
                }
            }
            // Nothing is plugged into VMs yet: whoever does it will listen.
            Ok(
                Event::State { .. }
                | Event::Balloon { .. }
                | Event::DeviceAdded { .. }
                | Event::DeviceRemoved { .. },
            ) => {}
            Ok(Event::Stopped { reason }) => self.ending = Some(ending(reason)),
            Ok(Event::Failed { what }) => {
                // The limit above bounds these lines as well; the text is a vmm's and may hold anything.
                tracing::warn!(
                    vm = self.record.id.0,
                    what = what.escape_default().to_string(),
                    "vmm"
                );
            }
            Err(ControlError::Closed) => self.lost = Some(Instant::now()),
            Err(error) => return Some(self.misbehaved(&error.to_string())),
        }
        None
    }

    fn ping(&mut self) -> Option<Occurrence> {
        self.events = 0;
        if self.unanswered >= MAX_UNANSWERED {
            let silence = self.watchdog.silence.as_secs();
            return Some(self.misbehaved(&format!("it did not answer for {silence} seconds")));
        }
        self.unanswered += 1;
        if let Err(error) = self.control.send(&Action::Ping, &[]) {
            tracing::debug!(vm = self.record.id.0, %error, "ping was not sent");
        }
        None
    }

    /// From here on only the end is waited for: the driver kills what misbehaves.
    fn misbehaved(&mut self, what: &str) -> Occurrence {
        self.lost = Some(Instant::now());
        Occurrence::Misbehaved(format!("its vmm was ended because {what}"))
    }

    async fn wait_for_end(&mut self, since: Instant) -> Occurrence {
        if let Some(process) = &self.process {
            tokio::select! {
                () = process.ended() => {}
                () = sleep_until(since + LAST_BREATH) => {
                    process.kill();
                    process.ended().await;
                }
            }
        }
        Occurrence::Ended(self.take_ending())
    }

    /// Events that were sent right before the end.
    fn read_last_words(&mut self) {
        for _ in 0..MAX_EVENTS {
            match self.control.try_receive() {
                Ok(Some(Event::Stopped { reason })) => self.ending = Some(ending(reason)),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn take_ending(&mut self) -> Ending {
        self.ending.take().unwrap_or_else(|| {
            Ending::Failed("its vmm ended without a word; see its log".to_owned())
        })
    }
}

fn ending(reason: StopReason) -> Ending {
    match reason {
        StopReason::PowerOff => Ending::PowerOff,
        StopReason::Reset => Ending::Reset,
        StopReason::Killed => Ending::Killed,
        StopReason::Error => Ending::Failed(
            "its vmm could not go on (KVM or a device failed); see its log".to_owned(),
        ),
    }
}

async fn ended(process: Option<&Process>) {
    match process {
        Some(process) => process.ended().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use casemate_vm::{Label, VmId, VmKind, VmSpec};
    use casemate_vmm_control::{MAX_CONTROL, decode, encode};

    use super::*;
    use crate::control::listen_at;

    const WATCHDOG: Watchdog = Watchdog {
        silence: Duration::from_secs(40),
    };

    /// A machine without a process, and the vmm's end of its control socket.
    fn machine() -> (Machine, PacketSocket) {
        machine_of(None)
    }

    fn machine_of(process: Option<Process>) -> (Machine, PacketSocket) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let listener = listen_at(&path).unwrap();
        let control = Control::connect(&path).unwrap();
        let vmm = PacketSocket::from(rustix::net::accept(listener).unwrap());
        let record = RunRecord {
            id: VmId(3),
            revision: 1,
            uuid: String::new(),
            agent_reported: true,
            unfinished: false,
            made_for: None,
            ends_with_call: None,
            process: None,
            spec: VmSpec::new(VmKind::App, "debian-12".parse().unwrap(), Label::Blue),
        };
        (Machine::new(record, control, process, None, WATCHDOG), vmm)
    }

    fn say(vmm: &PacketSocket, event: &Event) {
        vmm.send(&encode(event), &[]).unwrap();
    }

    const RUNNING: Event = Event::State {
        phase: Phase::Running,
        pid: None,
    };

    #[tokio::test]
    async fn a_vmm_says_why_it_ends() {
        for (reason, expected) in [
            (StopReason::PowerOff, Ending::PowerOff),
            (StopReason::Reset, Ending::Reset),
            (StopReason::Killed, Ending::Killed),
        ] {
            let (mut machine, vmm) = machine();
            say(&vmm, &RUNNING);
            say(&vmm, &Event::Stopped { reason });
            drop(vmm);
            let occurrence = machine.next().await;
            assert!(
                matches!(&occurrence, Occurrence::Ended(ending) if *ending == expected),
                "{occurrence:?}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_not_of_the_protocol_ends_the_vmm_and_is_heard_once() {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let long = vec![b' '; MAX_CONTROL + 1];
        let cases: [(&[u8], &[_]); 5] = [
            (b"", &[reader.as_fd()]),
            (b"{}", &[]),
            (
                b"{\"event\":\"state\",\"phase\":\"running\",\"pid\":null,\"x\":1}",
                &[],
            ),
            (b"\xff\xfe", &[]),
            (&long, &[]),
        ];
        for (bytes, files) in cases {
            let (mut machine, vmm) = machine();
            vmm.send(bytes, files).unwrap();
            say(&vmm, &RUNNING);
            assert!(matches!(machine.next().await, Occurrence::Misbehaved(_)));
            assert!(matches!(machine.next().await, Occurrence::Ended(_)));
        }
    }

    #[tokio::test]
    async fn a_flood_of_events_ends_the_vmm() {
        let (mut machine, vmm) = machine();
        let flood = std::thread::spawn(move || {
            for _ in 0..=MAX_EVENTS {
                say(&vmm, &RUNNING);
            }
            vmm
        });
        let Occurrence::Misbehaved(what) = machine.next().await else {
            panic!("a flood was read to its end");
        };
        assert!(what.contains("flooded"), "{what}");
        drop(flood.join().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_vmm_that_does_not_answer_is_found_out_and_one_that_does_is_left_alone() {
        let (mut silent, _vmm) = machine();
        let began = Instant::now();
        let Occurrence::Misbehaved(what) = silent.next().await else {
            panic!("a silent vmm ended");
        };
        assert!(what.contains("did not answer"), "{what}");
        assert_eq!(began.elapsed(), WATCHDOG.silence);

        let (mut machine, vmm) = machine();
        let answering = async {
            for _ in 0..20 {
                tokio::time::sleep(WATCHDOG.ping_every()).await;
                say(&vmm, &RUNNING);
            }
        };
        tokio::select! {
            biased;
            occurrence = machine.next() => panic!("{occurrence:?}"),
            () = answering => {}
        }
    }

    #[tokio::test]
    async fn a_vm_is_held_and_released_and_never_left_standing_by_accident() {
        const PAUSED: Event = Event::State {
            phase: Phase::Paused,
            pid: None,
        };
        let heard = |vmm: &PacketSocket| {
            let packet = vmm.receive(MAX_CONTROL).unwrap();
            decode::<Action>(&packet.bytes, MAX_CONTROL).unwrap()
        };
        let (mut machine, vmm) = machine();
        // As a new supervisor finds it when the old one ended at a bad moment.
        say(&vmm, &PAUSED);
        tokio::select! {
            occurrence = machine.next() => panic!("{occurrence:?}"),
            action = tokio::task::spawn_blocking({
                let vmm = PacketSocket::from(vmm.as_fd().try_clone_to_owned().unwrap());
                move || heard(&vmm)
            }) => assert_eq!(action.unwrap(), Action::Resume),
        }
        machine.hold().unwrap();
        assert_eq!(heard(&vmm), Action::Pause);
        say(&vmm, &RUNNING);
        say(&vmm, &PAUSED);
        assert!(matches!(machine.next().await, Occurrence::StandsStill));
        machine.release().unwrap();
        assert_eq!(heard(&vmm), Action::Resume);
        say(&vmm, &RUNNING);
        drop(vmm);
        assert!(matches!(machine.next().await, Occurrence::Ended(_)));
    }

    /// A stopped process dies of a kill as any other, and its end is waited for.
    #[tokio::test]
    async fn a_stopped_process_can_be_ended() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let process = Process::open(child.id()).unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let (mut machine, vmm) = machine_of(Some(process));
        machine.kill();
        drop(vmm);
        assert!(matches!(machine.next().await, Occurrence::Ended(_)));
        child.wait().unwrap();
    }
}
