//! Calls to the admin domain.

use casemate_qrexec_wire::{DataDecoder, DataFrame, Version};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{
    guest::{Agent, is_over, soon},
    host::{Asked, Host},
};

const ALLOW: &str = "* * @anyvm @adminvm allow\n";

/// Calls a service of the host with this input; the exit code, or nothing when the stream ends without one.
async fn call(agent: &mut Agent, service: &str, input: &[u8]) -> Option<i32> {
    agent.trigger("SOCKET1", "@adminvm", service).await;
    let params = agent.connects("SOCKET1").await;
    let mut stream = agent.vmm.connect(params.port).await;
    let mut bytes = Vec::new();
    DataFrame::Hello(4)
        .encode(Version::OLDEST, &mut bytes)
        .unwrap();
    for frame in [DataFrame::Stdin(input), DataFrame::Stdin(&[])] {
        frame.encode(Version::OURS, &mut bytes).unwrap();
    }
    // Input that is refused is not read to its end.
    drop(stream.write_all(&bytes).await);
    let code = soon("an exit code", exit_code(&mut stream)).await;
    agent.terminated(params).await;
    code
}

async fn exit_code(stream: &mut UnixStream) -> Option<i32> {
    let mut decoder = DataDecoder::default();
    let mut buffer = [0; 256];
    loop {
        while let Some(frame) = decoder.take().unwrap() {
            match frame {
                DataFrame::ExitCode(code) => return Some(code),
                DataFrame::Stdout(bytes) | DataFrame::Stderr(bytes) => assert_eq!(bytes, b""),
                DataFrame::Hello(version) => assert_eq!(version, 4),
                DataFrame::Stdin(bytes) => panic!("{bytes:?}"),
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => decoder.feed(&buffer[..read]),
        }
    }
}

#[tokio::test]
async fn a_vm_tells_the_host_of_its_updates() {
    let mut host = Host::new(ALLOW).await;
    let mut work = host.agent("work").await;
    for (input, expected) in [
        ("12\n", Some(12)),
        ("0", Some(0)),
        ("many", None),
        ("", None),
        ("100001", None),
    ] {
        let code = call(&mut work, "qubes.NotifyUpdates", input.as_bytes()).await;
        assert_eq!(code, Some(i32::from(expected.is_none())), "{input}");
        if let Some(expected) = expected {
            match host.asked().await {
                Asked::Updates(vm, count) => assert_eq!((vm.as_str(), count), ("work", expected)),
                other => panic!("{other:?}"),
            }
        }
        let decision = host.decision().await;
        assert_eq!(
            (decision.result.as_str(), decision.target.as_str()),
            ("allow", "dom0")
        );
        assert_eq!(decision.rule, host.rule(1));
    }
    // All of it would not fit into what the host takes.
    assert_eq!(
        call(&mut work, "qubes.NotifyUpdates", &[b'1'; 5000]).await,
        None
    );
    work.vmm.idle().await;
}

#[tokio::test]
async fn the_host_serves_nothing_else() {
    let mut host = Host::new(ALLOW).await;
    let mut work = host.agent("work").await;
    for service in [
        "qubes.VMShell",
        "qubes.Filecopy",
        "qubes.notifyupdates",
        "admin.vm.Start",
    ] {
        work.trigger("SOCKET2", "dom0", service).await;
        work.is_refused("SOCKET2").await;
        let decision = host.decision_on(&format!("{service}+")).await;
        assert!(
            decision.reason.contains("no such service"),
            "{}",
            decision.reason
        );
    }
}

#[tokio::test]
async fn a_call_to_the_host_can_be_killed() {
    let mut host = Host::new(ALLOW).await;
    let mut work = host.agent("work").await;
    work.trigger("SOCKET3", "@adminvm", "qubes.NotifyUpdates")
        .await;
    let params = work.connects("SOCKET3").await;
    let mut stream = work.vmm.connect_for_cut(params.port).await;
    let calls = host.broker.calls().await.unwrap();
    assert_eq!(
        (
            calls.len(),
            calls[0].target.as_str(),
            calls[0].state.as_str()
        ),
        (1, "dom0", "running")
    );
    host.broker.kill_call(calls[0].id).await.unwrap();
    let mut hello = [0; 12];
    soon("our hello", stream.read_exact(&mut hello))
        .await
        .unwrap();
    is_over(&mut stream).await;
    work.terminated(params).await;
    assert_eq!(host.decision().await.result, "killed");
}
