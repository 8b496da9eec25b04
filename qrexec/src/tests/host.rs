//! The host of a test: the broker, and a supervisor and a compositor that do as little as it needs of them.

use std::{
    collections::BTreeSet,
    fs,
    os::{fd::OwnedFd, unix::net},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use casemate_api::{Answer, Bus, Decision, Error, Notice, Qrexec1Proxy, Question, VmInfo};
use futures_util::StreamExt;
use tempfile::TempDir;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};
use zbus::{MessageStream, object_server::Interface};

use super::guest::{Agent, Vmm, soon};
use crate::{audit::Audit, broker::Broker, peers::Peers, serve};

/// What the supervisor and the compositor were asked.
#[derive(Debug)]
pub(super) enum Asked {
    Start(String),
    Create(String),
    Destroy(String),
    Updates(String, u32),
    Question(Question, oneshot::Sender<Answer>),
    Notice(Notice),
}

/// Everything on the host's side.
pub(super) struct Host {
    dir: TempDir,
    pub(super) broker: Qrexec1Proxy<'static>,
    asked: mpsc::UnboundedReceiver<Asked>,
    /// The disposable that was made last, as soon as the supervisor has attached it.
    pub(super) disposables: mpsc::UnboundedReceiver<Vmm>,
    running: Arc<Mutex<BTreeSet<String>>>,
    remotes: Arc<Mutex<Remotes>>,
    repainted: Arc<Mutex<BTreeSet<String>>>,
    next_id: u32,
}

/// Facts about remote VMs, by name.
type Remotes = serde_json::Map<String, serde_json::Value>;

const VMS: [&str; 3] = ["work", "untrusted", "vault"];

