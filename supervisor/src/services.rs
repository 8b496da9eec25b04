//! Keeps the broker and the compositor alive and connected.
//!
//! Each has one keeper task. It begins when somebody first needs the service, or at once when its bus answers already
//! (a supervisor that was restarted finds both running). A service that is lost is started again; the drivers see a
//! new connection and attach their VMs anew.
//!
//! ```text
//!   Probing ──answers──▶ Up
//!      │
//!      ▼
//!   Idle ──needed──▶ (connect, or spawn and connect) ──▶ Up ──lost──▶ Idle ──▶ again, with back-off
//!                                  └─ cannot ──▶ Failed(why) ──needed again, or back-off over──▶ again
//! ```

pub(crate) mod mixer;

use std::{path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use casemate_api::Bus;
use futures_util::StreamExt;
use tokio::{
    process::Child,
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use zbus::{Connection, MessageStream};

use crate::{paths::Paths, refusal::Refusal, spawn};

/// How long a service may take from its start until its bus answers.
const START: Duration = Duration::from_secs(30);

/// How long a service that runs already may take for its handshake.
const PROBE: Duration = Duration::from_secs(5);

/// How often the socket of a service that is starting is tried.
const POLL: Duration = Duration::from_millis(50);

/// First and longest pause before a service that was lost is started again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// A service that lived this long has not failed at its start: the back-off begins anew.
const LIVED: Duration = Duration::from_secs(20);

/// What a keeper tells.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// Whether it runs already is not known yet.
    Probing,
    Idle,
    /// Each new connection is a change: the service behind it may have forgotten every VM.
    Up(Connection),
    Failed(String),
}

/// How to start a service.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) bus: Bus,
    pub(crate) program: &'static str,
    pub(crate) arguments: Vec<String>,
}

/// A service as the drivers see it.
#[derive(Debug)]
pub(crate) struct Service {
    program: &'static str,
    state: watch::Receiver<State>,
    needed: Arc<Notify>,
}

impl Service {
    /// Starts the keeper task.
    pub(crate) fn keep(paths: &Paths, command: Command) -> Self {
        let (tell, state) = watch::channel(State::Probing);
        let needed = Arc::new(Notify::new());
        let program = command.program;
        let keeper = Keeper {
            paths: paths.clone(),
            command,
            tell,
            needed: Arc::clone(&needed),
            child: None,
        };
        tokio::spawn(keeper.run());
        Self {
            program,
            state,
            needed,
        }
    }

    /// Changes of the connection, for drivers.
    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Returns when it is known whether the service was running already.
    pub(crate) async fn probed(&self) {
        let mut state = self.state.clone();
        // An error would mean that the keeper has ended, and nothing is to be known any more.
        let _ = state
            .wait_for(|state| !matches!(state, State::Probing))
            .await;
    }

    /// The connection if there is one now.
    pub(crate) fn current(&self) -> Option<Connection> {
        match &*self.state.borrow() {
            State::Up(connection) => Some(connection.clone()),
            _ => None,
        }
    }

    /// A connection, starting the service when it does not run.
    pub(crate) async fn connection(&self) -> Result<Connection, Refusal> {
        let mut state = self.state.clone();
        let mut old_failure = matches!(*state.borrow_and_update(), State::Failed(_));
        self.needed.notify_one();
        let wait = async {
            loop {
                match &*state.borrow_and_update() {
                    State::Up(connection) => return Ok(connection.clone()),
                    State::Failed(what) if !old_failure => {
                        return Err(Refusal::failed(what.clone()));
                    }
                    _ => {}
                }
                if state.changed().await.is_err() {
                    return Err(Refusal::failed("the supervisor is ending"));
                }
                old_failure = false;
            }
        };
        timeout(START * 2, wait)
            .await
            .unwrap_or_else(|_| Err(Refusal::failed(format!("{} does not start", self.program))))
    }
}

struct Keeper {
    paths: Paths,
    command: Command,
    tell: watch::Sender<State>,
    needed: Arc<Notify>,
    child: Option<Child>,
}

impl Keeper {
    async fn run(mut self) {
        let program = self.command.program;
        let mut pause = BACK_OFF.0;
        let probe = self.command.bus.connect(&self.paths.runtime);
        let mut found = timeout(PROBE, probe).await.ok().and_then(Result::ok);
        if found.is_none() {
            self.tell.send_replace(State::Idle);
            self.needed.notified().await;
        }
        loop {
            let connected = match found.take() {
                Some(connection) => Ok(connection),
                None => self.start().await,
            };
            let began = Instant::now();
            match connected {
                Ok(connection) => {
                    tracing::info!(program, "connected");
                    let stream = MessageStream::from(&connection);
                    self.tell.send_replace(State::Up(connection));
                    lost(stream).await;
                    tracing::warn!(program, "lost");
                    self.tell.send_replace(State::Idle);
                }
                Err(what) => {
                    tracing::error!(program, what, "cannot start");
                    self.tell.send_replace(State::Failed(what));
                }
            }
            if self.tell.is_closed() {
                return;
            }
            if began.elapsed() > LIVED {
                pause = BACK_OFF.0;
            }
            let failed = matches!(*self.tell.borrow(), State::Failed(_));
            tokio::select! {
                () = sleep(pause) => {}
                () = self.needed.notified(), if failed => {}
            }
            pause = (pause * 2).min(BACK_OFF.1);
        }
    }

    /// Connects to the service, spawning it when nobody answers.
    async fn start(&mut self) -> Result<Connection, String> {
        let bus = self.command.bus;
        let program = self.command.program;
        if let Ok(connection) = bus.connect(&self.paths.runtime).await {
            return Ok(connection);
        }
        // The one before may hang without its socket; it lost its bus, so nobody can use it any more.
        if let Some(mut old) = self.child.take() {
            let _ = old.kill().await;
        }
        let log = self.log();
        let path = self
            .paths
            .program(program)
            .map_err(|error| format!("{error:#}"))?;
        let mut child = spawn::service(&path, &self.command.arguments, Stdio::null(), &log)
            .map_err(|error| format!("cannot run {}: {error}", path.display()))?;
        let deadline = Instant::now() + START;
        loop {
            tokio::select! {
                status = child.wait() => {
                    return Err(match status {
                        Ok(status) => spawn::explain(program, status, &log),
                        Err(error) => format!("{program}: {error}"),
                    });
                }
                () = sleep(POLL) => {}
            }
            if let Ok(connection) = bus.connect(&self.paths.runtime).await {
                self.child = Some(child);
                return Ok(connection);
            }
            if Instant::now() > deadline {
                let _ = child.kill().await;
                return Err(format!(
                    "{program} did not answer on its bus within {} seconds; its log is {}",
                    START.as_secs(),
                    log.display()
                ));
            }
        }
    }

    fn log(&self) -> PathBuf {
        self.paths.log(&format!("{}.log", self.command.program))
    }
}

/// Returns when the connection has ended. What comes on it besides are answers that others wait for.
async fn lost(mut stream: MessageStream) {
    while let Some(Ok(_)) = stream.next().await {}
}
