//! Judging sentence by sentence: what matches, and what becomes of a call.

mod house;

use house::{facts, read, request, words};

/// Rules, caller, what it asks for, the answer.
type Row = (&'static str, &'static str, &'static str, &'static str);

fn check(rows: &[Row]) {
    let facts = facts();
    for (rules, source, target, expected) in rows {
        let policy = read(rules).unwrap_or_else(|error| panic!("{rules}: {error}"));
        let decision = policy.decide(&request(source, target), &facts);
        assert_eq!(
            words(&decision),
            *expected,
            "{source} -> {target} by\n{rules}"
        );
    }
}

#[test]
fn sources_match_as_they_should() {
    check(&[
        ("s * work * allow", "work", "bank", "allow bank"),
        ("s * uuid:11 * allow", "work", "bank", "allow bank"),
        ("s * work * allow", "uuid:11", "bank", "allow bank"),
        ("s * * * allow", "work", "bank", "allow bank"),
        ("s * * * allow", "dom0", "bank", "allow bank"),
        ("s * @anyvm * allow", "dom0", "bank", "deny no-match"),
        ("s * dom0 * allow", "dom0", "bank", "allow bank"),
        ("s * @adminvm * allow", "@adminvm", "bank", "allow bank"),
        (
            "s * uuid:00000000-0000-0000-0000-000000000000 * allow",
            "dom0",
            "bank",
            "allow bank",
        ),
        ("s * @tag:own * allow", "work", "bank", "allow bank"),
        ("s * @tag:own * allow", "dom0", "bank", "deny no-match"),
        ("s * @type:AdminVM * allow", "dom0", "bank", "deny no-match"),
        ("s * @type:AppVM * allow", "work", "bank", "allow bank"),
        ("s * @type:DispVM * allow", "disp1", "bank", "allow bank"),
        ("s * disp1 * allow", "disp1", "bank", "allow bank"),
        // A running disposable is no place for a new one.
        ("s * @dispvm:dvm2 * allow", "disp1", "bank", "deny no-match"),
        (
            "s * @dispvm:@tag:t * allow",
            "disp1",
            "bank",
            "deny no-match",
        ),
        // Who is not known is any VM, and none of a tag or type.
        ("s * @anyvm * allow", "gone", "bank", "allow bank"),
        ("s * gone * allow", "gone", "bank", "allow bank"),
        ("s * @tag:own * allow", "gone", "bank", "deny no-match"),
    ]);
}