impl Host {
    /// A host whose only policy file has this text.
    pub(super) async fn new(policy: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("policy")).unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        let runtime = dir.path().to_owned();
        let broker = Broker::new(
            Peers::house(runtime.clone()),
            vec![dir.path().join("policy")],
            audit,
        );
        let listener = UnixListener::bind(Bus::Qrexec.socket(&runtime)).unwrap();
        tokio::spawn(async move { serve::accept(listener, &broker).await });
        let (ask, asked) = mpsc::unbounded_channel();
        let (give, disposables) = mpsc::unbounded_channel();
        let running = Arc::new(Mutex::new(BTreeSet::from(VMS.map(str::to_owned))));
        let remotes = Arc::<Mutex<Remotes>>::default();
        let supervisor = Supervisor {
            ask: ask.clone(),
            give,
            runtime: runtime.clone(),
            running: Arc::clone(&running),
            remotes: Arc::clone(&remotes),
            repainted: Arc::default(),
        };
        let repainted = Arc::clone(&supervisor.repainted);
        serve_fake(Bus::Supervisor, &runtime, supervisor);
        serve_fake(Bus::Compositor, &runtime, Compositor { ask });
        let connection = Bus::Qrexec.connect(&runtime).await.unwrap();
        let host = Self {
            dir,
            broker: casemate_api::broker(&connection).await.unwrap(),
            asked,
            disposables,
            running,
            remotes,
            repainted,
            next_id: 3,
        };
        host.policy(policy);
        host
    }

    /// Replaces the policy, as an editor does.
    pub(super) fn policy(&self, text: &str) {
        let dir = self.dir.path().join("policy");
        fs::write(dir.join("new"), text).unwrap();
        fs::rename(dir.join("new"), dir.join("10-test.policy")).unwrap();
    }

    /// Takes the compositor away, or brings it back.
    pub(super) fn compositor(&self, is_there: bool) {
        let socket = Bus::Compositor.socket(self.dir.path());
        let aside = socket.with_extension("aside");
        let (from, to) = if is_there {
            (aside, socket)
        } else {
            (socket, aside)
        };
        fs::rename(from, to).unwrap();
    }

    /// Where a rule of the policy is, as the admin side is told.
    pub(super) fn rule(&self, line: u32) -> String {
        let file = self.dir.path().join("policy/10-test.policy");
        format!("{}:{line}", file.display())
    }

    /// Facts know a remote VM from now on.
    pub(super) fn remote(&self, name: &str, relay: Option<&str>, transport: Option<&str>) {
        let facts = serde_json::json!({
            "type": "RemoteVM", "power_state": "Running", "uuid": format!("r-{name}"),
            "relayvm": relay, "transport_rpc": transport,
        });
        self.remotes.lock().unwrap().insert(name.to_owned(), facts);
    }

    /// Facts no longer know this VM.
    pub(super) fn remove(&self, name: &str) {
        self.running.lock().unwrap().remove(name);
    }

    /// This VM gets another label.
    pub(super) fn repaint(&self, name: &str) {
        self.repainted.lock().unwrap().insert(name.to_owned());
    }

    /// A VM is started again, under the number that it had.
    pub(super) async fn restart(&self, name: &str, id: u32) -> Agent {
        let (vmm, link) = Vmm::new();
        self.broker.attach_vm(name, id, link.into()).await.unwrap();
        let agent = Agent::start(vmm).await;
        soon("the agent", self.broker.wait_agent(name))
            .await
            .unwrap();
        agent
    }

    /// Attaches a VM whose agent has not connected.
    pub(super) async fn attach(&mut self, name: &str) -> Vmm {
        let (vmm, link) = Vmm::new();
        let id = self.next_id;
        self.next_id += 1;
        self.broker.attach_vm(name, id, link.into()).await.unwrap();
        vmm
    }

    /// Attaches a VM with its agent.
    pub(super) async fn agent(&mut self, name: &str) -> Agent {
        let agent = Agent::start(self.attach(name).await).await;
        soon("the agent", self.broker.wait_agent(name))
            .await
            .unwrap();
        agent
    }

    /// What supervisor or compositor are asked next.
    pub(super) async fn asked(&mut self) -> Asked {
        soon("a request of the broker", self.asked.recv())
            .await
            .expect("the host lives")
    }

    /// The question that is shown next.
    pub(super) async fn question(&mut self) -> (Question, oneshot::Sender<Answer>) {
        loop {
            if let Asked::Question(question, answer) = self.asked().await {
                return (question, answer);
            }
        }
    }

    /// The notice that is shown next.
    pub(super) async fn notice(&mut self) -> Notice {
        loop {
            if let Asked::Notice(notice) = self.asked().await {
                return notice;
            }
        }
    }

    /// Returns when a disposable has been destroyed.
    pub(super) async fn destroyed(&mut self) -> String {
        loop {
            if let Asked::Destroy(name) = self.asked().await {
                return name;
            }
        }
    }

    /// The last decision on record.
    pub(super) async fn decision(&self) -> Decision {
        let decisions = self.broker.decisions(1).await.unwrap();
        decisions.into_iter().next().expect("a decision")
    }

    /// Returns when the last decision is this one.
    pub(super) async fn decided(&self, service: &str, result: &str) {
        let look = async {
            loop {
                match self.broker.decisions(1).await.unwrap().pop() {
                    Some(last) if (&*last.service, &*last.result) == (service, result) => return,
                    // A record is made right after the answer that the test has seen.
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        soon(result, look).await;
    }

    /// The last decision, as soon as it is about this service.
    pub(super) async fn decision_on(&self, service: &str) -> Decision {
        let look = async {
            loop {
                match self.broker.decisions(1).await.unwrap().pop() {
                    Some(decision) if decision.service == service => return decision,
                    // A record is made right after the answer that the test has seen.
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        soon("a decision", look).await
    }
}

/// The client end of an admin call's stream.
pub(super) fn stream(fd: zbus::zvariant::OwnedFd) -> UnixStream {
    let stream = net::UnixStream::from(OwnedFd::from(fd));
    stream.set_nonblocking(true).unwrap();
    UnixStream::from_std(stream).unwrap()
}

fn serve_fake<I: Interface + Clone>(bus: Bus, runtime: &std::path::Path, interface: I) {
    let listener = UnixListener::bind(bus.socket(runtime)).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let interface = interface.clone();
            tokio::spawn(async move {
                let connection = bus.serve(stream, interface).await.unwrap();
                let mut messages = MessageStream::from(&connection);
                while let Some(Ok(_)) = messages.next().await {}
            });
        }
    });
}

#[derive(Clone)]
struct Supervisor {
    ask: mpsc::UnboundedSender<Asked>,
    give: mpsc::UnboundedSender<Vmm>,
    runtime: PathBuf,
    running: Arc<Mutex<BTreeSet<String>>>,
    remotes: Arc<Mutex<Remotes>>,
    repainted: Arc<Mutex<BTreeSet<String>>>,
}

#[zbus::interface(name = "org.casemate.Supervisor1")]
impl Supervisor {
    fn list(&self) -> Vec<VmInfo> {
        let repainted = self.repainted.lock().unwrap();
        let info = |name: &&str| VmInfo {
            name: (*name).to_owned(),
            kind: "app".to_owned(),
            state: "running".to_owned(),
            label: if repainted.contains(*name) {
                "red"
            } else {
                "blue"
            }
            .to_owned(),
            template: "debian-12".to_owned(),
            revision: 1,
            id: 0,
            pid: 0,
            memory_mib: 0,
            vcpus: 1,
            tags: Vec::new(),
            audio: false,
            recording: false,
            problem: String::new(),
        };
        VMS.iter().map(info).collect()
    }

    fn facts(&self) -> String {
        let domain = |(index, name): (usize, &String)| {
            let fact = serde_json::json!({
                "type": "AppVM", "tags": [], "default_dispvm": "debian-12",
                "template_for_dispvms": false, "power_state": "Running",
                "uuid": format!("0000-{index}"), "internal": false,
            });
            (name.clone(), fact)
        };
        let running = self.running.lock().unwrap();
        let mut domains: serde_json::Map<_, _> = running.iter().enumerate().map(domain).collect();
        let template = serde_json::json!({
            "type": "TemplateVM", "tags": [], "default_dispvm": null,
            "template_for_dispvms": true, "power_state": "Halted", "uuid": "t", "internal": false,
        });
        domains.insert("debian-12".to_owned(), template);
        domains.extend(self.remotes.lock().unwrap().clone());
        serde_json::json!({ "domains": domains }).to_string()
    }

    fn start(&self, name: &str) -> Result<(), Error> {
        let _ = self.ask.send(Asked::Start(name.to_owned()));
        Ok(())
    }

    async fn create_disposable(&self, for_vm: &str, template: &str) -> Result<String, Error> {
        let _ = self.ask.send(Asked::Create(format!("{for_vm} {template}")));
        let (vmm, link) = Vmm::new();
        let connection = Bus::Qrexec.connect(&self.runtime).await?;
        let broker = casemate_api::broker(&connection).await?;
        broker.attach_vm("disp7", 700, link.into()).await?;
        let _ = self.give.send(vmm);
        broker.wait_agent("disp7").await?;
        Ok("disp7".to_owned())
    }

    fn note_updates(&self, vm: &str, count: u32) {
        let _ = self.ask.send(Asked::Updates(vm.to_owned(), count));
    }

    fn destroy_disposable(&self, name: &str) -> Result<(), Error> {
        let _ = self.ask.send(Asked::Destroy(name.to_owned()));
        Ok(())
    }
}

#[derive(Clone)]
struct Compositor {
    ask: mpsc::UnboundedSender<Asked>,
}

#[zbus::interface(name = "org.casemate.Compositor1")]
impl Compositor {
    async fn ask(&self, question: Question) -> Result<Answer, Error> {
        let (answer, answered) = oneshot::channel();
        let _ = self.ask.send(Asked::Question(question, answer));
        answered
            .await
            .map_err(|_| Error::Failed("nobody answers".to_owned()))
    }

    fn notify(&self, notice: Notice) {
        let _ = self.ask.send(Asked::Notice(notice));
    }
}
