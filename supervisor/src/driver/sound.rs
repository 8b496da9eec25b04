//! Where a VM is joined to the mixer: what it plays always, what it records while that is granted.

use std::io;

use casemate_link::PacketSocket;
use casemate_sound_wire::Order;
use casemate_vm::{VmName, VmSpec};
use rustix::net::{Shutdown, shutdown};
use tokio::sync::watch;

use super::{Driver, Handle};
use crate::{
    machine::Machine,
    refusal::Refusal,
    services::mixer::{State, Up},
};

/// A VM's place at the mixer.
#[derive(Debug)]
pub(super) struct Sound {
    pub(super) changes: watch::Receiver<State>,
    /// The number of the mixer that was given its speaker.
    joined: Option<u64>,
    grant: Option<Grant>,
}

/// A grant to record, which ends with this: the mixer's end of the socket, whose shutting down neither a vmm nor a mixer
/// can do anything about.
#[derive(Debug)]
struct Grant(PacketSocket);

impl Drop for Grant {
    fn drop(&mut self) {
        if let Err(errno) = shutdown(&self.0, Shutdown::Both) {
            tracing::error!(%errno, "a grant to record could not be shut down");
        }
    }
}

impl Sound {
    pub(super) fn new(changes: watch::Receiver<State>) -> Self {
        Self {
            changes,
            joined: None,
            grant: None,
        }
    }

    pub(super) fn is_recording(&self) -> bool {
        self.grant.is_some()
    }

    /// The VM has ended.
    pub(super) fn forget(&mut self) {
        self.joined = None;
        self.grant = None;
    }
}

impl Handle {
    /// Whether it may be allowed to record.
    ///
    /// # Errors
    /// When it does not run, or has no sound card.
    pub(crate) fn check_sound(&self) -> Result<(), Refusal> {
        let view = self.view();
        check(&self.name, view.running.as_ref().map(|it| &it.spec))
    }
}

fn check(name: &VmName, spec: Option<&VmSpec>) -> Result<(), Refusal> {
    match spec {
        None => Err(Refusal::wrong_state(format!(
            "'{name}' does not run; `casemate start {name}`"
        ))),
        Some(spec) if !spec.audio => Err(Refusal::wrong_state(format!(
            "'{name}' has no sound card; write audio = true into its definition and start it anew"
        ))),
        Some(_) => Ok(()),
    }
}

impl Driver {
    /// Has the mixer started for a VM with sound, and joins it as soon as there is one.
    pub(super) fn need_sound(&mut self) {
        if self.machine_with_sound().is_some() {
            self.house.mixer.need();
            self.join_sound();
        }
    }

    /// Gives a mixer that does not know the VM yet its speaker.
    pub(super) fn join_sound(&mut self) {
        let up = self.sound.changes.borrow_and_update().up.clone();
        let number = up.as_ref().map(|up| up.number);
        if self.sound.joined == number || self.machine_with_sound().is_none() {
            return;
        }
        // A grant was given to the mixer before.
        self.end_grant();
        // Also where it fails: the next mixer is another try.
        self.sound.joined = number;
        let (Some(up), Some(machine)) = (up, self.machine_with_sound()) else {
            return;
        };
        match speaker(machine, &self.name, &up) {
            Ok(()) => tracing::info!(vm = %self.name, "its sound goes to the mixer"),
            Err(error) => tracing::warn!(vm = %self.name, %error, "it is silent"),
        }
    }

    /// Lets it record.
    pub(super) fn grant(&mut self) -> Result<(), Refusal> {
        let spec = self.machine.as_ref().map(|machine| &machine.record.spec);
        check(&self.name, spec)?;
        self.join_sound();
        let up = self.sound.changes.borrow().up.clone();
        let (Some(up), Some(machine)) = (up, self.machine_with_sound()) else {
            return Err(Refusal::failed("the mixer has just ended; try again"));
        };
        if self.sound.is_recording() {
            return Ok(());
        }
        let wrap = |error: io::Error| Refusal::io(format!("'{}' cannot record", self.name), &error);
        let grant = Grant(machine.grant_recording().map_err(wrap)?);
        let order = Order::Recorder(self.name.as_str());
        up.order(order, Some(&grant.0)).map_err(wrap)?;
        self.sound.grant = Some(grant);
        tracing::info!(vm = %self.name, "it may record");
        Ok(())
    }

    /// Ends a grant if there is one. When this returns nothing that is recorded from now on can reach the VM.
    pub(super) fn end_grant(&mut self) {
        let Some(grant) = self.sound.grant.take() else {
            return;
        };
        drop(grant);
        tracing::info!(vm = %self.name, "it may record no more");
        // The rest only tidies up.
        let up = self.sound.changes.borrow().up.clone();
        let ordered = up.map_or(Ok(()), |up| {
            up.order(Order::Revoke(self.name.as_str()), None)
        });
        let told = self.machine.as_ref().map(Machine::revoke_recording);
        for error in [ordered.err(), told.and_then(Result::err)]
            .into_iter()
            .flatten()
        {
            tracing::debug!(vm = %self.name, %error, "the end of a grant was not told");
        }
    }

    fn machine_with_sound(&self) -> Option<&Machine> {
        self.machine
            .as_ref()
            .filter(|machine| machine.record.spec.audio)
    }
}

fn speaker(machine: &Machine, name: &VmName, up: &Up) -> io::Result<()> {
    let socket = machine.new_speaker()?;
    up.order(Order::Speaker(name.as_str()), Some(&socket))
}
