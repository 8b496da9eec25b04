//! The driver of one VM: the only task that owns its machine. It feeds what happens into [`Life`] and carries out what
//! comes back; all judgement is there, all I/O is here.

mod clean_up;
mod handle;
mod jobs;
mod joints;
mod sound;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use casemate_vm::{VmKind, VmName, VmState};
use casemate_vmm_control::LinkKind;
use futures_util::future::BoxFuture;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

pub(crate) use self::clean_up::clean_up;
pub(crate) use self::handle::{Handle, Origin, RunningView, View};
use self::{handle::Mail, jobs::Done, joints::Joint, sound::Sound};
use crate::{
    house::House,
    life::{Effect, Input, Life, Ticket},
    machine::{Machine, Occurrence},
    refusal::Refusal,
};

/// Requests that may wait for one driver; more senders wait for room.
const MAILBOX: usize = 64;

struct Driver {
    house: Arc<House>,
    name: VmName,
    origin: Origin,
    life: Life,
    inbox: mpsc::Receiver<Mail>,
    own_mailbox: mpsc::Sender<Mail>,
    view: watch::Sender<View>,
    broker: Joint,
    compositor: Joint,
    sound: Sound,
    tickets: BTreeMap<Ticket, oneshot::Sender<Result<(), Refusal>>>,
    next_ticket: u64,
    machine: Option<Machine>,
    job: Option<BoxFuture<'static, Done>>,
    deadline: Option<Instant>,
    /// Wait until the VM stands still.
    holders: Vec<oneshot::Sender<Result<(), Refusal>>>,
    /// Something that is wrong with a VM that runs on.
    note: String,
}

/// Starts the driver of a VM. `effects` are what its life begins with.
pub(crate) fn spawn(
    house: &Arc<House>,
    name: VmName,
    origin: Origin,
    life: Life,
    effects: Vec<Effect>,
    machine: Option<Machine>,
) -> Handle {
    let (own_mailbox, inbox) = mpsc::channel(MAILBOX);
    let (view, watched) = watch::channel(View {
        state: life.state(),
        problem: String::new(),
        running: None,
    });
    let handle = Handle {
        name: name.clone(),
        origin: origin.clone(),
        mailbox: own_mailbox.clone(),
        view: watched,
    };
    let driver = Driver {
        house: Arc::clone(house),
        name,
        origin,
        life,
        inbox,
        own_mailbox,
        view,
        broker: Joint::new(house.broker.watch()),
        compositor: Joint::new(house.compositor.watch()),
        sound: Sound::new(house.mixer.watch()),
        tickets: BTreeMap::new(),
        next_ticket: 0,
        machine,
        job: None,
        deadline: None,
        holders: Vec::new(),
        note: String::new(),
    };
    // Before the task runs, so that nobody sees an adopted VM without its machine.
    driver.publish();
    tokio::spawn(driver.run(effects));
    handle
}

impl Driver {
    async fn run(mut self, effects: Vec<Effect>) {
        self.carry_out(effects);
        self.check_attachment(LinkKind::Rpc);
        self.check_attachment(LinkKind::Windows);
        self.need_sound();
        self.publish();
        while !self.life.is_gone() {
            if let Some(input) = self.next_input().await {
                self.take(input);
            }
            self.publish();
        }
        self.house.forget_driver(&self.name);
    }

    fn take(&mut self, input: Input) {
        let before = self.life.state();
        let effects = self.life.on(input);
        let after = self.life.state();
        if before != after {
            tracing::info!(vm = %self.name, from = %before, to = %after, problem = self.life.problem(), "state");
        }
        if before == VmState::Starting && after != VmState::Starting {
            // The wait for the agent; every other job reports before the state moves on.
            self.job = None;
        }
        self.carry_out(effects);
    }

    /// The next thing that happens; nothing for what concerns only the driver.
    async fn next_input(&mut self) -> Option<Input> {
        let has_machine = self.machine.is_some();
        tokio::select! {
            mail = self.inbox.recv() => self.read(mail?),
            done = finish(&mut self.job) => {
                self.job = None;
                Some(self.done(done))
            }
            occurrence = next_occurrence(&mut self.machine) => match occurrence {
                Occurrence::Ended(ending) => {
                    self.machine = None;
                    self.sound.forget();
                    self.stands_still();
                    Some(Input::ProcessEnded(ending))
                }
                Occurrence::Misbehaved(what) => Some(Input::Misbehaved(what)),
                Occurrence::StandsStill => {
                    self.stands_still();
                    None
                }
            },
            () = at(self.deadline) => {
                self.deadline = None;
                Some(Input::StopDeadline)
            }
            changed = self.broker.changes.changed(), if has_machine => {
                changed.ok()?;
                self.check_attachment(LinkKind::Rpc);
                None
            }
            changed = self.compositor.changes.changed(), if has_machine => {
                changed.ok()?;
                self.check_attachment(LinkKind::Windows);
                None
            }
            changed = self.sound.changes.changed(), if has_machine => {
                changed.ok()?;
                self.join_sound();
                None
            }
        }
    }

