//! The life of one VM: which request is accepted in which state, and what has to be done then. Pure: no I/O, no clock.
//!
//! ```text
//!             start             launched           agent reported
//!   Halted ──────────▶ Preparing ──────▶ Starting ──────────────▶ Running
//!   Crashed               │                 │ no report, kill,       │ shutdown, kill,
//!      ▲                  │ failed          │ shutdown               │ no answer to pings
//!      │                  │                 ▼                        ▼
//!      │                  │              Stopping ◀──────────────────┘
//!      │                  ▼                 │ process ended   (also straight from Starting and Running)
//!      └─────────────── Cleaning ◀──────────┘
//!                         │ disposables
//!                         ▼            remove
//!              Gone ◀── Deleting ◀────────────── Halted, Crashed
//! ```
//!
//! The driver feeds [`Input`]s and carries out [`Effect`]s in order. Of `Launch`, `WaitAgent`, `CleanUp` and `Delete` at
//! most one is under way; `WaitAgent` is dropped when the state has moved on, the others always report back. Every
//! [`Ticket`] is answered exactly once, whatever happens.

mod rest;
#[cfg(test)]
mod tests;

use std::time::Duration;

use casemate_vm::{VmKind, VmState};

pub(crate) use self::rest::Ending;
use self::rest::Rest;
use crate::refusal::{Kind, Refusal};

/// Names one request until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

/// What others ask of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Answered when the agent has reported.
    Start,
    /// Answered when the VM is halted; it is killed after the timeout.
    Shutdown { timeout: Duration },
    /// Answered when the VM is halted.
    Kill,
    /// Deletes a halted app VM; answered when nothing of it is left.
    Remove,
    /// Ends and deletes a disposable; answered when nothing of it is left.
    Destroy,
}

/// What happens to a VM.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Requested(Ticket, Request),
    /// The vmm runs and both services know the VM.
    Launched,
    /// There is no process.
    LaunchFailed(Refusal),
    AgentReported,
    AgentFailed(Refusal),
    StopDeadline,
    /// The vmm broke its protocol or does not answer; the text says which.
    Misbehaved(String),
    ProcessEnded(Ending),
    CleanedUp,
    Deleted(Result<(), Refusal>),
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Launch,
    WaitAgent,
    PressPowerButton,
    /// After this long a [`Input::StopDeadline`] is due, unless an earlier one is already.
    ArmStopTimer(Duration),
    KillProcess,
    CleanUp,
    Delete,
    Answer(Ticket, Result<(), Refusal>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Resting(Rest),
    /// With `doomed`, the process is killed as soon as it exists.
    Preparing {
        doomed: Option<Rest>,
    },
    Starting,
    Running,
    Stopping(Rest),
    Cleaning(Rest),
    Deleting,
    Gone,
}

/// One VM's life.
#[derive(Debug)]
pub(crate) struct Life {
    kind: VmKind,
    state: State,
    /// Wait for the agent's report.
    starters: Vec<Ticket>,
    /// Waited in vain, and are told so when the end has been cleaned up.
    failed: Vec<(Ticket, Refusal)>,
    /// Want a start after the stop that is under way.
    restarters: Vec<Ticket>,
    /// Wait for the end.
    stoppers: Vec<Ticket>,
    /// Waits for the deletion.
    removers: Vec<Ticket>,
}

impl Life {
    /// A VM of which nothing runs.
    pub(crate) fn halted(kind: VmKind) -> Self {
        Self::in_state(kind, State::Resting(Rest::default()))
    }

    /// A VM whose process was found running by a new supervisor. The first effect is to be carried out at once.
    pub(crate) fn adopted(kind: VmKind, agent_reported: bool) -> (Self, Vec<Effect>) {
        if agent_reported {
            (Self::in_state(kind, State::Running), Vec::new())
        } else {
            (
                Self::in_state(kind, State::Starting),
                vec![Effect::WaitAgent],
            )
        }
    }