#[test]
fn targets_match_as_they_should() {
    check(&[
        ("s * * work allow", "bank", "uuid:11", "allow work"),
        ("s * * uuid:11 allow", "bank", "work", "allow work"),
        ("s * * dom0 allow", "bank", "@adminvm", "allow dom0"),
        ("s * * @adminvm allow", "bank", "dom0", "allow dom0"),
        (
            "s * * dom0 allow",
            "bank",
            "uuid:00000000-0000-0000-0000-000000000000",
            "allow dom0",
        ),
        ("s * * * allow", "work", "dom0", "allow dom0"),
        ("s * * @anyvm allow", "work", "dom0", "deny no-match"),
        (
            "s * * @anyvm allow",
            "work",
            "",
            "deny allow-without-target",
        ),
        ("s * * @anyvm allow target=bank", "work", "", "allow bank"),
        (
            "s * * @anyvm allow target=bank",
            "work",
            "gone",
            "allow bank",
        ),
        (
            "s * * @default allow target=bank",
            "work",
            "uuid:0",
            "allow bank",
        ),
        (
            "s * * @default allow target=bank",
            "work",
            "@default",
            "allow bank",
        ),
        (
            "s * * @default allow target=bank",
            "work",
            "dvm",
            "deny no-match",
        ),
        ("s * * gone allow", "work", "gone", "deny no-match"),
        ("s * * @tag:own allow", "work", "bank", "allow bank"),
        ("s * * @tag:own allow", "work", "dom0", "deny no-match"),
        (
            "s * * @type:AdminVM allow",
            "work",
            "@adminvm",
            "deny no-match",
        ),
        ("s * * @type:RemoteVM allow", "work", "far", "allow far"),
        ("s * * @tag:t allow", "work", "@dispvm:dvm", "deny no-match"),
        (
            "s * * @type:AppVM allow",
            "work",
            "@dispvm",
            "deny no-match",
        ),
        // Disposables.
        (
            "s * * @dispvm allow",
            "work",
            "@dispvm",
            "allow @dispvm:dvm",
        ),
        (
            "s * * @dispvm allow",
            "work",
            "@dispvm:dvm",
            "deny no-match",
        ),
        ("s * * @dispvm allow", "work", "", "deny no-match"),
        (
            "s * * @dispvm:dvm allow",
            "work",
            "@dispvm",
            "allow @dispvm:dvm",
        ),
        (
            "s * * @dispvm:dvm allow",
            "work",
            "@dispvm:uuid:44",
            "allow @dispvm:dvm",
        ),
        (
            "s * * @dispvm:uuid:44 allow",
            "work",
            "@dispvm:dvm",
            "allow @dispvm:dvm",
        ),
        (
            "s * * @dispvm:uuid:44 allow",
            "work",
            "@dispvm",
            "deny no-match",
        ),
        (
            "s * * @dispvm:dvm2 allow",
            "work",
            "@dispvm",
            "deny no-match",
        ),
        (
            "s * * @dispvm:dvm allow\ns * * * deny",
            "bare",
            "@dispvm",
            "deny rule-deny",
        ),
        (
            "s * * @dispvm:@tag:t allow",
            "work",
            "@dispvm",
            "allow @dispvm:dvm",
        ),
        (
            "s * * @dispvm:@tag:t allow",
            "work",
            "@dispvm:dvm2",
            "allow @dispvm:dvm2",
        ),
        (
            "s * * @dispvm:@tag:x allow",
            "work",
            "@dispvm:dvm2",
            "deny no-match",
        ),
        // A default that is no template: literally, and by no tag.
        (
            "s * * @dispvm allow",
            "bank",
            "@dispvm",
            "allow @dispvm:bank",
        ),
        (
            "s * * @dispvm:@tag:own allow",
            "bank",
            "@dispvm",
            "deny no-match",
        ),
        (
            "s * * @dispvm allow",
            "bare",
            "@dispvm",
            "deny no-default-dispvm",
        ),
        ("s * * @anyvm allow", "work", "@dispvm", "allow @dispvm:dvm"),
    ]);
}

#[test]
fn what_cannot_be_asked_for_is_denied_before_any_rule() {
    for target in [
        "*",
        "@anyvm",
        "@tag:own",
        "@type:AppVM",
        "@dispvm:@tag:t",
        "@dispvm:",
        "@",
        "@x",
    ] {
        check(&[(
            "s * * * allow target=bank",
            "work",
            target,
            "deny invalid-target-token",
        )]);
    }
    for target in [
        "@dispvm:gone",
        "@dispvm:work",
        "@dispvm:dom0",
        "@dispvm:uuid:11",
        "@dispvm:uuid:",
    ] {
        check(&[(
            "s * * * allow target=bank",
            "work",
            target,
            "deny not-a-dispvm-template",
        )]);
    }
}

#[test]
fn the_first_rule_of_service_and_argument_decides() {
    let facts = facts();
    for (rules, service, argument, expected) in [
        ("s * * * deny\ns +x * * allow", "s", "+x", "deny rule-deny"),
        ("s +x * * allow\ns * * * deny", "s", "+x", "allow bank"),
        (
            "s +x * * allow\ns * * * deny notify=no",
            "s",
            "+xx",
            "deny rule-deny quiet",
        ),
        ("s + * * allow", "s", "+", "allow bank"),
        ("s + * * allow", "s", "+x", "deny no-match"),
        ("s +X * * allow", "s", "+x", "deny no-match"),
        ("S * * * allow", "s", "+", "deny no-match"),
        ("s * * * allow", "s.t", "+", "deny no-match"),
        ("* * * * allow", "any.Thing", "+y", "allow bank"),
        ("", "s", "+", "deny no-match"),
    ] {
        let request = casemate_policy::Request {
            service,
            argument,
            ..request("work", "bank")
        };
        let decision = read(rules).expect("rules").decide(&request, &facts);
        assert_eq!(
            words(&decision),
            expected,
            "{service}{argument} by\n{rules}"
        );
    }
}