    fn read(&mut self, mail: Mail) -> Option<Input> {
        match mail {
            Mail::Request(request, answer) => {
                self.next_ticket += 1;
                let ticket = Ticket(self.next_ticket);
                self.tickets.insert(ticket, answer);
                Some(Input::Requested(ticket, request))
            }
            Mail::Attach(kind) => {
                self.attach_anew(kind);
                None
            }
            Mail::Settled(kind) => {
                let joint = self.joint(kind);
                joint.settling = false;
                if std::mem::take(&mut joint.changed) {
                    self.check_attachment(kind);
                }
                None
            }
            Mail::Hold(answer) => {
                self.hold(answer);
                None
            }
            Mail::Release => {
                if let Some(Err(error)) = self.machine.as_mut().map(Machine::release) {
                    tracing::warn!(vm = %self.name, %error, "it cannot be told to go on");
                }
                None
            }
            Mail::Recording(granted, answer) => {
                let result = if granted {
                    self.grant()
                } else {
                    self.end_grant();
                    Ok(())
                };
                self.publish();
                // Whoever has stopped waiting needs no answer.
                let _ = answer.send(result);
                None
            }
            Mail::EndsWithCall(call) => {
                if let Some(machine) = &mut self.machine {
                    machine.record.ends_with_call = Some(call);
                    let (house, name) = (Arc::clone(&self.house), self.name.clone());
                    let record = machine.record.clone();
                    tokio::spawn(async move { house.update_record(&name, record).await });
                }
                None
            }
        }
    }

    fn done(&mut self, done: Done) -> Input {
        match done {
            Done::Launched(Ok(machine)) => {
                self.machine = Some(*machine);
                self.note.clear();
                self.check_attachment(LinkKind::Rpc);
                self.check_attachment(LinkKind::Windows);
                self.need_sound();
                Input::Launched
            }
            Done::Launched(Err(refusal)) => Input::LaunchFailed(refusal),
            Done::Agent(Ok(())) => {
                if let Some(machine) = &mut self.machine {
                    machine.record.agent_reported = true;
                }
                Input::AgentReported
            }
            Done::Agent(Err(refusal)) => Input::AgentFailed(refusal),
            Done::CleanedUp => Input::CleanedUp,
            Done::Deleted(result) => Input::Deleted(result),
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Answer(ticket, answer) => {
                    if let Some(waiting) = self.tickets.remove(&ticket) {
                        // Whoever has stopped waiting needs no answer.
                        let _ = waiting.send(answer);
                    }
                }
                Effect::PressPowerButton => self.press_power_button(),
                Effect::ArmStopTimer(timeout) => self.arm(timeout),
                Effect::KillProcess => {
                    if let Some(machine) = &self.machine {
                        machine.kill();
                    }
                }
                Effect::Launch => self.job = Some(self.launch_job()),
                Effect::WaitAgent => self.job = Some(self.agent_job()),
                Effect::CleanUp => self.job = Some(self.clean_up_job()),
                Effect::Delete => self.job = Some(self.delete_job()),
            }
        }
        if !self.life.is_stopping() {
            self.deadline = None;
        }
    }

    fn press_power_button(&mut self) {
        let pressed = self.machine.as_ref().map(Machine::press_power_button);
        if let Some(Err(error)) = pressed {
            tracing::warn!(vm = %self.name, %error, "the power button could not be pressed");
            self.arm(Duration::ZERO);
        }
    }

    fn hold(&mut self, answer: oneshot::Sender<Result<(), Refusal>>) {
        match self.machine.as_mut().map(Machine::hold) {
            Some(Ok(())) => self.holders.push(answer),
            // Whoever has stopped waiting needs no answer.
            Some(Err(error)) => drop(answer.send(Err(Refusal::io(
                format!("'{}' cannot be told to stand still", self.name),
                &error,
            )))),
            None => drop(answer.send(Ok(()))),
        }
    }

    fn stands_still(&mut self) {
        for holder in self.holders.drain(..) {
            let _ = holder.send(Ok(()));
        }
    }

    fn arm(&mut self, timeout: Duration) {
        let due = Instant::now() + timeout;
        self.deadline = Some(self.deadline.map_or(due, |earlier| earlier.min(due)));
    }

    fn kind(&self) -> VmKind {
        match self.origin {
            Origin::Defined => VmKind::App,
            Origin::Disposable(_) => VmKind::Disposable,
        }
    }

    fn publish(&self) {
        let problem = if self.life.problem().is_empty() {
            &self.note
        } else {
            self.life.problem()
        };
        let running = self.machine.as_ref().map(|machine| RunningView {
            spec: machine.record.spec.clone(),
            id: machine.record.id.0,
            revision: machine.record.revision,
            pid: machine.pid(),
            uuid: machine.record.uuid.clone(),
            recording: self.sound.is_recording(),
        });
        self.view.send_replace(View {
            state: self.life.state(),
            problem: if running.is_some() || !self.life.problem().is_empty() {
                problem.to_owned()
            } else {
                String::new()
            },
            running,
        });
    }
}

async fn finish(job: &mut Option<BoxFuture<'static, Done>>) -> Done {
    match job {
        Some(job) => job.await,
        None => std::future::pending().await,
    }
}

async fn next_occurrence(machine: &mut Option<Machine>) -> Occurrence {
    match machine {
        Some(machine) => machine.next().await,
        None => std::future::pending().await,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
