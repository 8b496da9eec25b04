//! The program itself, in its sandbox: it serves its bus, reads policy files, asks the supervisor, writes the audit log.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use casemate_api::Bus;
use casemate_link::PacketSocket;
use casemate_qrexec_wire::{
    ControlDecoder, Ident, Message, Target, ToAgent, ToBroker, Trigger, Version,
};
use casemate_vmm_control::LinkMessage;
use tokio::net::UnixListener;
use zbus::Connection;

const SOON: Duration = Duration::from_secs(20);

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Supervisor;

#[zbus::interface(name = "org.casemate.Supervisor1")]
impl Supervisor {
    fn facts(&self) -> String {
        let vm =
            |uuid| serde_json::json!({ "type": "AppVM", "power_state": "Running", "uuid": uuid });
        serde_json::json!({ "domains": { "work": vm("1"), "vault": vm("2") } }).to_string()
    }
}

fn start(dir: &Path) -> Program {
    let child = Command::new(env!("CARGO_BIN_EXE_casemate-qrexec"))
        .arg("--runtime")
        .arg(dir.join("run"))
        .arg("--policy")
        .arg(dir.join("config/policy.d"))
        .arg("--policy")
        .arg(dir.join("shipped"))
        .arg("--state")
        .arg(dir.join("state"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Program(child.unwrap())
}

async fn connected(dir: &Path) -> Connection {
    let deadline = Instant::now() + SOON;
    loop {
        match Bus::Qrexec.connect(&dir.join("run")).await {
            Ok(connection) => return connection,
            Err(error) => assert!(
                Instant::now() < deadline,
                "the bus does not answer: {error}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What an agent is told after its hello and one call.
fn answer(mut control: UnixStream, trigger: &Trigger) -> Vec<ToAgent> {
    control.set_read_timeout(Some(SOON)).unwrap();
    let mut bytes = Vec::new();
    let hello = ToBroker::Hello(Version::OURS.number());
    hello.encode(Version::OURS, &mut bytes).unwrap();
    let call = ToBroker::Trigger(trigger.clone());
    call.encode(Version::OURS, &mut bytes).unwrap();
    control.write_all(&bytes).unwrap();
    let mut decoder = ControlDecoder::<ToAgent>::default();
    let mut heard = Vec::new();
    while heard.len() < 2 {
        let mut piece = [0; 256];
        let read = control.read(&mut piece).unwrap();
        assert_ne!(read, 0, "the broker closed the stream");
        decoder.feed(&piece[..read]);
        while let Some(message) = decoder.take().unwrap() {
            heard.push(message);
        }
    }
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_judges_a_call_and_keeps_the_record() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for name in ["run", "shipped"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    fs::write(
        dir.join("shipped/90-default.policy"),
        "* * @anyvm @anyvm allow\n",
    )
    .unwrap();
    let listener = UnixListener::bind(Bus::Supervisor.socket(&dir.join("run"))).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let served = Bus::Supervisor.serve(stream, Supervisor).await.unwrap();
            tokio::spawn(async move {
                let _served = served;
                std::future::pending::<()>().await;
            });
        }
    });
    let mut program = start(dir);
    let connection = connected(dir).await;
    let broker = casemate_api::broker(&connection).await.unwrap();
    // Written after the sandbox was entered, into a directory that the program made for it.
    let own = dir.join("config/policy.d/10-own.policy");
    fs::write(&own, "copy * work vault deny\n").unwrap();

    let (vmm, link) = PacketSocket::pair().unwrap();
    let link = zbus::zvariant::OwnedFd::from(OwnedFd::from(link));
    broker.attach_vm("work", 3, link).await.unwrap();
    let offer = vmm.receive(LinkMessage::LEN).unwrap();
    assert_eq!(
        LinkMessage::decode(&offer.bytes),
        Ok(LinkMessage::Offer { port: 512 })
    );
    let [control] = <[OwnedFd; 1]>::try_from(offer.descriptors).unwrap();
    let ident = Ident::new("S1").unwrap();
    let trigger = Trigger {
        claimed_source: Target::default(),
        target: Target::sanitise(b"vault"),
        ident,
        service: b"copy".to_vec(),
    };
    let heard = tokio::task::spawn_blocking(move || answer(control.into(), &trigger));
    let heard = heard.await.unwrap();
    assert_eq!(heard, [ToAgent::Hello(4), ToAgent::Refused(ident)]);

    let rule = format!("{}:1", own.display());
    let decision = loop {
        // It is put on record right after the answer.
        if let Some(decision) = broker.decisions(1).await.unwrap().pop() {
            break decision;
        }
    };
    assert_eq!((decision.result.as_str(), &decision.rule), ("deny", &rule));
    let audit = fs::read_to_string(dir.join("state/audit.jsonl")).unwrap();
    assert!(audit.contains(&rule), "{audit}");

    // A second one does not take the first one's place.
    let mut second = start(dir);
    assert!(!second.0.wait().unwrap().success());
    assert_eq!(broker.attached().await.unwrap(), ["work"]);
    let pid = rustix::process::Pid::from_child(&program.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(program.0.wait().unwrap().success());
    assert!(!Bus::Qrexec.socket(&dir.join("run")).exists());
}
