//! Remote VMs: who may speak for one, and where calls to one go.

use casemate_api::Answer;

use super::{
    guest::are_joined,
    host::{Asked, Host},
};

const RULES: &str = "\
mail * far vault allow user=root
ask * far @anyvm ask
mail * untrusted @anyvm allow user=root
ask * untrusted far ask
mail * work far allow
qubes.NotifyUpdates * far @adminvm allow
* * @anyvm @anyvm deny
";

async fn house() -> Host {
    let host = Host::new(RULES).await;
    host.remote("far", Some("work"), Some("x.Carry"));
    host.remote("elsewhere", Some("untrusted"), Some("x.Carry"));
    host.remote("stray", None, Some("x.Carry"));
    host.remote("mute", Some("work"), None);
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_calls_as_the_remote_vm_that_it_speaks_for() {
    let mut host = house().await;
    let mut work = host.agent("work").await;
    let mut vault = host.agent("vault").await;

    work.trigger_as("far", "S1", "vault", "mail+a").await;
    assert!(matches!(host.asked().await, Asked::Start(name) if name == "vault"));
    let (service, command) = vault.executes().await;
    assert_eq!(command, "root:QUBESRPC mail+a far");
    let client = work.connects("S1").await;
    let mut ends = (
        work.vmm.connect(client.port).await,
        vault.vmm.connect(service.port).await,
    );
    are_joined(&mut ends.0, &mut ends.1).await;
    let decision = host.decision_on("mail+a").await;
    assert_eq!(
        (decision.source.as_str(), decision.rule),
        ("far", host.rule(1))
    );
    assert!(
        decision.reason.contains("'work' speaks for it"),
        "{}",
        decision.reason
    );
    let calls = host.broker.calls().await.unwrap();
    assert_eq!(calls[0].source, "far");

    // What the remote VM may, its relay may not for itself.
    work.trigger_as("", "S2", "vault", "mail+b").await;
    work.is_refused("S2").await;
    assert_eq!(host.decision_on("mail+b").await.source, "work");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_speaks_for_whom_the_facts_do_not_say() {
    let mut host = house().await;
    let mut work = host.agent("work").await;
    let mut untrusted = host.agent("untrusted").await;
    let mut number = 0;
    for (agent, claims) in [
        // Remote, but not its own.
        (&mut untrusted, &["far", "uuid:r-far", "stray"][..]),
        // A local VM, running or not, by any name; what is no VM; the admin domain.
        (
            &mut work,
            &[
                "elsewhere",
                "stray",
                "vault",
                "untrusted",
                "uuid:0000-2",
                "nobody",
                "dom0",
                "@adminvm",
            ],
        ),
    ] {
        for claim in claims {
            number += 1;
            let (ident, service) = (format!("S{number}"), format!("mail+{number}"));
            agent.trigger_as(claim, &ident, "vault", &service).await;
            agent.is_refused(&ident).await;
            let decision = host.decision_on(&service).await;
            assert_eq!(decision.result, "deny", "{claim}");
            assert_ne!(decision.source, *claim);
            assert!(decision.reason.contains(claim), "{decision:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_to_a_remote_vm_goes_to_its_relay() {
    let mut host = house().await;
    let mut work = host.agent("work").await;
    let mut untrusted = host.agent("untrusted").await;

    untrusted.trigger_as("", "S1", "far", "mail+a").await;
    assert!(matches!(host.asked().await, Asked::Start(name) if name == "work"));
    let (service, command) = work.executes().await;
    // As the relay's own account, whatever the rule says of the remote VM's.
    assert_eq!(command, "DEFAULT:QUBESRPC x.Carry+far+mail+a untrusted");
    let client = untrusted.connects("S1").await;
    let mut ends = (
        untrusted.vmm.connect(client.port).await,
        work.vmm.connect(service.port).await,
    );
    are_joined(&mut ends.0, &mut ends.1).await;
    let decision = host.decision_on("mail+a").await;
    assert_eq!(
        (decision.result.as_str(), decision.target.as_str()),
        ("allow", "far")
    );
    assert!(
        decision.reason.contains("'work' brings it there"),
        "{}",
        decision.reason
    );

    // Not from the relay itself, and not without one.
    for (by_relay, target, why) in [
        (true, "far", "the caller itself"),
        (false, "stray", "without a relay"),
        (false, "mute", "without a relay or a transport"),
    ] {
        let agent = if by_relay { &mut work } else { &mut untrusted };
        agent.trigger_as("", "S2", target, "mail+b").await;
        agent.is_refused("S2").await;
        let look = async {
            loop {
                let decision = host.decision_on("mail+b").await;
                if decision.requested == target {
                    return decision;
                }
                tokio::task::yield_now().await;
            }
        };
        let decision = super::guest::soon("the decision", look).await;
        assert_eq!(decision.result, "failed", "{target}");
        assert!(decision.reason.contains(why), "{decision:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_asked_about_the_remote_vm_each_time() {
    let mut host = house().await;
    let mut work = host.agent("work").await;
    let mut untrusted = host.agent("untrusted").await;
    let yes = |target: &str| Answer {
        allowed: true,
        target: target.to_owned(),
        for_a_while: true,
    };
    // A call to one: the label is that of its relay, and a yes for a while is one for this time.
    for ident in ["S1", "S2"] {
        untrusted.trigger_as("", ident, "far", "ask+a").await;
        let (question, answer) = host.question().await;
        let target = &question.targets[0];
        assert_eq!(
            (target.name.as_str(), target.label.as_str()),
            ("far", "blue")
        );
        answer.send(yes("far")).unwrap();
        let (service, command) = work.executes().await;
        assert_eq!(command, "DEFAULT:QUBESRPC x.Carry+far+ask+a untrusted");
        let client = untrusted.connects(ident).await;
        work.terminated(service).await;
        untrusted.terminated(client).await;
    }
    // A call of one: what is allowed for a while is not allowed to its relay.
    work.trigger_as("far", "S3", "untrusted", "ask+b").await;
    let (question, answer) = host.question().await;
    assert_eq!(
        (
            question.source.name.as_str(),
            question.source.label.as_str()
        ),
        ("far", "blue")
    );
    answer.send(yes("untrusted")).unwrap();
    let (_, command) = untrusted.executes().await;
    assert_eq!(command, "DEFAULT:QUBESRPC ask+b far");
    work.connects("S3").await;
    work.trigger_as("far", "S4", "untrusted", "ask+b").await;
    let (_, command) = untrusted.executes().await;
    assert_eq!(command, "DEFAULT:QUBESRPC ask+b far");
    host.decided("ask+b", "granted").await;
    work.connects("S4").await;
    work.trigger_as("", "S5", "untrusted", "ask+b").await;
    work.is_refused("S5").await;
}

/// It is not on this machine: what it tells the host would be noted for its relay.
#[tokio::test(flavor = "multi_thread")]
async fn the_host_serves_no_remote_vm() {
    let mut host = house().await;
    let mut work = host.agent("work").await;
    work.trigger_as("far", "S1", "@adminvm", "qubes.NotifyUpdates")
        .await;
    work.is_refused("S1").await;
    let decision = host.decision_on("qubes.NotifyUpdates+").await;
    assert_eq!((&*decision.source, &*decision.result), ("far", "failed"));
    assert!(decision.reason.contains("remote"), "{}", decision.reason);
}
