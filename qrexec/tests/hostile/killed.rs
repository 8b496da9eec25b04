//! Calls over sockets that somebody at the host ends: between two VMs, whose stream the broker has no part in, and its own.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
};

use casemate_api::{Bus, Error, LiveCall};
use casemate_qrexec_wire::{DataFrame, ExecParams, ToAgent, ToBroker, Version};

use crate::{
    house::{Agent, Broker, until},
    services::{Real, code},
};

const ALLOW: &str = "* * work vault allow notify=no\n* * @anyvm @anyvm deny\n";

/// The only live call of `source` in this state.
fn live(broker: &Broker, source: &str, state: &str) -> LiveCall {
    let mut found = None;
    until("a live call", || {
        let mut calls = broker.calls().into_iter();
        found = calls.find(|call| call.source == source && call.state == state);
        found.is_some()
    });
    found.unwrap()
}

/// Asks the broker as `casemate call kill` does, or as the supervisor does when a VM has ended.
fn host<T>(
    broker: &Broker,
    ask: impl AsyncFnOnce(casemate_api::Qrexec1Proxy<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let connection = Bus::Qrexec.connect(broker.path()).await.unwrap();
        ask(casemate_api::broker(&connection).await.unwrap()).await
    })
}

fn kill(broker: &Broker, call: u64) -> Result<(), Error> {
    host(broker, async |proxy| proxy.kill_call(call).await)
}

fn is_recorded(broker: &Broker, source: &str, service: &str) {
    until("the record", || {
        broker.audit().iter().any(|line| {
            line["result"] == "killed" && line["source"] == source && line["service"] == service
        })
    });
}

#[test]
fn a_call_between_two_vms_ends_whatever_is_on_its_way() {
    for (service, text) in [
        ("waits", "echo $$ > pid; echo ready; cat; exit 3"),
        // Nobody reads what it says: every buffer on the way is full.
        ("floods", "echo $$ > pid; echo ready; exec cat /dev/zero"),
        // It reads nothing.
        ("deaf", "echo $$ > pid; echo ready; exec sleep 1000"),
    ] {
        let real = Real::start(Broker::start(ALLOW, &[]));
        real.service(service, text);
        real.service("other", "echo ready; cat; exit 4");
        let mut tool = real.call(service);
        let mut other = real.call("other");
        let mut ready = [0; 6];
        for tool in [&mut tool, &mut other] {
            let stdout = tool.stdout.as_mut().unwrap();
            stdout.read_exact(&mut ready).unwrap();
        }
        if service == "deaf" {
            // As much as fits: the end may come while the tool cannot go on.
            let mut stdin = tool.stdin.take().unwrap();
            std::thread::spawn(move || while stdin.write_all(&[b'x'; 65536]).is_ok() {});
        }
        until("two running calls", || {
            let calls = real.broker.calls();
            calls.len() == 2 && calls.iter().all(|call| call.state == "running")
        });
        let mut calls = real.broker.calls().into_iter();
        let call = calls
            .find(|call| call.service == format!("{service}+"))
            .unwrap();
        kill(&real.broker, call.id).unwrap();
        real.is_gone("pid");
        if service == "floods" {
            // What it holds already is read to the end.
            let mut rest = Vec::new();
            let mut stdout = tool.stdout.take().unwrap();
            stdout.read_to_end(&mut rest).unwrap();
        }
        assert_eq!(code(&mut tool), Some(255), "{service}");
        is_recorded(&real.broker, "work", &format!("{service}+"));
        let gone = || !real.broker.calls().iter().any(|live| live.id == call.id);
        until("the end of the call", gone);

        // Its neighbour does not notice.
        other.stdin.take().unwrap().write_all(b"words").unwrap();
        let mut words = String::new();
        let mut stdout = other.stdout.take().unwrap();
        stdout.read_to_string(&mut words).unwrap();
        assert_eq!((words.as_str(), code(&mut other)), ("words", Some(4)));
        real.broker.idle();
        until("the end of all data sockets", || {
            real.broker.sockets() == [] as [PathBuf; 0]
        });
    }
}

