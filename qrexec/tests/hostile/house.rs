//! A broker as a process, agents that say what they are told to, and a look at what is live.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use casemate_api::{Bus, LiveCall};
use casemate_qrexec_wire::{
    ControlDecoder, ExecParams, Ident, Message, Target, ToAgent, ToBroker, Trigger, Version,
};

use crate::broker::broker;

/// Nothing here takes this long.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) const FACTS: &str = r#"{"domains":{
    "work":{"type":"AppVM","power_state":"Running","uuid":"1","default_dispvm":"tpl"},
    "vault":{"type":"AppVM","power_state":"Running","uuid":"2"},
    "tpl":{"type":"TemplateVM","power_state":"Halted","uuid":"3","template_for_dispvms":true},
    "halted":{"type":"AppVM","power_state":"Halted","uuid":"4"}}}"#;

/// Returns when it is done.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "{what} takes too long");
        thread::yield_now();
    }
}

/// The broker, for the VMs work (3) and vault (4).
pub(crate) struct Broker {
    pub(crate) child: Child,
    dir: tempfile::TempDir,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Broker {
    pub(crate) fn start(policy: &str, more: &[&str]) -> Self {
        Self::prepared(policy, |_| {
            more.iter().map(|word| (*word).to_owned()).collect()
        })
    }

    /// The same; `more` may put something into the directory first.
    pub(crate) fn prepared(policy: &str, more: impl FnOnce(&Path) -> Vec<String>) -> Self {
        Self::with(policy, more, broker)
    }

    /// The same, without the right of root to read every file.
    pub(crate) fn unprivileged(policy: &str, more: impl FnOnce(&Path) -> Vec<String>) -> Self {
        Self::with(policy, more, |dir| {
            let broker = broker(dir);
            if !rustix::process::getuid().is_root() {
                return broker;
            }
            let mut command = Command::new("setpriv");
            command.args(["--bounding-set=-all", "--inh-caps=-all", "--"]);
            command.arg(broker.get_program()).args(broker.get_args());
            command
        })
    }

    fn with(
        policy: &str,
        more: impl FnOnce(&Path) -> Vec<String>,
        command: impl FnOnce(&Path) -> Command,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("policy")).unwrap();
        fs::write(dir.path().join("policy/10.policy"), policy).unwrap();
        fs::write(dir.path().join("facts.json"), FACTS).unwrap();
        let more = more(dir.path());
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = command(dir.path())
            .args(more)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Replaces the policy, as an editor does.
    pub(crate) fn policy(&self, text: &str) {
        let place = self.path().join("policy");
        fs::write(place.join("new"), text).unwrap();
        fs::rename(place.join("new"), place.join("10.policy")).unwrap();
    }

    /// The audit log, a decision a line.
    pub(crate) fn audit(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.path().join("audit.jsonl")).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The decision that is made next after `before` others.
    pub(crate) fn decision(&self, before: usize) -> serde_json::Value {
        until("a decision", || {
            let text = fs::read_to_string(self.path().join("audit.jsonl")).unwrap_or_default();
            text.ends_with('\n') && text.lines().count() > before
        });
        self.audit()[before].clone()
    }

    /// What is live.
    pub(crate) fn calls(&self) -> Vec<LiveCall> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let connection = Bus::Qrexec.connect(self.path()).await.unwrap();
            let proxy = casemate_api::broker(&connection).await.unwrap();
            proxy.calls().await.unwrap()
        })
    }

    /// Returns when no call is live.
    pub(crate) fn idle(&self) {
        until("the end of all calls", || self.calls().is_empty());
    }

    /// Data sockets in the directory.
    pub(crate) fn sockets(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path()).unwrap();
        entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                let name = path.file_name().unwrap().to_string_lossy();
                name.starts_with("vchan.") && !name.ends_with(".0.512.sock")
            })
            .collect()
    }
}

/// An agent that speaks one version.
pub(crate) struct Agent {
    place: PathBuf,
    listener: UnixListener,
    pub(crate) control: UnixStream,
    decoder: ControlDecoder<ToAgent>,
    version: Version,
}

impl Agent {
    pub(crate) fn start(broker: &Broker, id: u32, version: u32) -> Self {
        let mut agent = Self::silent(broker, id);
        agent.hello(version);
        agent
    }

    /// One that the broker has connected to and that has not said a word.
    pub(crate) fn silent(broker: &Broker, id: u32) -> Self {
        let place = broker.path().join(format!("vchan.{id}.0.512.sock"));
        let listener = UnixListener::bind(&place).unwrap();
        let control = Self::accept(&listener);
        Self {
            place,
            listener,
            control,
            decoder: ControlDecoder::default(),
            version: Version::OLDEST,
        }
    }

    fn accept(listener: &UnixListener) -> UnixStream {
        let (control, _) = listener.accept().unwrap();
        control.set_read_timeout(Some(SOON)).unwrap();
        control
    }

    /// The next control stream of the same VM.
    pub(crate) fn again(&mut self) {
        self.control = Self::accept(&self.listener);
        self.decoder = ControlDecoder::default();
    }

    pub(crate) fn hello(&mut self, version: u32) {
        self.version = Version::OLDEST;
        self.send(&ToBroker::Hello(version));
        self.version = Version::negotiate(version).unwrap();
        assert_eq!(self.next(), Some(ToAgent::Hello(4)));
    }

    /// What the broker says next; `None` when it has closed the stream.
    pub(crate) fn next(&mut self) -> Option<ToAgent> {
        loop {
            if let Some(order) = self.decoder.take().unwrap() {
                return Some(order);
            }
            let mut piece = [0; 4096];
            match self.control.read(&mut piece) {
                Ok(0) => return None,
                Ok(read) => self.decoder.feed(&piece[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        // One that was dropped meanwhile shows when it is read from.
        let _ = self.control.write_all(bytes);
    }

    pub(crate) fn send(&mut self, message: &ToBroker) {
        let mut frame = Vec::new();
        message.encode(self.version, &mut frame).unwrap();
        self.bytes(&frame);
    }

    pub(crate) fn trigger(&mut self, ident: &str, target: &str, service: &[u8]) {
        self.trigger_as("", ident, target, service);
    }

    pub(crate) fn trigger_as(&mut self, source: &str, ident: &str, target: &str, service: &[u8]) {
        self.send(&ToBroker::Trigger(Trigger {
            claimed_source: Target::sanitise(source.as_bytes()),
            target: Target::sanitise(target.as_bytes()),
            ident: Ident::new(ident).unwrap(),
            service: service.to_vec(),
        }));
    }

    /// The next message, which must order to execute.
    pub(crate) fn executes(&mut self) -> (ExecParams, String) {
        match self.next() {
            Some(ToAgent::Execute(params, command)) => (
                params,
                String::from_utf8(command.as_bytes().to_vec()).unwrap(),
            ),
            other => panic!("no order to execute but {other:?}"),
        }
    }

    pub(crate) fn is_refused(&mut self, ident: &str) {
        let refused = ToAgent::Refused(Ident::new(ident).unwrap());
        assert_eq!(self.next(), Some(refused));
    }

    pub(crate) fn connects(&mut self, ident: &str) -> ExecParams {
        match self.next() {
            Some(ToAgent::Connect(params, of)) if of == Ident::new(ident).unwrap() => params,
            other => panic!("{ident} is not accepted but {other:?}"),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.place);
    }
}
