//! The calls that live: who calls whom, how far each has come, and the way to end it.
//!
//! A call is here from its trigger until both of its ends are known to be over. What it says of itself is for the
//! admin side only; its data goes past the broker, so nobody here knows how much of it there was.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use casemate_api::LiveCall;
use tokio::sync::watch;

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Rules are looked up, or the person is asked.
    Asking,
    /// It may go on: its target is made or started, and joined with it.
    Starting,
    /// Both ends have their stream.
    Running,
    /// It was killed; its ends have not reported yet.
    Ending,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Asking => "asking",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Ending => "ending",
        }
    }
}

/// What a call is known by from its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) source: String,
    pub(crate) requested: String,
    /// Fit to be shown.
    pub(crate) service: String,
}

/// Why a call could not be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KillError {
    /// It has ended, or never was.
    #[error("no such call is live")]
    Unknown,
    /// Its stream is none of the broker's, and its agent did not obey.
    #[error(
        "the two ends meet at a socket of their own, and the agent that serves the call does not end it"
    )]
    OutOfReach,
}

#[derive(Debug)]
struct Live {
    call: Call,
    target: String,
    rule: String,
    since: u64,
    state: State,
    /// Whether its stream, once there is one, can be cut.
    reachable: bool,
    /// Who killed it.
    kill: watch::Sender<Option<String>>,
    ended: watch::Receiver<()>,
}

/// All of them, by number.
#[derive(Debug, Default)]
pub(crate) struct Calls(Mutex<BTreeMap<u64, Live>>);

impl Calls {
    /// Takes a call in; it is here as long as its ticket.
    pub(crate) fn enter(self: &Arc<Self>, id: u64, call: Call) -> Ticket {
        let (kill, killed) = watch::channel(None);
        let (running, ended) = watch::channel(());
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let live = Live {
            call,
            target: String::new(),
            rule: String::new(),
            since,
            state: State::Asking,
            reachable: true,
            kill,
            ended,
        };
        self.lock().insert(id, live);
        Ticket {
            calls: Arc::clone(self),
            id,
            killed,
            _running: running,
        }
    }

    /// All that live now, oldest first.
    pub(crate) fn list(&self) -> Vec<LiveCall> {
        let show = |(id, live): (&u64, &Live)| LiveCall {
            id: *id,
            source: live.call.source.clone(),
            requested: live.call.requested.clone(),
            target: live.target.clone(),
            service: live.call.service.clone(),
            state: live.state.as_str().to_owned(),
            since: live.since,
            rule: live.rule.clone(),
        };
        self.lock().iter().map(show).collect()
    }

    /// Has a call ended, in the name of `by`. Nothing happens to one that ends already.
    ///
    /// # Errors
    /// [`KillError`]; then it goes on.
    pub(crate) fn kill(&self, id: u64, by: &str) -> Result<(), KillError> {
        let mut live = self.lock();
        let call = live.get_mut(&id).ok_or(KillError::Unknown)?;
        if call.state == State::Running && !call.reachable {
            return Err(KillError::OutOfReach);
        }
        if call.state != State::Ending {
            call.state = State::Ending;
            call.kill.send_replace(Some(by.to_owned()));
        }
        Ok(())
    }

    /// Returns when a call has ended; at once for one that is not known.
    pub(crate) async fn ended(&self, id: u64) {
        let ended = self.lock().get(&id).map(|live| live.ended.clone());
        if let Some(mut ended) = ended {
            // Nothing is ever sent: the sender is dropped with the ticket.
            let _ = ended.changed().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Live>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call's own hold on its place among the live ones.
#[derive(Debug)]
pub(crate) struct Ticket {
    calls: Arc<Calls>,
    id: u64,
    killed: watch::Receiver<Option<String>>,
    _running: watch::Sender<()>,
}

impl Ticket {
    /// The call's number.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Policy or the person lets it go on.
    pub(crate) fn starts(&self, target: &str, rule: &str) {
        self.change(|live| {
            target.clone_into(&mut live.target);
            rule.clone_into(&mut live.rule);
            if live.state != State::Ending {
                live.state = State::Starting;
            }
        });
    }

    /// Both ends have their stream; `reachable` says whether the broker can cut it.
    pub(crate) fn runs(&self, target: &str, reachable: bool) {
        self.change(|live| {
            target.clone_into(&mut live.target);
            live.reachable = reachable;
            // One that was killed in the last moment and cannot be cut any more goes on.
            if live.state != State::Ending || !reachable {
                live.state = State::Running;
            }
        });
    }

    /// Returns who killed the call, when somebody does.
    pub(crate) async fn killed(&self) -> String {
        let mut killed = self.killed.clone();
        let by = match killed.wait_for(Option::is_some).await {
            Ok(by) => by.clone(),
            Err(_) => None,
        };
        match by {
            Some(by) => by,
            // The sender is among the live calls as long as this ticket.
            None => std::future::pending().await,
        }
    }

    fn change(&self, change: impl FnOnce(&mut Live)) {
        if let Some(live) = self.calls.lock().get_mut(&self.id) {
            change(live);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.calls.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(service: &str) -> Call {
        Call {
            source: "work".to_owned(),
            requested: String::new(),
            service: service.to_owned(),
        }
    }

    #[tokio::test]
    async fn a_call_is_listed_as_long_as_its_ticket_and_killed_once() {
        let calls = Arc::new(Calls::default());
        let first = calls.enter(7, call("a+"));
        let second = calls.enter(9, call("b+"));
        first.starts("vault", "x.policy:3");
        let list = calls.list();
        assert_eq!(
            (list[0].id, list[0].state.as_str(), list[0].rule.as_str()),
            (7, "starting", "x.policy:3")
        );
        assert_eq!((list[1].id, list[1].state.as_str()), (9, "asking"));
        assert_eq!(calls.kill(8, "me"), Err(KillError::Unknown));
        assert_eq!(calls.kill(7, "me"), Ok(()));
        assert_eq!(calls.kill(7, "another"), Ok(()));
        assert_eq!(first.killed().await, "me");
        first.runs("vault", true);
        assert_eq!(calls.list()[0].state, "ending");

        second.runs("disp1", false);
        assert_eq!(calls.kill(9, "me"), Err(KillError::OutOfReach));
        let waiter = Arc::clone(&calls);
        let waits = tokio::spawn(async move { waiter.ended(9).await });
        drop(second);
        waits.await.unwrap();
        calls.ended(9).await;
        drop(first);
        assert_eq!(calls.list(), []);
        assert_eq!(calls.kill(7, "me"), Err(KillError::Unknown));
    }
}