#[test]
fn a_call_ends_with_the_vm_of_its_caller() {
    let real = Real::start(Broker::start(ALLOW, &[]));
    real.service("waits", "echo $$ > pid; echo ready; cat");
    let mut tool = real.call("waits");
    real.exists("pid");
    live(&real.broker, "work", "running");
    host(&real.broker, async |proxy| proxy.detach_vm("work").await).unwrap();
    real.is_gone("pid");
    assert_eq!(code(&mut tool), Some(255));
    is_recorded(&real.broker, "work", "waits+");
    real.broker.idle();
}

#[test]
fn a_call_of_the_host_is_killed_like_any_other() {
    let real = Real::start(Broker::start(ALLOW, &[]));
    let pid = real.path("pid");
    let command = format!("echo $$ > {}; echo ready; cat; sleep 1000", pid.display());
    let mut call = real.host(&command);
    let mut ready = [0; 6];
    let stdout = call.stdout.as_mut().unwrap();
    stdout.read_exact(&mut ready).unwrap();
    let own = live(&real.broker, "dom0", "running");
    kill(&real.broker, own.id).unwrap();
    assert_eq!(code(&mut call), Some(255), "a lost call");
    real.is_gone("pid");
    is_recorded(&real.broker, "dom0", &own.service);
}

/// The data stream of an order, as the agent that got it sees it.
fn answer(broker: &Broker, params: ExecParams, code: i32) {
    let path = broker
        .path()
        .join(format!("vchan.0.4.{}.sock", params.port));
    let mut stream = None;
    until("the broker's socket", || {
        stream = UnixStream::connect(&path).ok();
        stream.is_some()
    });
    let mut bytes = Vec::new();
    let hello = DataFrame::Hello(Version::OURS.number());
    hello.encode(Version::OLDEST, &mut bytes).unwrap();
    let exit = DataFrame::ExitCode(code);
    exit.encode(Version::OURS, &mut bytes).unwrap();
    let mut stream = stream.unwrap();
    stream.write_all(&bytes).unwrap();
    // Until the broker has heard it.
    stream.read_to_end(&mut bytes).unwrap();
}

#[test]
fn an_agent_that_cannot_end_calls_keeps_them_and_the_host_is_told() {
    let broker = Broker::start(ALLOW, &[]);
    let mut work = Agent::start(&broker, 3, 4);
    let mut vault = Agent::start(&broker, 4, 4);
    work.trigger("S1", "vault", b"waits");
    let (service, _) = vault.executes();
    let client = work.connects("S1");
    let call = live(&broker, "work", "running");
    kill(&broker, call.id).unwrap();
    let order = |vault: &mut Agent| match vault.next() {
        Some(ToAgent::JustExecute(params, command)) => {
            let text = String::from_utf8(command.as_bytes().to_vec()).unwrap();
            let name = format!("casemate.EndCall+3.{}", service.port);
            assert_eq!(text, format!("DEFAULT:nogui:QUBESRPC {name} dom0"));
            params
        }
        other => panic!("no order but {other:?}"),
    };
    // An agent that has not got the stream yet is told again.
    let params = order(&mut vault);
    answer(&broker, params, 1);
    vault.send(&ToBroker::Terminated(params));
    let params = order(&mut vault);
    answer(&broker, params, 127);
    vault.send(&ToBroker::Terminated(params));
    assert_eq!(live(&broker, "work", "running").id, call.id, "it goes on");
    until("the refusal", || {
        matches!(kill(&broker, call.id), Err(Error::WrongState(_)))
    });
    vault.send(&ToBroker::Terminated(service));
    work.send(&ToBroker::Terminated(client));
    broker.idle();
    assert!(!broker.audit().iter().any(|line| line["result"] == "killed"));
}
