//! The policy files on disk, read again when they have changed.
//!
//! Each call is judged by the files as they are when it comes: the kernel's queue of changes is read before each
//! decision ([`watch`]), and what it cannot see is looked at ([`disk`]). A new text takes the place of the old one as
//! a whole. While a file is being written in place, its text is that of before, until its writer closes it or for
//! [`PATIENCE`]: a file that is half written could lack the very rule that denies. (The kernel cuts a file off before it
//! says so: who looks in between finds an empty one.) While a file cannot be read or
//! understood, the last policy without a fault holds, less what the new text denies ([`Standing`]). A directory that
//! does not exist is an empty one, but one of them must exist.

mod disk;
mod ready;
mod watch;

#[cfg(test)]
mod tests;

use std::{
    future,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use casemate_policy::{Reading, Standing};
use tokio::time::sleep_until;

use crate::broker::Broker;

use self::{
    disk::{Disk, Looked, Texts},
    watch::Watch,
};

/// Times that files are read again because they changed meanwhile.
const ATTEMPTS: usize = 5;

/// How long a file that is being written counts as it was.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is said when no reading came to an end.
const RESTLESS: &str =
    "the policy files change all the time; nothing new is allowed until they rest";

/// The policy of a list of directories.
#[derive(Debug)]
pub(crate) struct Policies {
    directories: Vec<PathBuf>,
    /// Held while files are read, by whom wants them read: all others would read the same.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None` where the kernel has no queue for us: then everything is looked at.
    watch: Option<Watch>,
    cached: Option<Cached>,
}

#[derive(Debug)]
struct Cached {
    looked: Looked,
    texts: Texts,
    /// Whether nothing has happened that was not read.
    fresh: bool,
    policy: Arc<Standing>,
}

/// Looks at the policy whenever the kernel says that it may have changed, so that the person hears of a fault when it is
/// made and not with the next call. Ends with the broker.
pub(crate) fn follow(broker: &Arc<Broker>) {
    // Without a queue faults are told with the next call.
    let Some(queue) = broker.policies.queue() else {
        return;
    };
    let broker = Arc::downgrade(broker);
    tokio::spawn(async move {
        let queue = match ready::watch(queue) {
            Ok(queue) => queue,
            Err(error) => return tracing::warn!(%error, "faults of the policy are told late"),
        };
        while let Some(broker) = broker.upgrade() {
            broker.policy().await;
            let next = broker.policies.next_look();
            drop(broker);
            let later = async {
                match next {
                    Some(next) => sleep_until(next.into()).await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                ready = queue.readable() => match ready {
                    // What comes from now on makes it ready again.
                    Ok(mut ready) => ready.clear_ready(),
                    Err(_) => return,
                },
                () = later => {}
            }
        }
    });
}

impl Policies {
    /// The policy of these directories, strongest first.
    pub(crate) fn new(directories: Vec<PathBuf>) -> Self {
        Self::with(directories, Watch::new(PATIENCE))
    }

    fn with(directories: Vec<PathBuf>, watch: Option<Watch>) -> Self {
        Self {
            directories,
            state: Mutex::new(State {
                watch,
                cached: None,
            }),
        }
    }

    /// The policy as it is on disk now, with what is wrong with it. Blocks.
    pub(crate) fn current(&self) -> Arc<Standing> {
        let mut state = self.state();
        if let Some(policy) = state.fresh() {
            return policy;
        }
        let fresh = self.read(&mut state);
        let policy = Arc::clone(&fresh.policy);
        state.cached = Some(fresh);
        policy
    }

    /// The policy that was read last, if it is that of now. Does not wait.
    pub(crate) fn if_unchanged(&self) -> Option<Arc<Standing>> {
        self.state.try_lock().ok()?.fresh()
    }

    /// What becomes readable when the policy may have changed; `None` where only a look shows it.
    pub(crate) fn queue(&self) -> Option<Arc<OwnedFd>> {
        self.state().watch.as_ref().map(Watch::queue)
    }

    /// When the policy may change without anything happening to its files.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.state().watch.as_ref().and_then(Watch::next_look)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, state: &mut State) -> Cached {
        let (before, texts) = match state.cached.take() {
            Some(cached) => (Standing::clone(&cached.policy), cached.texts),
            None => (
                Standing::faulty("no policy was read yet".to_owned()),
                Texts::new(),
            ),
        };
        for _ in 0..ATTEMPTS {
            let now = SystemTime::now();
            let disk = Disk::new(&self.directories, state.watch.as_mut(), &texts);
            let (reading, faults) = disk.reading();
            let (looked, read) = disk.end();
            let news = state.watch.as_mut().map(Watch::news).unwrap_or_default();
            if !news.changed && !news.begun && looked.is_unchanged() {
                if let Some(watch) = &mut state.watch {
                    watch.end();
                }
                return Cached {
                    fresh: looked.is_settled(now),
                    looked,
                    texts: read,
                    policy: Arc::new(before.follow(reading, faults)),
                };
            }
        }
        Cached {
            looked: Looked::default(),
            texts,
            fresh: false,
            policy: Arc::new(before.follow(Reading::default(), vec![RESTLESS.to_owned()])),
        }
    }
}

impl State {
    /// The policy that was read last, if nothing has changed since.
    fn fresh(&mut self) -> Option<Arc<Standing>> {
        let news = self.watch.as_mut().map(Watch::news).unwrap_or_default();
        let cached = self.cached.as_mut()?;
        cached.fresh &= !news.changed;
        (cached.fresh && cached.looked.is_unchanged()).then(|| Arc::clone(&cached.policy))
    }
}
