//! Calls that go on without a question because the person said so a while ago, and when that ends.

use casemate_api::{Answer, Error};
use casemate_qrexec_wire::ToAgent;

use super::{
    guest::{Agent, soon},
    host::{Asked, Host},
};

const RULES: &str = "\
move * work @anyvm ask default_target=untrusted
move * work @dispvm ask
";

fn for_a_while(target: &str) -> Answer {
    Answer {
        allowed: true,
        target: target.to_owned(),
        for_a_while: true,
    }
}

/// A host where `work` may call `move` of `untrusted` for a while.
async fn granted() -> (Host, Agent, Agent) {
    let mut host = Host::new(RULES).await;
    let mut work = host.agent("work").await;
    let mut untrusted = host.agent("untrusted").await;
    work.trigger("S0", "", "move").await;
    host.question()
        .await
        .1
        .send(for_a_while("untrusted"))
        .unwrap();
    is_joined(&mut work, "S0", &mut untrusted).await;
    let decision = host.decision_on("move+").await;
    assert_eq!(decision.result, "ask-allowed");
    assert!(decision.reason.contains("for a while"), "{decision:?}");
    (host, work, untrusted)
}

async fn is_joined(source: &mut Agent, ident: &str, target: &mut Agent) {
    let (service, _) = target.executes().await;
    let client = source.connects(ident).await;
    target.terminated(service).await;
    source.terminated(client).await;
}

/// The next thing that the broker wants of the host is an answer; it gets a no.
async fn is_asked(host: &mut Host, work: &mut Agent, ident: &str, target: &str, service: &str) {
    work.trigger(ident, target, service).await;
    let (_, answer) = host.question().await;
    answer
        .send(Answer {
            allowed: false,
            target: String::new(),
            for_a_while: false,
        })
        .unwrap();
    work.is_refused(ident).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_answers_for_calls_like_the_one_and_no_others() {
    let (mut host, mut work, mut untrusted) = granted().await;
    for ident in ["S1", "S2"] {
        work.trigger(ident, "", "move").await;
        is_joined(&mut work, ident, &mut untrusted).await;
        let decision = host.decision_on("move+").await;
        assert_eq!(
            (decision.result.as_str(), decision.rule),
            ("granted", host.rule(1))
        );
    }
    let grants = host.broker.grants().await.unwrap();
    assert_eq!(grants.len(), 1);
    assert_eq!(
        (
            grants[0].source.as_str(),
            grants[0].target.as_str(),
            grants[0].service.as_str()
        ),
        ("work", "untrusted", "move+")
    );
    assert!(grants[0].left > 500 && grants[0].left <= 600, "{grants:?}");
    // Another argument, another target asked for: each is a question of its own.
    is_asked(&mut host, &mut work, "S3", "", "move+x").await;
    is_asked(&mut host, &mut work, "S4", "untrusted", "move").await;

    let id = grants[0].id;
    host.broker.revoke_grant(id).await.unwrap();
    let again = host.broker.revoke_grant(id).await;
    assert!(matches!(again, Err(Error::NotFound(_))), "{again:?}");
    is_asked(&mut host, &mut work, "S5", "", "move").await;
    assert_eq!(host.broker.revoke_grants().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_never_overrides_the_rules_of_the_moment() {
    let (mut host, mut work, mut untrusted) = granted().await;
    host.policy("move * work untrusted deny\nmove * work @default allow target=vault\n");
    work.trigger("S1", "", "move").await;
    // `vault` is not attached: the rule that allows now decides, and the grant is gone.
    work.is_refused("S1").await;
    assert_eq!(host.decision_on("move+").await.result, "failed");
    host.policy(RULES);
    is_asked(&mut host, &mut work, "S2", "", "move").await;

    work.trigger("S3", "", "move").await;
    host.question()
        .await
        .1
        .send(for_a_while("untrusted"))
        .unwrap();
    is_joined(&mut work, "S3", &mut untrusted).await;
    host.policy("move * work untrusted deny\nmove * work @anyvm ask\n");
    assert_eq!(host.broker.grants().await.unwrap(), [], "not a choice now");
    host.policy(RULES);
    is_asked(&mut host, &mut work, "S4", "", "move").await;
    host.policy("* * @anyvm @anyvm deny\n");
    work.trigger("S5", "", "move").await;
    work.is_refused("S5").await;
    assert_eq!(host.decision_on("move+").await.result, "deny");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_ends_with_either_vm() {
    for target_ends in [true, false] {
        let (mut host, mut work, untrusted) = granted().await;
        let name = if target_ends { "untrusted" } else { "work" };
        host.broker.detach_vm(name).await.unwrap();
        assert_eq!(host.broker.grants().await.unwrap(), []);
        if target_ends {
            drop(untrusted);
            let _untrusted = host.agent("untrusted").await;
            is_asked(&mut host, &mut work, "S1", "", "move").await;
        } else {
            drop(work);
            let mut work = host.agent("work").await;
            is_asked(&mut host, &mut work, "S1", "", "move").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_takes_the_place_of_a_granted_one_is_asked_about() {
    let (mut host, mut work, _untrusted) = granted().await;
    // A new link under the old name, as after a restart that the broker heard nothing of.
    let mut other = host.agent("untrusted").await;
    is_asked(&mut host, &mut work, "S1", "", "move").await;
    // Its agent may come and go: that is no other VM.
    work.trigger("S2", "", "move").await;
    host.question()
        .await
        .1
        .send(for_a_while("untrusted"))
        .unwrap();
    is_joined(&mut work, "S2", &mut other).await;
    let mut other = other.again().await;
    soon("its hello", host.broker.wait_agent("untrusted"))
        .await
        .unwrap();
    work.trigger("S3", "", "move").await;
    match other.next().await {
        Some(ToAgent::Execute(..)) => {}
        unexpected => panic!("{unexpected:?}"),
    }
    work.connects("S3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_of_a_granted_disposable_gets_a_new_one() {
    let mut host = Host::new(RULES).await;
    let mut work = host.agent("work").await;
    for (ident, result) in [("S1", "ask-allowed"), ("S2", "granted"), ("S3", "granted")] {
        work.trigger(ident, "@dispvm", "move").await;
        if ident == "S1" {
            host.question()
                .await
                .1
                .send(for_a_while("@dispvm:debian-12"))
                .unwrap();
        }
        loop {
            match host.asked().await {
                Asked::Create(what) => {
                    assert_eq!(what, "work debian-12");
                    break;
                }
                Asked::Question(..) => panic!("{ident} was asked about"),
                _ => {}
            }
        }
        let vmm = soon("a disposable", host.disposables.recv()).await.unwrap();
        let mut disposable = Agent::start(vmm).await;
        is_joined(&mut work, ident, &mut disposable).await;
        // The record is made after the ends were joined.
        let on_record = async {
            while host.decision_on("move+").await.result != result {
                tokio::task::yield_now().await;
            }
        };
        soon("the decision on record", on_record).await;
        assert_eq!(host.destroyed().await, "disp7");
    }
    assert_eq!(
        host.broker.grants().await.unwrap()[0].target,
        "@dispvm:debian-12"
    );
}