    /// A VM that is of no use without the supervisor that began it. The first effect is to be carried out at once.
    pub(crate) fn unfinished(kind: VmKind) -> (Self, Vec<Effect>) {
        let rest = Rest {
            crashed: true,
            problem: "the supervisor ended before it was ready".to_owned(),
        };
        (
            Self::in_state(kind, State::Stopping(rest)),
            vec![Effect::KillProcess],
        )
    }

    /// A VM whose process ended while no supervisor ran.
    pub(crate) fn found_dead(kind: VmKind) -> (Self, Vec<Effect>) {
        let rest = Rest {
            crashed: true,
            problem: "its vmm ended while no supervisor ran; see its log".to_owned(),
        };
        (
            Self::in_state(kind, State::Cleaning(rest)),
            vec![Effect::CleanUp],
        )
    }

    fn in_state(kind: VmKind, state: State) -> Self {
        Self {
            kind,
            state,
            starters: Vec::new(),
            failed: Vec::new(),
            restarters: Vec::new(),
            stoppers: Vec::new(),
            removers: Vec::new(),
        }
    }

    /// The state as others see it.
    pub(crate) fn state(&self) -> VmState {
        match &self.state {
            State::Resting(rest) if rest.crashed => VmState::Crashed,
            State::Resting(_) | State::Deleting | State::Gone => VmState::Halted,
            State::Preparing { .. } => VmState::Preparing,
            State::Starting => VmState::Starting,
            State::Running => VmState::Running,
            State::Stopping(_) | State::Cleaning(_) => VmState::Stopping,
        }
    }

    /// Why it crashed or did not start.
    pub(crate) fn problem(&self) -> &str {
        match &self.state {
            State::Resting(rest) => &rest.problem,
            _ => "",
        }
    }

    /// Whether nothing of the VM is left, and its driver may end.
    pub(crate) fn is_gone(&self) -> bool {
        self.state == State::Gone
    }

    /// Whether the power-off timer still means something.
    pub(crate) fn is_stopping(&self) -> bool {
        matches!(self.state, State::Stopping(_))
    }

    /// Takes one input.
    pub(crate) fn on(&mut self, input: Input) -> Vec<Effect> {
        match input {
            Input::Requested(ticket, request) => self.requested(ticket, request),
            Input::Launched => self.launched(),
            Input::LaunchFailed(refusal) => self.launch_failed(refusal),
            Input::AgentReported => self.agent_reported(),
            Input::AgentFailed(refusal) => self.agent_failed(&refusal),
            Input::StopDeadline if self.is_stopping() => vec![Effect::KillProcess],
            Input::StopDeadline => Vec::new(),
            Input::Misbehaved(what) => self.misbehaved(what),
            Input::ProcessEnded(ending) => self.process_ended(ending),
            Input::CleanedUp => self.cleaned_up(),
            Input::Deleted(result) => self.deleted(&result),
        }
    }

    fn requested(&mut self, ticket: Ticket, request: Request) -> Vec<Effect> {
        let disposable = self.kind == VmKind::Disposable;
        match request {
            Request::Start => self.start(ticket),
            Request::Shutdown { timeout } => self.stop(ticket, Some(timeout)),
            Request::Kill => self.stop(ticket, None),
            Request::Destroy if disposable => self.stop(ticket, None),
            Request::Destroy => answer(
                ticket,
                Refusal::new(
                    Kind::Usage,
                    "only a disposable can be destroyed; use `casemate remove`",
                ),
            ),
            Request::Remove if disposable => answer(
                ticket,
                Refusal::wrong_state("it is a disposable; `casemate kill` ends and deletes it"),
            ),
            Request::Remove => self.remove(ticket),
        }
    }

    fn start(&mut self, ticket: Ticket) -> Vec<Effect> {
        match &self.state {
            State::Resting(_) => {
                self.starters.push(ticket);
                self.state = State::Preparing { doomed: None };
                vec![Effect::Launch]
            }
            State::Preparing { doomed: None } | State::Starting => {
                self.starters.push(ticket);
                Vec::new()
            }
            State::Running => vec![Effect::Answer(ticket, Ok(()))],
            State::Preparing { doomed: Some(_) } | State::Stopping(_) | State::Cleaning(_) => {
                if self.kind == VmKind::Disposable {
                    return answer(ticket, Refusal::wrong_state("the disposable is ending"));
                }
                self.restarters.push(ticket);
                Vec::new()
            }
            State::Deleting | State::Gone => answer(ticket, gone()),
        }
    }

