//! The accept and deny rules as a table, and random lives with every invariant checked after each step.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const SOON: Duration = Duration::from_secs(5);

fn life_in(kind: VmKind, state: VmState) -> Life {
    let mut life = Life::halted(kind);
    let path: &[Input] = &[
        Input::Requested(Ticket(1000), Request::Start),
        Input::Launched,
        Input::AgentReported,
        Input::Requested(Ticket(1001), Request::Shutdown { timeout: SOON }),
    ];
    for input in path {
        if life.state() == state {
            return life;
        }
        life.on(input.clone());
    }
    life
}

#[test]
fn requests_are_accepted_or_refused_by_state() {
    use VmState::{Halted, Preparing, Running, Starting, Stopping};
    let shutdown = Request::Shutdown { timeout: SOON };
    let table = [
        // (kind, state, request, state after, kind of the refusal given at once, number of effects)
        (VmKind::App, Halted, Request::Start, Preparing, None, 1),
        (VmKind::App, Halted, shutdown, Halted, None, 1),
        (VmKind::App, Halted, Request::Kill, Halted, None, 1),
        (VmKind::App, Halted, Request::Remove, Halted, None, 1),
        (
            VmKind::App,
            Halted,
            Request::Destroy,
            Halted,
            Some(Kind::Usage),
            1,
        ),
        (VmKind::App, Preparing, Request::Start, Preparing, None, 0),
        (
            VmKind::App,
            Preparing,
            Request::Remove,
            Preparing,
            Some(Kind::WrongState),
            1,
        ),
        (VmKind::App, Starting, Request::Start, Starting, None, 0),
        (VmKind::App, Running, Request::Start, Running, None, 1),
        (VmKind::App, Running, shutdown, Stopping, None, 2),
        (VmKind::App, Running, Request::Kill, Stopping, None, 1),
        (
            VmKind::App,
            Running,
            Request::Remove,
            Running,
            Some(Kind::WrongState),
            1,
        ),
        (VmKind::App, Stopping, Request::Start, Stopping, None, 0),
        (VmKind::App, Stopping, Request::Kill, Stopping, None, 1),
        (VmKind::App, Stopping, shutdown, Stopping, None, 1),
        (
            VmKind::Disposable,
            Running,
            Request::Destroy,
            Stopping,
            None,
            1,
        ),
        (
            VmKind::Disposable,
            Running,
            Request::Remove,
            Running,
            Some(Kind::WrongState),
            1,
        ),
        (
            VmKind::Disposable,
            Stopping,
            Request::Start,
            Stopping,
            Some(Kind::WrongState),
            1,
        ),
    ];
    for (kind, state, request, after, refusal, count) in table {
        let mut life = life_in(kind, state);
        assert_eq!(life.state(), state);
        let effects = life.on(Input::Requested(Ticket(1), request));
        let context = format!("{kind:?} {state} {request:?}: {effects:?}");
        assert_eq!(life.state(), after, "{context}");
        assert_eq!(effects.len(), count, "{context}");
        let refused = effects.iter().find_map(|effect| match effect {
            Effect::Answer(Ticket(1), Err(refusal)) => Some(refusal.kind),
            _ => None,
        });
        assert_eq!(refused, refusal, "{context}");
    }
}

#[test]
fn a_shutdown_while_preparing_kills_the_process_when_it_appears() {
    let mut life = Life::halted(VmKind::App);
    life.on(Input::Requested(Ticket(1), Request::Start));
    let effects = life.on(Input::Requested(Ticket(2), Request::Kill));
    assert_eq!(effects, []);
    assert_eq!(life.on(Input::Launched), [Effect::KillProcess]);
    assert_eq!(
        life.on(Input::ProcessEnded(Ending::Killed)),
        [Effect::CleanUp]
    );
    // Both are answered when nothing is left, and not before.
    assert!(matches!(
        &life.on(Input::CleanedUp)[..],
        [
            Effect::Answer(Ticket(1), Err(_)),
            Effect::Answer(Ticket(2), Ok(()))
        ]
    ));
    assert_eq!((life.state(), life.problem()), (VmState::Halted, ""));
}

#[test]
fn a_crash_is_kept_with_its_reason_and_cleared_by_a_start() {
    let mut life = life_in(VmKind::App, VmState::Running);
    life.on(Input::ProcessEnded(Ending::Failed("no memory".to_owned())));
    life.on(Input::CleanedUp);
    assert_eq!(
        (life.state(), life.problem()),
        (VmState::Crashed, "no memory")
    );
    life.on(Input::Requested(Ticket(1), Request::Start));
    assert_eq!((life.state(), life.problem()), (VmState::Preparing, ""));
}

