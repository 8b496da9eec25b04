//! One running vmm, as the supervisor holds it: its control socket, its process, its window memory.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use casemate_link::PacketSocket;
use casemate_vmm_control::{Action, Event, LinkKind, StopReason};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};

use crate::{
    control::{Control, ControlError},
    life::Ending,
    process::Process,
    run_record::RunRecord,
};

/// How often a vmm is asked whether it is well.
const PING_EVERY: Duration = Duration::from_secs(10);

/// Pings that may go unanswered: three are half a minute, which a slow machine under load can need.
const MAX_UNANSWERED: u32 = 3;

/// Events that a vmm may send between two pings; a hostile one would keep its driver busy for ever.
const MAX_EVENTS: u32 = 200;

/// How long a process may outlive its control socket before it is killed.
const LAST_BREATH: Duration = Duration::from_secs(5);

/// A running vmm.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) record: RunRecord,
    /// Absent after adoption: nobody can get it back from a vmm that cannot be looked into.
    pub(crate) window_memory: Option<OwnedFd>,
    control: Control,
    /// Absent only when the supervisor died between spawning the vmm and learning its pid.
    process: Option<Process>,
    pings: Interval,
    unanswered: u32,
    events: u32,
    ending: Option<Ending>,
    /// Set when the control socket was closed or its protocol broken.
    lost: Option<Instant>,
}

/// What a machine reports to its driver.
#[derive(Debug)]
pub(crate) enum Occurrence {
    Ended(Ending),
    Misbehaved(String),
}

impl Machine {
    pub(crate) fn new(
        record: RunRecord,
        control: Control,
        process: Option<Process>,
        window_memory: Option<OwnedFd>,
    ) -> Self {
        let mut pings = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            record,
            window_memory,
            control,
            process,
            pings,
            unanswered: 0,
            events: 0,
            ending: None,
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

    fn heard(&mut self, event: Result<Event, ControlError>) -> Option<Occurrence> {
        self.unanswered = 0;
        self.events += 1;
        if self.events > MAX_EVENTS {
            return Some(self.misbehaved("it flooded its control socket"));
        }
        match event {
            Ok(Event::State { .. }) => {}
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
            return Some(self.misbehaved("it did not answer for half a minute"));
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
