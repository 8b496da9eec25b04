//! The control stream: what the broker orders, what we report, and which local clients wait for an answer.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use casemate_qrexec_stream::invalid;
use casemate_qrexec_wire::{
    CommandLine, ControlDecoder, EndCall, ExecParams, Ident, Message, ToAgent, ToBroker, Trigger,
    Version, limits,
};

use super::{
    linger::Lingering,
    prepare::Kitchen,
    serve::{serve, start},
    settings::Settings,
    signals::Switches,
    transport::ControlPort,
};

/// Most calls served at once, as many as there are data ports.
const MAX_CALLS: usize = limits::MAX_DATA_PORTS as usize;

/// Domain number of the host.
const ADMIN: u32 = 0;

/// How long a local client's request waits for a control stream: programs may ask before the agent has reached the host.
const CONTROL_WAIT: Duration = Duration::from_secs(30);

/// Shortest and longest pause between two attempts to reach the host.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A local client's wait for the broker's word.
#[derive(Debug)]
pub(crate) struct Answer {
    ident: Ident,
    receiver: mpsc::Receiver<ExecParams>,
}

/// What a while of waiting brought.
#[derive(Debug)]
pub(crate) enum Word {
    /// The data stream is there.
    Accepted(ExecParams),
    /// Refused, or the broker is lost.
    Refused,
    /// Nothing yet: a prompt may take minutes.
    Nothing,
}

impl Answer {
    /// Waits for at most `time`.
    pub(crate) fn wait(&self, time: Duration) -> Word {
        match self.receiver.recv_timeout(time) {
            Ok(place) => Word::Accepted(place),
            Err(mpsc::RecvTimeoutError::Timeout) => Word::Nothing,
            Err(mpsc::RecvTimeoutError::Disconnected) => Word::Refused,
        }
    }
}

/// An established control stream.
struct Control {
    stream: UnixStream,
    version: Version,
}