/// What a test does next; the driver's side is played by [`World`].
#[derive(Clone, Copy, Debug)]
enum Op {
    Ask(Request),
    /// The job under way reports, well or badly.
    Report(bool),
    Deadline,
    Misbehave,
    End(u8),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let request = prop_oneof![
        3 => Just(Request::Start),
        1 => Just(Request::Shutdown { timeout: SOON }),
        1 => Just(Request::Kill),
        1 => Just(Request::Remove),
        1 => Just(Request::Destroy),
    ];
    let op = prop_oneof![
        3 => request.prop_map(Op::Ask),
        4 => any::<bool>().prop_map(Op::Report),
        1 => Just(Op::Deadline),
        1 => Just(Op::Misbehave),
        1 => (0u8..4).prop_map(Op::End),
    ];
    proptest::collection::vec(op, 0..60)
}

/// A driver without I/O.
struct World {
    life: Life,
    process: bool,
    kill_sent: bool,
    job: Option<Effect>,
    open: BTreeSet<Ticket>,
    next: u64,
}

impl World {
    fn feed(&mut self, input: Input) {
        let effects = self.life.on(input);
        if self.life.state() != VmState::Starting && self.job == Some(Effect::WaitAgent) {
            self.job = None;
        }
        for effect in effects {
            match effect {
                Effect::Answer(ticket, _) => {
                    assert!(self.open.remove(&ticket), "{ticket:?} was answered twice");
                }
                Effect::KillProcess => {
                    assert!(self.process, "killed what does not run");
                    self.kill_sent = true;
                }
                Effect::PressPowerButton => assert!(self.process),
                Effect::ArmStopTimer(_) => assert!(self.life.is_stopping()),
                job => {
                    assert_eq!(self.job, None, "{job:?} while another job is under way");
                    match job {
                        Effect::Launch | Effect::CleanUp | Effect::Delete => assert!(!self.process),
                        _ => assert!(self.process),
                    }
                    self.job = Some(job);
                }
            }
        }
        self.verify_invariants();
    }

    fn verify_invariants(&self) {
        let state = self.life.state();
        let cleaning = self.job == Some(Effect::CleanUp);
        assert_eq!(self.process, state.has_process() && !cleaning, "{state}");
        assert_eq!(
            state == VmState::Preparing,
            self.job == Some(Effect::Launch)
        );
        assert_eq!(
            state == VmState::Starting,
            self.job == Some(Effect::WaitAgent)
        );
        if matches!(state, VmState::Halted | VmState::Crashed | VmState::Running)
            && self.job.is_none()
        {
            assert!(self.open.is_empty(), "{state} forgot {:?}", self.open);
        }
        if self.life.is_gone() {
            assert!(!self.process && self.job.is_none() && self.open.is_empty());
        }
    }

    fn report(&mut self, well: bool) {
        let refusal = Refusal::failed("it did not work");
        let Some(job) = self.job.take() else { return };
        let input = match (job, well) {
            (Effect::Launch, true) => {
                self.process = true;
                self.kill_sent = false;
                Input::Launched
            }
            (Effect::Launch, false) => Input::LaunchFailed(refusal),
            (Effect::WaitAgent, true) => Input::AgentReported,
            (Effect::WaitAgent, false) => Input::AgentFailed(refusal),
            (Effect::CleanUp, _) => Input::CleanedUp,
            (Effect::Delete, true) => Input::Deleted(Ok(())),
            (_, _) => Input::Deleted(Err(refusal)),
        };
        self.feed(input);
    }

    fn end_process(&mut self, how: u8) {
        if self.process {
            self.process = false;
            self.feed(Input::ProcessEnded(match how {
                0 => Ending::PowerOff,
                1 => Ending::Reset,
                2 => Ending::Killed,
                _ => Ending::Failed("gone".to_owned()),
            }));
        }
    }
}

proptest! {
    #[test]
    fn random_lives_keep_every_promise(disposable: bool, ops in ops()) {
        let kind = if disposable { VmKind::Disposable } else { VmKind::App };
        let mut world = World {
            life: Life::halted(kind),
            process: false,
            kill_sent: false,
            job: None,
            open: BTreeSet::new(),
            next: 0,
        };
        for op in ops {
            if world.life.is_gone() {
                break;
            }
            match op {
                Op::Ask(request) => {
                    world.next += 1;
                    world.open.insert(Ticket(world.next));
                    world.feed(Input::Requested(Ticket(world.next), request));
                }
                Op::Report(well) => world.report(well),
                Op::Deadline => world.feed(Input::StopDeadline),
                Op::Misbehave => world.feed(Input::Misbehaved("silent".to_owned())),
                Op::End(how) => world.end_process(how),
            }
        }
        // Whatever was asked, the world comes to rest and nobody waits for ever.
        for _ in 0..20 {
            if world.job.is_some() {
                world.report(true);
            } else if world.life.is_stopping() {
                world.feed(Input::StopDeadline);
                prop_assert!(world.kill_sent);
                world.end_process(2);
            }
        }
        prop_assert!(world.open.is_empty(), "{:?} wait in {:?}", world.open, world.life);
        prop_assert!(world.job.is_none());
    }
}
