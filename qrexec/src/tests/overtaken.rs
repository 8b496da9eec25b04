//! Rows B10-5 and B10-7 of the threat tables: VMs that end and come again, change their colour or go while the person
//! thinks. What was answered for the one never happens to the other.

use casemate_api::Answer;

use super::{
    guest::{Agent, are_joined, soon},
    host::Host,
};

const POLICY: &str = "move * work @anyvm ask\n";

/// The numbers that a host gives to the first two VMs.
const WORK: u32 = 3;
const UNTRUSTED: u32 = 4;

fn yes() -> Answer {
    Answer {
        allowed: true,
        target: "untrusted".to_owned(),
        for_a_while: false,
    }
}

/// What becomes of the target between question and answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    /// It did not run and is started, by somebody.
    Starts,
    /// It is ended and started, and gets the same number.
    Restarts,
    Ends,
    GetsAnotherLabel,
    IsRemoved,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_the_target_while_the_person_thinks_counts() {
    use Meanwhile::{Ends, GetsAnotherLabel, IsRemoved, Nothing, Restarts, Starts};
    for (meanwhile, goes_on) in [
        (Nothing, true),
        (Starts, true),
        (Restarts, false),
        (Ends, false),
        (GetsAnotherLabel, false),
        (IsRemoved, false),
    ] {
        target(meanwhile, goes_on).await;
    }
}

async fn target(meanwhile: Meanwhile, goes_on: bool) {
    let mut host = Host::new(POLICY).await;
    let mut work = host.agent("work").await;
    let mut untrusted = None;
    if meanwhile != Meanwhile::Starts {
        untrusted = Some(host.agent("untrusted").await);
    }
    work.trigger("S1", "", "move").await;
    let (_, answer) = host.question().await;
    match meanwhile {
        Meanwhile::Nothing => {}
        Meanwhile::Starts | Meanwhile::Restarts => {
            untrusted = Some(host.restart("untrusted", UNTRUSTED).await);
        }
        Meanwhile::Ends => host.broker.detach_vm("untrusted").await.unwrap(),
        Meanwhile::GetsAnotherLabel => host.repaint("untrusted"),
        Meanwhile::IsRemoved => host.remove("untrusted"),
    }
    answer.send(yes()).unwrap();
    if goes_on {
        joined(&mut work, "S1", &mut untrusted.unwrap()).await;
        assert_eq!(host.decision_on("move+").await.result, "ask-allowed");
        return;
    }
    work.is_refused("S1").await;
    let decision = host.decision_on("move+").await;
    assert_eq!(
        (decision.result.as_str(), decision.reason.as_str()),
        (
            "deny",
            "the policy or the target changed while the person was asked"
        ),
        "{meanwhile:?}"
    );
    // The person, who said yes, is told that it came to nothing.
    let notice = host.notice().await;
    assert!(
        notice.text.contains("changed while the person was asked"),
        "{}",
        notice.text
    );
    if let (Meanwhile::Restarts, Some(untrusted)) = (meanwhile, &mut untrusted) {
        // The first that it hears of is the next call.
        work.trigger("S2", "", "move+2").await;
        host.question().await.1.send(yes()).unwrap();
        let (_, command) = untrusted.executes().await;
        assert_eq!(command, "DEFAULT:QUBESRPC move+2 work");
    }
}

async fn joined(source: &mut Agent, ident: &str, target: &mut Agent) {
    let (service, _) = target.executes().await;
    let client = source.connects(ident).await;
    let mut ends = (
        source.vmm.connect(client.port).await,
        target.vmm.connect(service.port).await,
    );
    are_joined(&mut ends.0, &mut ends.1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_vm_asked_for_before_it_was_started_again_never_happens() {
    let mut host = Host::new(POLICY).await;
    let mut work = host.agent("work").await;
    let mut untrusted = host.agent("untrusted").await;
    // Two wait: one is shown, one is next.
    work.trigger("S1", "", "move+1").await;
    work.trigger("S2", "", "move+2").await;
    let (_, answer) = host.question().await;
    let mut work = host.restart("work", WORK).await;
    // Nobody may be there to hear it any more.
    let _ = answer.send(yes());
    let ended = async {
        loop {
            let decisions = host.broker.decisions(10).await.unwrap();
            if decisions.len() == 2 {
                return decisions;
            }
            tokio::task::yield_now().await;
        }
    };
    let decisions = soon("the end of both", ended).await;
    assert!(decisions.iter().all(|one| one.result == "failed"));
    assert_eq!(host.broker.calls().await.unwrap(), []);
    // The same ident, number and target: a call of its own, and the only one that arrives.
    work.trigger("S1", "", "move+3").await;
    let (question, answer) = host.question().await;
    assert_eq!(question.argument, "+3");
    answer.send(yes()).unwrap();
    let (service, command) = untrusted.executes().await;
    assert_eq!(command, "DEFAULT:QUBESRPC move+3 work");
    let client = work.connects("S1").await;
    assert_eq!((service.domain, client.domain), (WORK, UNTRUSTED));
}
