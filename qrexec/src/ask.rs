//! Claims of one VM on the person's attention: questions and notices, both bounded.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use casemate_api::{Answer, Question};
use casemate_qrexec_session::Bucket;
use tokio::sync::Semaphore;

use crate::{
    limits::{MAX_QUESTIONS, NOTICE_BURST, SECONDS_PER_NOTICE},
    peers::{PeerError, Peers},
};

/// What one VM may still ask of the person.
#[derive(Debug)]
pub(crate) struct Attention {
    /// Questions that are shown or wait.
    room: Semaphore,
    /// The one that is shown.
    turn: Semaphore,
    /// Shared by the calls of a VM, each a task; held for one addition.
    notices: Mutex<Bucket>,
}

/// Why nobody answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    /// Too many questions of this VM wait.
    #[error("too many questions of this VM wait already")]
    TooMany,
    /// The compositor did not show it.
    #[error(transparent)]
    Peer(#[from] PeerError),
}

impl Attention {
    pub(crate) fn new(now: Instant) -> Self {
        let rate = 1.0 / f64::from(SECONDS_PER_NOTICE);
        Self {
            room: Semaphore::new(MAX_QUESTIONS),
            turn: Semaphore::new(1),
            notices: Mutex::new(Bucket::new(NOTICE_BURST, rate, now)),
        }
    }

    /// Asks the person when the VM's earlier questions are answered.
    ///
    /// # Errors
    /// [`AskError`]; the call is to be denied.
    pub(crate) async fn ask(&self, peers: &Peers, question: Question) -> Result<Answer, AskError> {
        let _room = self.room.try_acquire().map_err(|_| AskError::TooMany)?;
        // Never closed, so this only ever waits.
        let _turn = self.turn.acquire().await;
        Ok(peers.ask(question).await?)
    }

    /// Whether the person may be told one more thing about this VM now.
    pub(crate) fn may_tell(&self, now: Instant) -> bool {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        notices.take(now)
    }
}
