//! Guests that break off, break the protocol, or want too much.

use casemate_api::Answer;
use casemate_qrexec_wire::{ExecParams, ToAgent, ToBroker};

use super::{
    guest::{Agent, Vmm, is_over, soon},
    host::{Host, stream},
};
use casemate_qrexec_session::limits::CALL_BURST;

use crate::limits::MAX_QUESTIONS;

const ALLOW: &str = "\
copy * work untrusted allow
open * work @dispvm allow
move * work @anyvm ask
";

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_frame_costs_only_its_own_vm() {
    let mut host = Host::new(ALLOW).await;
    let mut work = host.agent("work").await;
    let mut untrusted = host.agent("untrusted").await;
    let call = host
        .broker
        .run_command("untrusted", "", "sleep")
        .await
        .unwrap();
    let (params, _) = untrusted.executes().await;

    for hostile in [
        &[0xff; 8][..],
        // A second HELLO, a message of the other direction, a lying length.
        &[0, 3, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0],
        &[3, 2, 0, 0, 32, 0, 0, 0],
        &[0x13, 2, 0, 0, 0xff, 0xff, 0xff, 0xff],
    ] {
        let doomed = host.broker.run_command("work", "", "id").await.unwrap();
        work.executes().await;
        work.bytes(hostile).await;
        assert_eq!(work.next().await, None, "the stream is dropped");
        soon("the end of its calls", host.broker.wait_call(doomed.call))
            .await
            .unwrap();
        is_over(&mut stream(doomed.stream)).await;
        work.vmm.idle().await;
        // It may come again.
        work = work.again().await;
        soon("its hello", host.broker.wait_agent("work"))
            .await
            .unwrap();
    }

    // The other VM's call went on, and it can still be called.
    let mut guest = untrusted.vmm.connect(params.port).await;
    super::guest::are_joined(&mut guest, &mut stream(call.stream)).await;
    work.trigger("S1", "untrusted", "copy").await;
    untrusted.executes().await;
    work.connects("S1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_may_come_again_after_an_orderly_end() {
    let mut host = Host::new(ALLOW).await;
    let mut work = host.agent("work").await;
    work.trigger("S1", "", "move").await;
    let (_, answer) = host.question().await;
    let mut work = work.again().await;
    // The answer belongs to the agent that has gone: this one hears nothing of it.
    let _ = answer.send(Answer {
        allowed: true,
        target: "untrusted".to_owned(),
        for_a_while: false,
    });
    soon("its hello", host.broker.wait_agent("work"))
        .await
        .unwrap();
    let call = host.broker.run_command("work", "", "id").await.unwrap();
    let (params, command) = work.executes().await;
    assert_eq!(command, "DEFAULT:id");
    // The end of a call that is not there, and one of another domain, end nothing.
    work.terminated(ExecParams { domain: 0, port: 9 }).await;
    work.terminated(ExecParams {
        domain: 5,
        port: params.port,
    })
    .await;
    work.trigger("S2", "gone", "copy").await;
    work.is_refused("S2").await;
    work.vmm.connect(params.port).await;
    work.terminated(params).await;
    soon("the end", host.broker.wait_call(call.call))
        .await
        .unwrap();
}

/// How far a call has come when one of its VMs ends.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Stage {
    Silent,
    Ready,
    Triggered,
    Executed,
    Connected,
    Joined,
}

#[tokio::test(flavor = "multi_thread")]
async fn either_vm_may_end_at_any_point() {
    for stage in [
        Stage::Silent,
        Stage::Ready,
        Stage::Triggered,
        Stage::Executed,
        Stage::Connected,
        Stage::Joined,
    ] {
        for source_ends in [true, false] {
            ends_at(stage, source_ends).await;
        }
    }
}

async fn ends_at(stage: Stage, source_ends: bool) {
    let mut host = Host::new(ALLOW).await;
    if stage == Stage::Silent {
        let vmm = host.attach("work").await;
        let broker = host.broker.clone();
        let waits = tokio::spawn(async move { broker.wait_agent("work").await });
        let silent = Agent::silent(vmm).await;
        drop(silent);
        assert!(soon("the end", waits).await.unwrap().is_err());
        return;
    }
    let mut source = host.agent("work").await;
    let target = host.agent("untrusted").await;
    if stage == Stage::Ready {
        let (gone, name) = if source_ends {
            (source, "work")
        } else {
            (target, "untrusted")
        };
        drop(gone);
        is_forgotten(&host, name).await;
        return;
    }
    source.trigger("S1", "untrusted", "copy").await;
    let mut target = target;
    if stage == Stage::Triggered {
        if source_ends {
            drop(source);
            is_forgotten(&host, "work").await;
            // It may have been told already, or not; it must not be left with a stream that nobody ends.
            serves_on(&host, &mut target, "untrusted").await;
        } else {
            drop(target);
            match source.next().await {
                Some(ToAgent::Refused(_)) => {}
                // It was quick enough to be accepted; then its stream ends.
                Some(ToAgent::Connect(params, _)) => {
                    is_over(&mut source.vmm.connect(params.port).await).await;
                    source.terminated(params).await;
                }
                other => panic!("{other:?}"),
            }
            serves_on(&host, &mut source, "work").await;
        }
        return;
    }
    let (service, _) = target.executes().await;
    let mut service_end = None;
    let mut client_end = None;
    if stage >= Stage::Connected {
        let client = source.connects("S1").await;
        service_end = Some(target.vmm.connect(service.port).await);
        if stage == Stage::Joined {
            client_end = Some(source.vmm.connect(client.port).await);
        }
    }
    if source_ends {
        drop(client_end);
        drop(source);
        let mut end = match service_end {
            Some(end) => end,
            None => target.vmm.connect(service.port).await,
        };
        is_over(&mut end).await;
        target.terminated(service).await;
        serves_on(&host, &mut target, "untrusted").await;
    } else {
        drop(service_end);
        drop(target);
        if stage == Stage::Executed {
            let client = source.connects("S1").await;
            client_end = Some(source.vmm.connect(client.port).await);
        }
        if let Some(mut end) = client_end {
            is_over(&mut end).await;
        }
        serves_on(&host, &mut source, "work").await;
    }
}