    /// Stops with the power button and a timeout, or at once.
    fn stop(&mut self, ticket: Ticket, timeout: Option<Duration>) -> Vec<Effect> {
        self.fail_starters(&stopped_early());
        let mut effects = Vec::new();
        match &mut self.state {
            State::Resting(rest) => {
                *rest = Rest::default();
                return vec![Effect::Answer(ticket, Ok(()))];
            }
            State::Gone => return vec![Effect::Answer(ticket, Ok(()))],
            State::Deleting if self.kind == VmKind::App => return answer(ticket, gone()),
            State::Preparing { doomed } => {
                doomed.get_or_insert_default();
            }
            State::Starting => {
                self.state = State::Stopping(Rest::default());
                effects.push(Effect::KillProcess);
            }
            State::Running => {
                self.state = State::Stopping(Rest::default());
                effects.extend(stop_effects(timeout, true));
            }
            State::Stopping(_) => effects.extend(stop_effects(timeout, false)),
            State::Cleaning(_) | State::Deleting => {}
        }
        self.stoppers.push(ticket);
        effects
    }

    fn remove(&mut self, ticket: Ticket) -> Vec<Effect> {
        match &self.state {
            State::Resting(_) => {
                self.removers.push(ticket);
                self.state = State::Deleting;
                vec![Effect::Delete]
            }
            State::Deleting | State::Gone => answer(ticket, gone()),
            _ => answer(
                ticket,
                Refusal::wrong_state(
                    "it is running; shut it down first (`casemate shutdown NAME`)",
                ),
            ),
        }
    }

    fn launched(&mut self) -> Vec<Effect> {
        match std::mem::replace(&mut self.state, State::Starting) {
            State::Preparing { doomed: None } => vec![Effect::WaitAgent],
            State::Preparing { doomed: Some(rest) } => {
                self.state = State::Stopping(rest);
                vec![Effect::KillProcess]
            }
            other => self.stay(other),
        }
    }

    fn launch_failed(&mut self, refusal: Refusal) -> Vec<Effect> {
        match std::mem::replace(&mut self.state, State::Gone) {
            State::Preparing { doomed: None } => {
                self.fail_waiting(&refusal);
                let rest = Rest {
                    crashed: false,
                    problem: refusal.text,
                };
                self.state = State::Cleaning(rest);
                vec![Effect::CleanUp]
            }
            State::Preparing { doomed: Some(rest) } => {
                self.state = State::Cleaning(rest);
                vec![Effect::CleanUp]
            }
            other => self.stay(other),
        }
    }

    fn agent_reported(&mut self) -> Vec<Effect> {
        if self.state != State::Starting {
            return Vec::new();
        }
        self.state = State::Running;
        let starters = std::mem::take(&mut self.starters);
        let answers = starters
            .into_iter()
            .map(|ticket| Effect::Answer(ticket, Ok(())));
        answers.collect()
    }

    fn agent_failed(&mut self, refusal: &Refusal) -> Vec<Effect> {
        if self.state != State::Starting {
            return Vec::new();
        }
        self.fail_waiting(refusal);
        self.state = State::Stopping(Rest {
            crashed: true,
            problem: refusal.text.clone(),
        });
        vec![Effect::KillProcess]
    }

    fn misbehaved(&mut self, problem: String) -> Vec<Effect> {
        if !matches!(
            self.state,
            State::Starting | State::Running | State::Stopping(_)
        ) {
            return Vec::new();
        }
        self.fail_waiting(&Refusal::failed(problem.clone()));
        self.state = State::Stopping(Rest {
            crashed: true,
            problem,
        });
        vec![Effect::KillProcess]
    }

