//! Calls that somebody at the host ends, however far they have come.

use casemate_api::{Error, LiveCall};

use super::{
    guest::{Agent, is_over, soon},
    host::{Asked, Host, stream},
};

const RULES: &str = "\
copy * work untrusted allow
open * work @dispvm allow
move * work @anyvm ask default_target=untrusted
";

/// The only live call, once it is in this state.
async fn only(host: &Host, state: &str) -> LiveCall {
    let look = async {
        loop {
            let mut calls = host.broker.calls().await.unwrap();
            assert!(calls.len() <= 1, "{calls:?}");
            match calls.pop() {
                Some(call) if call.state == state => return call,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    soon("a live call", look).await
}

async fn none_live(host: &Host) {
    let look = async {
        while !host.broker.calls().await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    soon("the end of all calls", look).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_call_is_cut_at_both_ends() {
    let mut host = Host::new(RULES).await;
    let mut work = host.agent("work").await;
    let mut untrusted = host.agent("untrusted").await;
    work.trigger("S1", "untrusted", "copy+x").await;
    let (service, _) = untrusted.executes().await;
    let client = work.connects("S1").await;
    let mut ends = (
        work.vmm.connect_for_cut(client.port).await,
        untrusted.vmm.connect_for_cut(service.port).await,
    );
    let call = only(&host, "running").await;
    assert_eq!(
        (
            call.source.as_str(),
            call.requested.as_str(),
            call.target.as_str()
        ),
        ("work", "untrusted", "untrusted")
    );
    assert_eq!((call.service.as_str(), call.rule), ("copy+x", host.rule(1)));
    assert!(call.since > 1_700_000_000, "{}", call.since);

    let unknown = host.broker.kill_call(call.id + 1000).await;
    assert!(matches!(unknown, Err(Error::NotFound(_))), "{unknown:?}");
    host.broker.kill_call(call.id).await.unwrap();
    is_over(&mut ends.0).await;
    is_over(&mut ends.1).await;
    let decision = host.decision_on("copy+x").await;
    assert_eq!(
        (decision.result.as_str(), decision.target.as_str()),
        ("killed", "untrusted")
    );
    let me = format!(
        "killed by user {}, process {}",
        rustix::process::geteuid().as_raw(),
        std::process::id()
    );
    assert_eq!((decision.reason, decision.rule), (me, host.rule(1)));
    assert_eq!(only(&host, "ending").await.id, call.id);
    host.broker.kill_call(call.id).await.unwrap();
    untrusted.terminated(service).await;
    work.terminated(client).await;
    none_live(&host).await;
    let gone = host.broker.kill_call(call.id).await;
    assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_service_has_ended_is_killed_all_the_same() {
    let mut host = Host::new(RULES).await;
    let mut work = host.agent("work").await;
    let mut untrusted = host.agent("untrusted").await;
    work.trigger("S1", "untrusted", "copy+x").await;
    let (service, _) = untrusted.executes().await;
    let client = work.connects("S1").await;
    let mut end = work.vmm.connect_for_cut(client.port).await;
    let call = only(&host, "running").await;
    untrusted.terminated(service).await;
    // The broker has heard that when the offer is taken back.
    untrusted.vmm.idle().await;
    host.broker.kill_call(call.id).await.unwrap();
    is_over(&mut end).await;
    assert_eq!(host.decision_on("copy+x").await.result, "killed");
    // It is waited for the caller's report, however often the service's was waited for.
    assert_eq!(only(&host, "ending").await.id, call.id);
    work.terminated(client).await;
    none_live(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_for_the_person_is_refused() {
    let mut host = Host::new(RULES).await;
    let mut work = host.agent("work").await;
    work.trigger("S1", "", "move").await;
    let (_, answer) = host.question().await;
    let call = only(&host, "asking").await;
    assert_eq!((call.target.as_str(), call.rule.as_str()), ("", ""));
    host.broker.kill_call(call.id).await.unwrap();
    work.is_refused("S1").await;
    none_live(&host).await;
    let decision = host.decision_on("move+").await;
    assert_eq!(decision.result, "killed");
    // The question is taken back: nobody waits for the answer any more.
    drop(answer);
    work.trigger("S2", "", "move").await;
    let _next = host.question().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disposable_that_was_being_made_for_it_goes_too() {
    let mut host = Host::new(RULES).await;
    let mut work = host.agent("work").await;
    work.trigger("S1", "@dispvm", "open").await;
    assert!(matches!(host.asked().await, Asked::Create(_)));
    let vmm = soon("a disposable", host.disposables.recv()).await.unwrap();
    let call = only(&host, "starting").await;
    host.broker.kill_call(call.id).await.unwrap();
    // The caller need not wait for the disposable.
    work.is_refused("S1").await;
    assert_eq!(host.decision_on("open+").await.result, "killed");
    let mut disposable = Agent::start(vmm).await;
    assert_eq!(host.destroyed().await, "disp7");
    host.broker.detach_vm("disp7").await.unwrap();
    assert_eq!(disposable.next().await, None, "it was never called");
    none_live(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_the_host_can_be_killed_like_any_other() {
    let mut host = Host::new(RULES).await;
    let mut work = host.agent("work").await;
    let made = host
        .broker
        .run_command("work", "", "sleep 9")
        .await
        .unwrap();
    let (params, _) = work.executes().await;
    let mut guest = work.vmm.connect_for_cut(params.port).await;
    let call = only(&host, "running").await;
    assert_eq!(
        (call.id, call.source.as_str(), call.service.as_str()),
        (made.call, "dom0", "sleep 9")
    );
    host.broker.kill_call(call.id).await.unwrap();
    is_over(&mut guest).await;
    is_over(&mut stream(made.stream)).await;
    let decision = host.decision_on("sleep 9").await;
    assert_eq!(decision.result, "killed");
    work.terminated(params).await;
    soon("its end", host.broker.wait_call(call.id))
        .await
        .unwrap();
    none_live(&host).await;
}