async fn is_forgotten(host: &Host, name: &str) {
    let look = async {
        while host
            .broker
            .attached()
            .await
            .unwrap()
            .iter()
            .any(|attached| attached == name)
        {
            tokio::task::yield_now().await;
        }
    };
    soon("the end of the session", look).await;
}

/// The VM that is left can be called, and all that was offered to it before is used or taken back.
async fn serves_on(host: &Host, agent: &mut Agent, name: &str) {
    let call = host
        .broker
        .run_command(name, "", "still there")
        .await
        .unwrap();
    let params = loop {
        let (params, command) = agent.executes().await;
        if command.ends_with("still there") {
            break params;
        }
        // A call whose source has gone: the stream is over or was never left there.
        agent.terminated(params).await;
    };
    agent.terminated(params).await;
    soon("the end", host.broker.wait_call(call.call))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disposable_that_dies_or_is_not_wanted_any_more_is_destroyed() {
    for caller_ends in [true, false] {
        let mut host = Host::new(ALLOW).await;
        let mut work = host.agent("work").await;
        work.trigger("S1", "@dispvm", "open").await;
        let vmm = soon("a disposable", host.disposables.recv()).await.unwrap();
        if caller_ends {
            // While the disposable starts.
            drop(work);
            is_forgotten(&host, "work").await;
            let mut disposable = Agent::start(vmm).await;
            let (service, _) = disposable.executes().await;
            disposable.terminated(service).await;
            assert_eq!(host.destroyed().await, "disp7");
        } else {
            let mut disposable = Agent::start(vmm).await;
            disposable.executes().await;
            let client = work.connects("S1").await;
            let mut end = work.vmm.connect(client.port).await;
            drop(disposable);
            is_over(&mut end).await;
            work.terminated(client).await;
            assert_eq!(host.destroyed().await, "disp7");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_calls_is_answered_and_judged_only_in_part() {
    let mut host = Host::new("* * @anyvm @anyvm deny notify=no\n").await;
    let mut work = host.agent("work").await;
    let calls = 1000;
    for number in 0..calls {
        work.trigger(&format!("S{number}"), "untrusted", "copy")
            .await;
    }
    for _ in 0..calls {
        assert!(matches!(work.next().await, Some(ToAgent::Refused(_))));
    }
    let judged = host.broker.decisions(u32::MAX).await.unwrap().len();
    // The burst, and what the rate let pass meanwhile.
    assert!(
        judged <= usize::try_from(CALL_BURST).unwrap() * 2,
        "{judged}"
    );
    assert!(judged > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_cannot_bury_the_person_under_questions() {
    let mut host = Host::new(ALLOW).await;
    let mut work = host.agent("work").await;
    for number in 0..MAX_QUESTIONS + 2 {
        work.trigger(&format!("S{number}"), "", &format!("move+{number}"))
            .await;
    }
    // Two were too many; which ones is a matter of luck.
    for _ in 0..2 {
        assert!(matches!(work.next().await, Some(ToAgent::Refused(_))));
    }
    let decision = host.decision().await;
    assert_eq!(
        decision.reason,
        "too many questions of this VM wait already"
    );
    // One after the other.
    for _ in 0..MAX_QUESTIONS {
        let (_, answer) = host.question().await;
        answer
            .send(Answer {
                allowed: false,
                target: String::new(),
                for_a_while: false,
            })
            .unwrap();
        assert!(matches!(work.next().await, Some(ToAgent::Refused(_))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_does_not_read_its_answers_loses_its_stream() {
    let mut host = Host::new("* * @anyvm @anyvm deny notify=no\n").await;
    let mut work = host.agent("work").await;
    let mut others = host.agent("untrusted").await;
    // The broker stops reading first; then nothing more can be written, and nobody else notices.
    let flood = async {
        for number in 0..200_000 {
            work.trigger(&format!("S{number}"), "untrusted", "copy")
                .await;
        }
    };
    let stuck = tokio::time::timeout(std::time::Duration::from_secs(2), flood).await;
    assert!(stuck.is_err(), "back-pressure");
    others.trigger("S1", "work", "copy").await;
    others.is_refused("S1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_link_is_refused_and_a_new_link_replaces_the_old() {
    let mut host = Host::new(ALLOW).await;
    let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
    let refused = host
        .broker
        .attach_vm("work", 3, std::os::fd::OwnedFd::from(a).into())
        .await;
    assert!(
        matches!(refused, Err(casemate_api::Error::Usage(_))),
        "{refused:?}"
    );

    let mut first = host.agent("work").await;
    let (vmm, link): (Vmm, _) = Vmm::new();
    host.broker.attach_vm("work", 9, link.into()).await.unwrap();
    assert_eq!(first.next().await, None);
    let mut second = Agent::start(vmm).await;
    assert_eq!(host.broker.attached().await.unwrap(), ["work"]);
    second
        .send(&ToBroker::Terminated(ExecParams { domain: 1, port: 1 }))
        .await;
    host.broker.detach_vm("work").await.unwrap();
    assert_eq!(second.next().await, None);
    assert!(host.broker.attached().await.unwrap().is_empty());
    let gone = host.broker.detach_vm("work").await;
    assert!(matches!(gone, Err(casemate_api::Error::NotFound(_))));
}
