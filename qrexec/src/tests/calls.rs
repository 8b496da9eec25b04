//! Calls that end as they should, allowed or not.

use casemate_api::Answer;
use tokio::io::AsyncWriteExt;

use super::{
    guest::{Agent, are_joined, is_over, soon},
    host::{Asked, Host, stream},
};

const SIMPLE: &str = "\
# Line 1.
copy * work untrusted allow user=root
open * work @dispvm allow
move * work @anyvm ask default_target=untrusted
* * @anyvm @anyvm deny
";

fn yes(target: &str) -> Answer {
    Answer {
        allowed: true,
        target: target.to_owned(),
        for_a_while: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_side_runs_commands_and_services() {
    let mut host = Host::new(SIMPLE).await;
    let mut work = host.agent("work").await;
    assert_eq!(host.broker.attached().await.unwrap(), ["work"]);

    let call = host
        .broker
        .run_command("work", "", "uname -a")
        .await
        .unwrap();
    let (params, command) = work.executes().await;
    assert_eq!((params.domain, command.as_str()), (0, "DEFAULT:uname -a"));
    let mut guest = work.vmm.connect(params.port).await;
    let mut admin = stream(call.stream);
    are_joined(&mut guest, &mut admin).await;
    drop(guest);
    is_over(&mut admin).await;
    let waiting = host.broker.clone();
    let wait = tokio::spawn(async move { waiting.wait_call(call.call).await });
    work.terminated(params).await;
    soon("the end of the call", wait).await.unwrap().unwrap();
    soon("the end again", host.broker.wait_call(call.call))
        .await
        .unwrap();

    let call = host
        .broker
        .call_service("work", "root", "qubes.VMShell")
        .await
        .unwrap();
    let (params, command) = work.executes().await;
    assert_eq!(command, "root:QUBESRPC qubes.VMShell+ dom0");
    drop(call.stream);
    is_over(&mut work.vmm.connect(params.port).await).await;

    for (name, user, service) in [("work", "a:b", "s"), ("work", "", "a/b"), ("..", "", "s")] {
        let refused = host.broker.call_service(name, user, service).await;
        assert!(
            matches!(refused, Err(casemate_api::Error::Usage(_))),
            "{name} {user} {service}"
        );
    }
    let refused = host.broker.run_command("untrusted", "", "id").await;
    assert!(matches!(refused, Err(casemate_api::Error::WrongState(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_call_joins_the_two_vms() {
    let mut host = Host::new(SIMPLE).await;
    let mut work = host.agent("work").await;
    let mut untrusted = host.agent("untrusted").await;

    // One that speaks for another is not judged as itself.
    work.trigger_as("vault", "S0", "untrusted", "copy+claim")
        .await;
    work.is_refused("S0").await;
    let decision = host.decision_on("copy+claim").await;
    assert_eq!(
        (decision.source.as_str(), decision.result.as_str()),
        ("work", "deny")
    );
    assert!(decision.reason.contains("'vault'"), "{decision:?}");
    work.trigger_as("work", "S1", "untrusted", "copy+a/b").await;
    assert!(matches!(host.asked().await, Asked::Start(name) if name == "untrusted"));
    let (service, command) = untrusted.executes().await;
    assert_eq!(
        (service.domain, command.as_str()),
        (3, "root:QUBESRPC copy+a_b work")
    );
    let client = work.connects("S1").await;
    assert_eq!(client.domain, 4);
    let mut ends = (
        work.vmm.connect(client.port).await,
        untrusted.vmm.connect(service.port).await,
    );
    are_joined(&mut ends.0, &mut ends.1).await;

    let decision = host.decision_on("copy+a_b").await;
    assert_eq!(decision.source, "work");
    assert_eq!(
        (decision.requested.as_str(), decision.target.as_str()),
        ("untrusted", "untrusted")
    );
    assert_eq!(
        (decision.result.as_str(), decision.rule),
        ("allow", host.rule(2))
    );
    ends.0.shutdown().await.unwrap();
    is_over(&mut ends.1).await;
    untrusted.terminated(service).await;
    work.terminated(client).await;

    // The next call takes another port, so that a late end of the first is not taken for its end.
    work.trigger("S2", "untrusted", "copy").await;
    let (second, _) = untrusted.executes().await;
    assert_ne!(second.port, service.port);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_call_fails_at_once_and_names_its_rule() {
    let mut host = Host::new(SIMPLE).await;
    let mut work = host.agent("work").await;
    for (ident, target, service, rule, reason) in [
        ("S1", "vault", "copy", 5, "a rule denies the call"),
        ("S2", "gone", "copy", 5, "a rule denies the call"),
        ("S3", "dom0", "copy", 0, "no rule allows the call"),
        (
            "S4",
            "@anyvm",
            "copy",
            0,
            "a call cannot ask for this target",
        ),
        ("S5", "untrusted", "+copy", 0, "the service name is empty"),
        (
            "S6",
            "untrusted",
            "..",
            0,
            "'.' and '..' are not service names",
        ),
    ] {
        work.trigger(ident, target, service).await;
        work.is_refused(ident).await;
        let on = if ident < "S5" { "copy+" } else { "" };
        let decision = loop {
            let decision = host.decision_on(on).await;
            if decision.requested == target && decision.reason == reason {
                break decision;
            }
            tokio::task::yield_now().await;
        };
        let expected = if rule == 0 {
            String::new()
        } else {
            host.rule(rule)
        };
        assert_eq!(
            (decision.result.as_str(), decision.rule),
            ("deny", expected),
            "{ident}"
        );
    }
    // Each call tells on its own, so the notices come in any order.
    let notice = loop {
        let notice = host.notice().await;
        assert_eq!(notice.kind, "denied");
        if notice.text.contains("work asked vault for copy+") {
            break notice;
        }
    };
    assert!(notice.text.contains(&host.rule(5)), "{}", notice.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_person_decides_where_policy_asks() {
    let mut host = Host::new(SIMPLE).await;
    let mut work = host.agent("work").await;
    let mut untrusted = host.agent("untrusted").await;

    work.trigger("S1", "", "move").await;
    let (question, answer) = host.question().await;
    assert_eq!(
        (
            question.source.name.as_str(),
            question.source.label.as_str()
        ),
        ("work", "blue")
    );
    let names: Vec<_> = question
        .targets
        .iter()
        .map(|target| target.name.as_str())
        .collect();
    assert_eq!(names, ["untrusted", "vault", "@dispvm:debian-12"]);
    assert_eq!(
        (
            question.targets[0].label.as_str(),
            question.targets[2].label.as_str()
        ),
        ("blue", "red")
    );
    assert_eq!(question.default_target, "untrusted");
    answer.send(yes("untrusted")).unwrap();
    let (_, command) = untrusted.executes().await;
    assert_eq!(command, "DEFAULT:QUBESRPC move+ work");
    work.connects("S1").await;
    let decision = host.decision_on("move+").await;
    assert_eq!(
        (decision.result.as_str(), decision.target.as_str()),
        ("ask-allowed", "untrusted")
    );

    for (ident, answer, result) in [
        (
            "S2",
            Answer {
                allowed: false,
                target: String::new(),
                for_a_while: false,
            },
            "ask-denied",
        ),
        ("S3", yes("work"), "deny"),
        ("S4", yes("dom0"), "deny"),
    ] {
        work.trigger(ident, "", &format!("move+{ident}")).await;
        host.question().await.1.send(answer).unwrap();
        work.is_refused(ident).await;
        assert_eq!(
            host.decision_on(&format!("move+{ident}")).await.result,
            result
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_while_the_person_thinks_counts() {
    let mut host = Host::new(SIMPLE).await;
    let mut work = host.agent("work").await;
    let _untrusted = host.agent("untrusted").await;

    work.trigger("S1", "", "move+1").await;
    let (_, answer) = host.question().await;
    host.policy("move * work untrusted deny\nmove * work @anyvm ask\n");
    answer.send(yes("untrusted")).unwrap();
    work.is_refused("S1").await;
    let decision = host.decision_on("move+1").await;
    assert!(
        decision.reason.contains("changed while"),
        "{}",
        decision.reason
    );

    host.policy(SIMPLE);
    work.trigger("S2", "", "move+2").await;
    let (_, answer) = host.question().await;
    // The VM of this name gets another identity, as if it had been removed and made anew.
    host.remove("vault");
    host.remove("untrusted");
    answer.send(yes("untrusted")).unwrap();
    work.is_refused("S2").await;
    assert_eq!(host.decision_on("move+2").await.result, "deny");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disposable_lives_as_long_as_its_call() {
    let mut host = Host::new(SIMPLE).await;
    let mut work = host.agent("work").await;
    work.trigger("S1", "@dispvm", "open").await;
    assert!(matches!(host.asked().await, Asked::Create(what) if what == "work debian-12"));
    let vmm = soon("a disposable", host.disposables.recv()).await.unwrap();
    let mut disposable = Agent::start(vmm).await;
    let (service, command) = disposable.executes().await;
    assert_eq!(command, "DEFAULT:QUBESRPC open+ work");
    let client = work.connects("S1").await;
    let mut ends = (
        work.vmm.connect(client.port).await,
        disposable.vmm.connect(service.port).await,
    );
    are_joined(&mut ends.0, &mut ends.1).await;
    assert_eq!(host.decision_on("open+").await.target, "disp7");
    disposable.terminated(service).await;
    work.terminated(client).await;
    assert_eq!(host.destroyed().await, "disp7");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_policy_denies_everything_and_says_where() {
    let mut host = Host::new("copy * work untrusted allow\ncopy * work vault permit\n").await;
    let mut work = host.agent("work").await;
    let mut untrusted = host.agent("untrusted").await;
    work.trigger("S1", "untrusted", "copy").await;
    work.is_refused("S1").await;
    let notice = host.notice().await;
    let place = format!("{}:19: 'permit'", host.rule(2));
    assert!(notice.text.contains(&place), "{}", notice.text);
    assert!(host.decision_on("copy+").await.reason.contains(&place));

    host.policy("copy * work untrusted allow\n");
    work.trigger("S2", "untrusted", "copy").await;
    untrusted.executes().await;
    work.connects("S2").await;
}