/// The agent's calls in both directions. Shared by the control thread, the local clients and the service threads;
/// each lock is held for one map operation or one frame.
pub(crate) struct Calls {
    kitchen: Kitchen,
    switches: Arc<Switches>,
    control: Mutex<Option<Control>>,
    /// Told when `control` is there.
    connected: Condvar,
    waiting: Mutex<HashMap<Ident, mpsc::Sender<ExecParams>>>,
    next_ident: AtomicU64,
    serving: Mutex<usize>,
    /// Streams of the calls that are served, to be ended when the host says so.
    streams: Mutex<HashMap<ExecParams, UnixStream>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Calls {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            kitchen: Kitchen::new(settings),
            switches: Arc::default(),
            control: Mutex::new(None),
            connected: Condvar::new(),
            waiting: Mutex::new(HashMap::new()),
            next_ident: AtomicU64::new(1),
            serving: Mutex::new(0),
            streams: Mutex::default(),
        })
    }

    /// Takes SIGUSR1 of services; before there are other threads.
    ///
    /// # Errors
    /// When the system gives no signal descriptor.
    pub(crate) fn take_signals(&self) -> nix::Result<()> {
        Arc::clone(&self.switches).listen()
    }

    /// Keeps the control stream up for ever.
    pub(crate) fn run(self: &Arc<Self>) -> ! {
        let calls = Arc::clone(self);
        thread::spawn(move || calls.kitchen.warm());
        let (shortest, longest) = PAUSES;
        let mut pause = shortest;
        let mut port = self.kitchen.settings.transport.control();
        loop {
            match self.session(&mut port) {
                Ok(()) => tracing::info!("the control stream ended"),
                Err(error) => tracing::debug!(%error, "no control stream"),
            }
            if lock(&self.control).take().is_some() {
                // There was one: the next will not be long.
                pause = shortest;
            }
            // Whoever still waits for an answer would wait for ever.
            lock(&self.waiting).clear();
            thread::sleep(pause);
            pause = (pause * 2).min(longest);
        }
    }

    fn session(self: &Arc<Self>, port: &mut ControlPort<'_>) -> io::Result<()> {
        let mut stream = port.open()?;
        let mut hello = Vec::new();
        ToBroker::Hello(Version::OURS.number())
            .encode(Version::OLDEST, &mut hello)
            .map_err(invalid)?;
        stream.write_all(&hello)?;
        let mut decoder = ControlDecoder::<ToAgent>::default();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            while let Some(order) = decoder.take().map_err(invalid)? {
                if matches!(order, ToAgent::Hello(_)) {
                    let version = decoder.version().ok_or(io::ErrorKind::InvalidData)?;
                    *lock(&self.control) = Some(Control {
                        stream: stream.try_clone()?,
                        version,
                    });
                    self.connected.notify_all();
                    tracing::info!(version = version.number(), "connected to the broker");
                }
                self.order(order);
            }
            let read = stream.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            decoder.feed(buffer.get(..read).unwrap_or_default());
        }
    }

    fn order(self: &Arc<Self>, order: ToAgent) {
        match order {
            ToAgent::Hello(_) => {}
            ToAgent::Execute(place, line) => self.serve(place, line, false),
            ToAgent::JustExecute(place, line) => self.serve(place, line, true),
            ToAgent::Connect(place, ident) => {
                let client = lock(&self.waiting).remove(&ident);
                if client.is_none_or(|client| client.send(place).is_err()) {
                    // The client has gone meanwhile: its call ends before it began.
                    self.report(place);
                }
            }
            ToAgent::Refused(ident) => {
                lock(&self.waiting).remove(&ident);
            }
        }
    }

    fn serve(self: &Arc<Self>, place: ExecParams, line: CommandLine, detached: bool) {
        let full = {
            let mut serving = lock(&self.serving);
            let full = *serving >= MAX_CALLS;
            *serving += usize::from(!full);
            full
        };
        if full {
            self.report(place);
            return;
        }
        let calls = Arc::clone(self);
        thread::spawn(move || {
            let lingering = calls.one_call(place, &line, detached);
            *lock(&calls.serving) -= 1;
            calls.report(place);
            match lingering {
                Ok(lingering) => drop(lingering.map(Lingering::drain)),
                Err(error) => tracing::info!(%error, port = place.port, "a call ended early"),
            }
        });
    }

    fn one_call(
        &self,
        place: ExecParams,
        line: &CommandLine,
        detached: bool,
    ) -> io::Result<Option<Lingering>> {
        let stream = self.kitchen.settings.transport.service_end(place)?;
        if place.domain == ADMIN
            && let Some(EndCall(of)) = EndCall::parse(line)
        {
            return start(stream, || Err(self.end(of))).map(|()| None);
        }
        if detached {
            return start(stream, || self.kitchen.prepare(line)).map(|()| None);
        }
        lock(&self.streams).insert(place, stream.try_clone()?);
        let served = serve(stream, || self.kitchen.prepare(line), &self.switches);
        lock(&self.streams).remove(&place);
        served
    }

    /// Ends a call that is served, as if its caller were lost. Returns the exit code of the order.
    fn end(&self, call: ExecParams) -> i32 {
        match lock(&self.streams).get(&call) {
            // One that the caller has shut already ends by itself.
            Some(stream) => {
                let _ = stream.shutdown(Shutdown::Both);
                0
            }
            None => 1,
        }
    }

    /// When the report fails the control stream is lost, and with it everything that the broker knew of the port.
    fn report(&self, place: ExecParams) {
        if let Err(error) = self.terminated(place) {
            tracing::debug!(%error, port = place.port, "the end of a call could not be reported");
        }
    }

    /// Sends a local client's request on, under an ident of ours.
    ///
    /// # Errors
    /// When there is no control stream.
    pub(crate) fn trigger(&self, mut trigger: Trigger) -> io::Result<Answer> {
        let number = self.next_ident.fetch_add(1, Ordering::Relaxed);
        let ident = Ident::new(&format!("SOCKET{number}")).map_err(invalid)?;
        trigger.ident = ident;
        self.wait_for_control();
        let (sender, receiver) = mpsc::channel();
        lock(&self.waiting).insert(ident, sender);
        let sent = self.send(&ToBroker::Trigger(trigger));
        if sent.is_err() {
            lock(&self.waiting).remove(&ident);
        }
        sent.map(|()| Answer { ident, receiver })
    }

    /// Nobody waits for this answer any more.
    pub(crate) fn forget(&self, answer: &Answer) {
        lock(&self.waiting).remove(&answer.ident);
    }

    /// Returns when there is a control stream, or when it has taken too long; sending tells which.
    fn wait_for_control(&self) {
        let control = lock(&self.control);
        let waited = self
            .connected
            .wait_timeout_while(control, CONTROL_WAIT, |control| control.is_none());
        drop(waited);
    }

    /// Reports that a call is over.
    ///
    /// # Errors
    /// When there is no control stream.
    pub(crate) fn terminated(&self, place: ExecParams) -> io::Result<()> {
        self.send(&ToBroker::Terminated(place))
    }

    fn send(&self, message: &ToBroker) -> io::Result<()> {
        let mut control = lock(&self.control);
        let control = control.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let mut frame = Vec::new();
        message
            .encode(control.version, &mut frame)
            .map_err(invalid)?;
        control.stream.write_all(&frame)
    }
}