#[test]
fn an_allow_goes_where_it_says_or_is_denied() {
    check(&[
        (
            "s * * * allow user=root notify=yes",
            "work",
            "bank",
            "allow bank as root told",
        ),
        ("s * * * allow target=dvm", "work", "bank", "allow dvm"),
        ("s * * * allow target=uuid:44", "work", "bank", "allow dvm"),
        (
            "s * * * allow target=@adminvm",
            "work",
            "bank",
            "allow dom0",
        ),
        (
            "s * * * allow target=@dispvm",
            "work",
            "bank",
            "allow @dispvm:dvm",
        ),
        (
            "s * * * allow target=@dispvm",
            "bare",
            "bank",
            "deny no-default-dispvm",
        ),
        (
            "s * * * allow target=@dispvm:dvm2",
            "work",
            "bank",
            "allow @dispvm:dvm2",
        ),
        (
            "s * * * allow target=@dispvm:work",
            "bare",
            "bank",
            "deny not-a-dispvm-template",
        ),
        (
            "s * * * allow target=gone",
            "work",
            "bank",
            "deny allow-without-target",
        ),
        // A redirect is not judged again.
        (
            "s * * bank deny\ns * * * allow target=bank",
            "work",
            "dvm",
            "allow bank",
        ),
        // To itself, by any name.
        ("s * * * allow", "work", "work", "deny loopback"),
        ("s * * * allow", "work", "uuid:11", "deny loopback"),
        (
            "s * * * allow target=uuid:11",
            "work",
            "bank",
            "deny loopback",
        ),
        ("s * * * allow", "dom0", "@adminvm", "deny loopback"),
        // Without starting anything.
        (
            "s * * * allow autostart=no",
            "work",
            "dvm2",
            "allow dvm2 running",
        ),
        (
            "s * * * allow autostart=no",
            "work",
            "dom0",
            "allow dom0 running",
        ),
        (
            "s * * * allow autostart=no",
            "work",
            "bank",
            "deny autostart-forbidden quiet",
        ),
        (
            "s * * * allow autostart=no notify=yes",
            "work",
            "bank",
            "deny autostart-forbidden",
        ),
        (
            "s * * * allow autostart=no",
            "work",
            "bare",
            "deny autostart-forbidden quiet",
        ),
        (
            "s * * * allow autostart=no",
            "work",
            "@dispvm",
            "deny autostart-forbidden quiet",
        ),
        (
            "s * * * allow autostart=no",
            "work",
            "@dispvm:dvm2",
            "deny autostart-forbidden quiet",
        ),
        (
            "s * * * allow autostart=no target=@dispvm",
            "work",
            "dvm2",
            "deny autostart-forbidden quiet",
        ),
    ]);
}