    fn process_ended(&mut self, ending: Ending) -> Vec<Effect> {
        let rest = match std::mem::replace(&mut self.state, State::Gone) {
            State::Stopping(rest) => rest,
            State::Running => Rest::after(ending),
            State::Starting => Rest {
                crashed: true,
                ..Rest::before_report(ending)
            },
            other => return self.stay(other),
        };
        self.fail_waiting(&Refusal::failed(rest.problem.clone()));
        self.state = State::Cleaning(rest);
        vec![Effect::CleanUp]
    }

    fn cleaned_up(&mut self) -> Vec<Effect> {
        let rest = match std::mem::replace(&mut self.state, State::Deleting) {
            State::Cleaning(rest) => rest,
            other => return self.stay(other),
        };
        if self.kind == VmKind::Disposable {
            return vec![Effect::Delete];
        }
        let mut effects = self.answer_ended();
        self.state = State::Resting(rest);
        if !self.restarters.is_empty() {
            self.starters = std::mem::take(&mut self.restarters);
            self.state = State::Preparing { doomed: None };
            effects.push(Effect::Launch);
        }
        effects
    }

    fn deleted(&mut self, result: &Result<(), Refusal>) -> Vec<Effect> {
        if self.state != State::Deleting {
            return Vec::new();
        }
        let mut effects = match (result, self.kind) {
            (Err(refusal), VmKind::App) => {
                self.state = State::Resting(Rest::default());
                fail(&mut self.removers, refusal)
            }
            _ => {
                self.state = State::Gone;
                succeed(&mut self.removers)
            }
        };
        effects.extend(self.answer_ended());
        effects
    }

    /// Those who wait for a start that is under way, and those who want one after the stop, will be told why not.
    fn fail_starters(&mut self, refusal: &Refusal) {
        self.fail_waiting(refusal);
        let tickets = std::mem::take(&mut self.restarters);
        self.failed
            .extend(tickets.into_iter().map(|ticket| (ticket, refusal.clone())));
    }

    fn fail_waiting(&mut self, refusal: &Refusal) {
        let tickets = std::mem::take(&mut self.starters);
        self.failed
            .extend(tickets.into_iter().map(|ticket| (ticket, refusal.clone())));
    }

    /// Answers everyone who waited for the end, now that nothing of the run is left.
    fn answer_ended(&mut self) -> Vec<Effect> {
        let failed = std::mem::take(&mut self.failed);
        let failed = failed
            .into_iter()
            .map(|(ticket, refusal)| Effect::Answer(ticket, Err(refusal)));
        let mut effects: Vec<Effect> = failed.collect();
        effects.extend(succeed(&mut self.stoppers));
        effects
    }

    /// An input that does not belong to this state: a late report of something that was given up.
    fn stay(&mut self, state: State) -> Vec<Effect> {
        self.state = state;
        Vec::new()
    }
}

fn stop_effects(timeout: Option<Duration>, press: bool) -> Vec<Effect> {
    match timeout {
        None => vec![Effect::KillProcess],
        Some(timeout) if press => vec![Effect::PressPowerButton, Effect::ArmStopTimer(timeout)],
        Some(timeout) => vec![Effect::ArmStopTimer(timeout)],
    }
}

fn answer(ticket: Ticket, refusal: Refusal) -> Vec<Effect> {
    vec![Effect::Answer(ticket, Err(refusal))]
}

fn fail(tickets: &mut Vec<Ticket>, refusal: &Refusal) -> Vec<Effect> {
    let tickets = std::mem::take(tickets);
    let answers = tickets
        .into_iter()
        .map(|ticket| Effect::Answer(ticket, Err(refusal.clone())));
    answers.collect()
}

fn succeed(tickets: &mut Vec<Ticket>) -> Vec<Effect> {
    let tickets = std::mem::take(tickets);
    let answers = tickets
        .into_iter()
        .map(|ticket| Effect::Answer(ticket, Ok(())));
    answers.collect()
}

fn gone() -> Refusal {
    Refusal::not_found("the VM is being deleted")
}

fn stopped_early() -> Refusal {
    Refusal::wrong_state("the VM was stopped before its agent reported")
}
