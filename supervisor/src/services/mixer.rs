//! Keeps the mixer alive from the first VM on that has sound.
//!
//! Unlike the other services it has no bus, and it does not outlive the supervisor: it ends with the socket that it was
//! started with. So every grant to record ends when whoever gave it does. A mixer that is lost is started again, with
//! back-off; the drivers see another number and join their VMs anew.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use casemate_api::SoundInfo;
use casemate_link::{Error, PacketSocket};
use casemate_sound_wire::{Order, Report};
use tokio::{
    process::Child,
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use super::{BACK_OFF, LIVED, START};
use crate::{
    paths::Paths,
    refusal::Refusal,
    spawn,
    watched::{Watched, watch as watch_readable},
};

/// How long it may take to end when nothing can come from it any more.
const LAST_BREATH: Duration = Duration::from_secs(5);

const PROGRAM: &str = "casemate-sound";

/// What is said when the mixer runs and VMs are silent all the same.
const NO_SERVER: &str = "PipeWire does not answer; VMs with sound are silent until it does";

/// What the keeper tells.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// The mixer that runs, if one does.
    pub(crate) up: Option<Up>,
    /// Whether the last one could not be started, or has ended.
    failed: bool,
    /// Why VMs are silent, as far as that is known.
    problem: String,
}

/// A mixer that runs.
#[derive(Clone, Debug)]
pub(crate) struct Up {
    /// Each one has another.
    pub(crate) number: u64,
    orders: Arc<Watched<PacketSocket>>,
}

impl Up {
    /// Gives an order without waiting for anything.
    pub(crate) fn order(&self, order: Order<'_>, socket: Option<&PacketSocket>) -> io::Result<()> {
        let sockets: Vec<_> = socket.iter().map(|socket| socket.as_fd()).collect();
        let sent = self.orders.get_ref().get().send(&order.encode(), &sockets);
        sent.map_err(io::Error::other)
    }
}

/// The mixer as the drivers see it.
#[derive(Debug)]
pub(crate) struct Mixer {
    state: watch::Receiver<State>,
    needed: Arc<Notify>,
}

impl Mixer {
    /// Starts the keeper task.
    pub(crate) fn keep(paths: &Paths) -> Self {
        let (tell, state) = watch::channel(State::default());
        let needed = Arc::new(Notify::new());
        let keeper = Keeper {
            paths: paths.clone(),
            tell,
            needed: Arc::clone(&needed),
            number: 0,
        };
        tokio::spawn(keeper.run());
        Self { state, needed }
    }

    /// Changes of it, for drivers.
    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// There is a VM that wants it.
    pub(crate) fn need(&self) {
        if self.state.borrow().up.is_none() {
            self.needed.notify_one();
        }
    }

    /// Returns when it runs, starting it when it does not.
    pub(crate) async fn running(&self) -> Result<(), Refusal> {
        let mut state = self.state.clone();
        let mut old_failure = state.borrow_and_update().failed;
        self.need();
        let wait = async {
            loop {
                {
                    let now = state.borrow_and_update();
                    if now.up.is_some() {
                        return Ok(());
                    }
                    if now.failed && !old_failure {
                        return Err(Refusal::failed(now.problem.clone()));
                    }
                }
                if state.changed().await.is_err() {
                    return Err(Refusal::failed("the supervisor is ending"));
                }
                old_failure = false;
            }
        };
        timeout(START * 2, wait)
            .await
            .unwrap_or_else(|_| Err(Refusal::failed(format!("{PROGRAM} does not start"))))
    }

    /// How it is about sound, for people.
    pub(crate) fn info(&self) -> SoundInfo {
        let state = self.state.borrow();
        SoundInfo {
            mixer: state.up.is_some(),
            problem: state.problem.clone(),
        }
    }
}

struct Keeper {
    paths: Paths,
    tell: watch::Sender<State>,
    needed: Arc<Notify>,
    number: u64,
}

impl Keeper {
    async fn run(mut self) {
        let mut pause = BACK_OFF.0;
        self.needed.notified().await;
        loop {
            let began = Instant::now();
            let problem = self.one_life().await;
            tracing::warn!(program = PROGRAM, problem, "lost");
            self.tell.send_replace(State {
                up: None,
                failed: true,
                problem,
            });
            if self.tell.is_closed() {
                return;
            }
            if began.elapsed() > LIVED {
                pause = BACK_OFF.0;
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = self.needed.notified() => {}
            }
            pause = (pause * 2).min(BACK_OFF.1);
        }
    }

    /// Starts a mixer and hears it until it ends; why it did.
    async fn one_life(&mut self) -> String {
        let log = self.paths.log(&format!("{PROGRAM}.log"));
        let (mut child, orders) = match self.start(&log) {
            Ok(started) => started,
            Err(what) => return what,
        };
        let first = timeout(START, report(&orders)).await;
        let began = matches!(first, Ok(Some(Report::Ready)));
        if began {
            self.number += 1;
            tracing::info!(program = PROGRAM, "runs");
            self.tell.send_replace(State {
                up: Some(Up {
                    number: self.number,
                    orders: Arc::clone(&orders),
                }),
                ..State::default()
            });
            while let Some(report) = report(&orders).await {
                self.heard(report);
            }
        }
        // It closes its socket by ending. One that does not is of no use to anybody.
        let status = match timeout(LAST_BREATH, child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                let _ = child.kill().await;
                child.wait().await
            }
        };
        match status {
            Ok(status) if !began => spawn::explain(PROGRAM, status, &log),
            Ok(status) => format!("{PROGRAM} has ended with {status}; it is started again"),
            Err(error) => format!("{PROGRAM}: {error}"),
        }
    }

    fn start(&self, log: &std::path::Path) -> Result<(Child, Arc<Watched<PacketSocket>>), String> {
        let path = self
            .paths
            .program(PROGRAM)
            .map_err(|error| format!("{error:#}"))?;
        let start = || {
            let (ours, theirs) = PacketSocket::pair()?;
            ours.set_nonblocking(true)?;
            let child = spawn::service(&path, &[], Stdio::from(OwnedFd::from(theirs)), log)?;
            Ok::<_, io::Error>((child, Arc::new(watch_readable(ours)?)))
        };
        start().map_err(|error| format!("cannot run {}: {error}", path.display()))
    }

    /// What it says of PipeWire is told when it is news.
    fn heard(&self, report: Report) {
        let problem = match report {
            Report::NoServer => NO_SERVER,
            Report::Ready | Report::Server => "",
        };
        self.tell.send_if_modified(|state| {
            let news = state.problem != problem;
            problem.clone_into(&mut state.problem);
            news
        });
    }
}

/// The mixer's next word; nothing when it has ended, or says what is none. May be dropped and called again.
async fn report(orders: &Watched<PacketSocket>) -> Option<Report> {
    loop {
        let mut ready = orders.readable().await.ok()?;
        // A byte more than a report has, so that a longer one is none.
        match orders.get_ref().get().receive(2) {
            Ok(packet) => return Report::decode(&packet.bytes),
            Err(Error::WouldBlock) => ready.clear_ready(),
            Err(_) => return None,
        }
    }
}