#[test]
fn a_question_offers_what_rules_let_through() {
    let all = "@dispvm:dvm @dispvm:dvm2 bank bare disp1 dvm dvm2 far mute relay";
    let any = format!("ask {all}");
    let any: &'static str = any.leak();
    let every: &'static str = format!("ask dom0 {all}").leak();
    check(&[
        ("s * * @anyvm ask", "work", "", any),
        // What was asked for is neither the only choice nor the first one.
        ("s * * @anyvm ask", "work", "bank", any),
        ("s * * * ask", "work", "", every),
        ("s * * bank ask", "work", "bank", "ask bank"),
        (
            "s * * uuid:22 ask\ns * * bank ask",
            "work",
            "bank",
            "ask bank",
        ),
        ("s * * @tag:own ask", "work", "bank", "ask bank"),
        ("s * * @type:DispVM ask", "work", "disp1", "ask disp1"),
        ("s * * @tag:t ask", "work", "dvm", "ask dvm dvm2"),
        (
            "s * * @dispvm:@tag:t ask",
            "work",
            "@dispvm",
            "ask @dispvm:dvm @dispvm:dvm2",
        ),
        ("s * * @dispvm ask", "work", "@dispvm", "ask @dispvm:dvm"),
        ("s * * @dispvm ask", "bank", "@dispvm", "ask @dispvm:bank"),
        (
            "s * * @dispvm ask",
            "bare",
            "@dispvm",
            "deny ask-without-targets",
        ),
        ("s * * @default ask", "work", "", "deny ask-without-targets"),
        (
            "s * * @default ask\ns * * bank allow",
            "work",
            "",
            "ask bank",
        ),
        (
            "s * * @default ask\ns * * bank allow target=bare",
            "work",
            "",
            "ask bare",
        ),
        (
            "s * * @default ask\ns * * bank ask target=@dispvm",
            "work",
            "",
            "ask @dispvm:dvm",
        ),
        ("s * * @default ask\ns * * dom0 ask", "work", "", "ask dom0"),
        // A rule for another caller, service or argument offers nothing.
        (
            "s * * @default ask\ns * bare bank ask",
            "work",
            "",
            "deny ask-without-targets",
        ),
        (
            "s * * @default ask\nt * * bank ask\ns +x * bank ask",
            "work",
            "",
            "deny ask-without-targets",
        ),
        // Denies take away what rules behind them offer, in every spelling.
        (
            "s * * @default ask\ns * * bank deny\ns * * @tag:own ask\ns * * bare ask",
            "work",
            "",
            "ask bare",
        ),
        (
            "s * * @default ask\ns * * @tag:own ask\ns * * bank deny",
            "work",
            "",
            "ask bank",
        ),
        (
            "s * * @dispvm deny\ns * * @anyvm ask",
            "disp1",
            "",
            "ask @dispvm:dvm bank bare dvm dvm2 far mute relay work",
        ),
        (
            "s * * @dispvm:dvm deny\ns * * @dispvm ask",
            "work",
            "@dispvm",
            "deny rule-deny",
        ),
        (
            "s * * @dispvm:dvm deny\ns * * @default ask\ns * * @dispvm ask",
            "work",
            "",
            "deny ask-without-targets",
        ),
        (
            "s * * @dispvm:@tag:t deny\ns * * @default ask\ns * * @dispvm ask\ns * * bank ask",
            "work",
            "",
            "ask bank",
        ),
        (
            "s * * @default ask\ns * * @dispvm:gone ask\ns * * gone ask\ns * * bank ask",
            "work",
            "",
            "ask bank",
        ),
        // Hidden VMs and the caller are no choice.
        (
            "s * * hidden ask",
            "work",
            "hidden",
            "deny ask-without-targets",
        ),
        (
            "s * * @dispvm:hidvm ask",
            "work",
            "@dispvm:hidvm",
            "deny ask-without-targets",
        ),
        ("s * * work ask", "work", "work", "deny ask-without-targets"),
        // Of the rule that matched, not of those that offer.
        (
            "s * * @default ask user=u notify=yes\ns * * bank ask user=x",
            "work",
            "",
            "ask bank as u told",
        ),
        (
            "s * * @default ask\ns * * bank allow autostart=no user=x",
            "work",
            "",
            "ask bank",
        ),
        (
            "s * * @anyvm ask autostart=no",
            "work",
            "",
            "ask disp1 dvm2 far mute relay running",
        ),
        (
            "s * * * ask autostart=no",
            "bare",
            "",
            "ask dom0 disp1 dvm2 far mute relay work running",
        ),
        (
            "s * * @dispvm ask autostart=no",
            "work",
            "@dispvm",
            "deny ask-without-targets",
        ),
    ]);
}

#[test]
fn a_question_with_a_target_has_that_choice() {
    check(&[
        ("s * * * ask target=bank", "work", "", "ask bank"),
        ("s * * * ask target=uuid:22", "work", "", "ask bank"),
        ("s * * * ask target=@adminvm", "work", "bank", "ask dom0"),
        ("s * * * ask target=@dispvm", "work", "", "ask @dispvm:dvm"),
        (
            "s * * * ask target=@dispvm",
            "bare",
            "",
            "deny ask-without-targets",
        ),
        (
            "s * * * ask target=gone",
            "work",
            "",
            "deny ask-without-targets",
        ),
        (
            "s * * * ask target=@dispvm:work",
            "work",
            "",
            "deny ask-without-targets",
        ),
        (
            "s * * * ask target=work",
            "work",
            "",
            "deny ask-without-targets",
        ),
        (
            "s * * * ask target=bank autostart=no",
            "work",
            "",
            "deny ask-without-targets",
        ),
        (
            "s * * bank deny\ns * * * ask target=bank",
            "work",
            "dvm",
            "ask bank",
        ),
        // What is selected at first, if it can be chosen.
        (
            "s * * @tag:own ask default_target=bank",
            "work",
            "bank",
            "ask bank first bank",
        ),
        (
            "s * * @tag:own ask default_target=uuid:22",
            "work",
            "bank",
            "ask bank first bank",
        ),
        (
            "s * * @tag:own ask default_target=bare",
            "work",
            "bank",
            "ask bank",
        ),
        (
            "s * * @tag:own ask default_target=gone",
            "work",
            "bank",
            "ask bank",
        ),
        (
            "s * * @tag:own ask default_target=dom0",
            "work",
            "bank",
            "ask bank",
        ),
        (
            "s * * @dispvm:dvm ask default_target=@dispvm",
            "work",
            "@dispvm",
            "ask @dispvm:dvm first @dispvm:dvm",
        ),
        (
            "s * * * ask target=dom0 default_target=@adminvm",
            "work",
            "",
            "ask dom0 first dom0",
        ),
    ]);
}

#[test]
fn a_relay_speaks_for_its_remote_vms_only() {
    let facts = facts();
    let policy = read("s * far bank allow\ns * relay bank deny notify=no").expect("rules");
    for (source, remote, target, expected) in [
        ("relay", "far", "bank", "allow bank"),
        ("relay", "uuid:aa", "bank", "allow bank"),
        ("uuid:99", "far", "bank", "allow bank"),
        ("relay", "mute", "bank", "deny no-match"),
        ("work", "far", "bank", "deny invalid-requested-source"),
        ("far", "far", "bank", "deny invalid-requested-source"),
        ("relay", "work", "bank", "deny invalid-requested-source"),
        ("relay", "gone", "bank", "deny invalid-requested-source"),
        ("relay", "dom0", "bank", "deny invalid-requested-source"),
        ("dom0", "far", "bank", "deny invalid-requested-source"),
        ("relay", "", "bank", "deny invalid-requested-source"),
        ("relay", "far", "@anyvm", "deny invalid-target-token"),
    ] {
        let decision = policy.decide_relayed(&request(source, target), remote, &facts);
        assert_eq!(
            words(&decision),
            expected,
            "{source} for {remote} -> {target}"
        );
    }
    let via = |name: &str| {
        let target = casemate_policy::Destination::Vm(name.to_owned());
        let request = casemate_policy::Request {
            argument: "+arg",
            ..request("work", name)
        };
        facts
            .via(&target, &request)
            .map(|via| (via.target, via.service))
    };
    let expected = ("relay".to_owned(), "x.Carry+far+s+arg".to_owned());
    assert_eq!(via("far"), Some(expected));
    assert_eq!((via("mute"), via("bank")), (None, None));
}
