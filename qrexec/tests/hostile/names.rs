//! Services, arguments, targets and sources that are none, or another's.

use casemate_qrexec_wire::ToAgent;

use crate::house::{Agent, Broker};

/// What becomes of a call.
enum Fate {
    /// Judged and run under this name.
    Runs(&'static str),
    /// Refused, with this reason on record.
    Refused(&'static str),
}

use Fate::{Refused, Runs};

const EMPTY: &str = "the service name is empty";
const NUL: &str = "the service name holds a NUL";
const DIRECTORY: &str = "'.' and '..' are not service names";

fn services() -> Vec<(Vec<u8>, Fate)> {
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        (text(""), Refused(EMPTY)),
        (text("+"), Refused(EMPTY)),
        (text("+arg"), Refused(EMPTY)),
        (text("++"), Refused(EMPTY)),
        (text("a+"), Runs("a+")),
        (text(".."), Refused(DIRECTORY)),
        (text("."), Refused(DIRECTORY)),
        (text("..+x"), Refused(DIRECTORY)),
        (text("..."), Runs("...+")),
        (text("a/b"), Runs("a_b+")),
        (text("/abs"), Runs("_abs+")),
        (text("../a"), Runs(".._a+")),
        (b"a\0b".to_vec(), Refused(NUL)),
        (b"a\0".to_vec(), Refused(NUL)),
        (b"\0".to_vec(), Refused(NUL)),
        (text("a\nb"), Runs("a_b+")),
        (text("a b c d"), Runs("a_b_c_d+")),
        (text("$HOME"), Runs("_HOME+")),
        (text("`id`"), Runs("_id_+")),
        (text("%s%n"), Runs("_s_n+")),
        (text("é"), Runs("__+")),
        (text("\u{202e}evil"), Runs("___evil+")),
        (b"\xff\xfe".to_vec(), Runs("__+")),
        (text("a "), Runs("a_+")),
        (text("A"), Runs("A+")),
        (text("qubes.filecopy"), Runs("qubes.filecopy+")),
        // Arguments, of the same kinds.
        (text("s++"), Runs("s++")),
        (text("s+a+b"), Runs("s+a+b")),
        (text("s+../../x"), Runs("s+.._.._x")),
        (text("s+/etc/passwd"), Runs("s+_etc_passwd")),
        (text("s+-rf"), Runs("s+-rf")),
        (text("s+--"), Runs("s+--")),
        (text("s+*"), Runs("s+_")),
        (text("s+@anyvm"), Runs("s+_anyvm")),
        (text("s+a\nb"), Runs("s+a_b")),
        (text("s+$(id)"), Runs("s+__id_")),
        (b"s+\0".to_vec(), Refused(NUL)),
        (text("s+\u{202e}"), Runs("s+___")),
    ]
}

#[test]
fn services_and_arguments_are_made_harmless_or_refused_and_run_as_judged() {
    let broker = Broker::start("* * work vault allow notify=no\n", &[]);
    let mut work = Agent::start(&broker, 3, 4);
    let mut vault = Agent::start(&broker, 4, 4);
    for (number, (service, fate)) in services().into_iter().enumerate() {
        let ident = format!("S{number}");
        work.trigger(&ident, "vault", &service);
        let what = String::from_utf8_lossy(&service).into_owned();
        match fate {
            Runs(name) => {
                let (_, command) = vault.executes();
                assert_eq!(command, format!("DEFAULT:QUBESRPC {name} work"), "{what:?}");
                work.connects(&ident);
                let decision = broker.decision(number);
                assert_eq!(decision["service"], name, "{what:?}");
            }
            Refused(reason) => {
                work.is_refused(&ident);
                let decision = broker.decision(number);
                assert_eq!(decision["reason"], reason, "{what:?}");
            }
        }
    }
}

#[test]
fn names_have_a_length_and_long_ones_are_cut_on_record_only() {
    let broker = Broker::start("* * work vault allow notify=no\n", &[]);
    let mut work = Agent::start(&broker, 3, 4);
    let mut vault = Agent::start(&broker, 4, 4);
    // The name is a file name, 255 bytes; all of it has 64,999 beside its NUL. A `+` is appended where there is none.
    let rows = [
        (254, 0, true),
        (255, 0, true),
        (256, 0, false),
        (1, 1024, true),
        (1, 64_996, true),
        (1, 64_997, true),
        (255, 64_743, true),
    ];
    for (number, (name, argument, runs)) in rows.into_iter().enumerate() {
        let mut service = vec![b'n'; name];
        if argument > 0 {
            service.push(b'+');
            service.extend(vec![b'a'; argument]);
        }
        let ident = format!("L{number}");
        work.trigger(&ident, "vault", &service);
        if runs {
            let (_, command) = vault.executes();
            let plus = usize::from(argument == 0);
            let text = "DEFAULT:QUBESRPC  work".len();
            assert_eq!(
                command.len(),
                text + service.len() + plus,
                "{name} {argument}"
            );
            work.connects(&ident);
        } else {
            work.is_refused(&ident);
        }
        let decision = broker.decision(number);
        let recorded = decision["service"].as_str().unwrap();
        assert!(recorded.len() <= 256 + 3, "{name} {argument}");
    }
    // 65,000 bytes with the NUL are the most that a frame holds; with one more it is none.
    work.trigger("L9", "vault", &vec![b'n'; 64_999]);
    work.is_refused("L9");
    let mut frame = 0x213_u32.to_le_bytes().to_vec();
    frame.extend(65_161_u32.to_le_bytes());
    work.bytes(&frame);
    assert_eq!(work.next(), None);
}

#[test]
fn targets_are_looked_up_and_never_guessed() {
    // Whatever exists may be called, and nothing else.
    let broker = Broker::start("s * @anyvm @anyvm allow notify=no\n", &[]);
    let mut work = Agent::start(&broker, 3, 4);
    let mut vault = Agent::start(&broker, 4, 4);
    let rows = [
        ("vault", Ok(())),
        ("uuid:2", Ok(())),
        ("", Err("deny")),
        ("@default", Err("deny")),
        ("work", Err("deny")),
        ("uuid:1", Err("deny")),
        ("dom0", Err("deny")),
        ("@adminvm", Err("deny")),
        ("@anyvm", Err("deny")),
        ("@type:AppVM", Err("deny")),
        ("@tag:x", Err("deny")),
        ("@dispvm:vault", Err("deny")),
        ("@dispvm:nowhere", Err("deny")),
        ("@dispvm:", Err("deny")),
        ("@dispvm:@tag:x", Err("deny")),
        ("nowhere", Err("deny")),
        ("Vault", Err("deny")),
        ("VAULT", Err("deny")),
        ("vault.", Err("deny")),
        ("vault ", Err("deny")),
        (" vault", Err("deny")),
        ("vault\n", Err("deny")),
        ("va\u{fc}lt", Err("deny")),
        ("v\u{430}ult", Err("deny")),
        ("uuid:3x", Err("deny")),
        ("uuid:", Err("deny")),
        ("$default", Err("deny")),
        ("@@default", Err("deny")),
        ("../vault", Err("deny")),
        (&"v".repeat(63), Err("deny")),
        // There is one of this name, but nobody has attached it; disposables need a supervisor.
        ("halted", Err("failed")),
        ("@dispvm", Err("failed")),
        ("@dispvm:tpl", Err("failed")),
    ];
    for (number, (target, fate)) in rows.into_iter().enumerate() {
        let ident = format!("T{number}");
        work.trigger(&ident, target, b"s");
        match fate {
            Ok(()) => {
                let (_, command) = vault.executes();
                assert_eq!(command, "DEFAULT:QUBESRPC s+ work", "{target:?}");
                work.connects(&ident);
                assert_eq!(broker.decision(number)["target"], "vault", "{target:?}");
            }
            Err(result) => {
                work.is_refused(&ident);
                let decision = broker.decision(number);
                assert_eq!(decision["result"], result, "{target:?}: {decision}");
            }
        }
    }
}

#[test]
fn who_calls_is_known_from_the_stream() {
    let policy = "s * work vault allow\ns * vault work allow\n* * @anyvm @anyvm deny\n";
    let broker = Broker::start(policy, &[]);
    let mut work = Agent::start(&broker, 3, 4);
    let mut vault = Agent::start(&broker, 4, 4);
    let rows = [
        ("", true),
        ("work", true),
        ("vault", false),
        ("dom0", false),
        ("@adminvm", false),
        ("uuid:2", false),
        ("remote", false),
        ("Work", false),
        ("work ", false),
    ];
    for (number, (claimed, runs)) in rows.into_iter().enumerate() {
        let ident = format!("C{number}");
        work.trigger_as(claimed, &ident, "vault", b"s");
        if runs {
            let (_, command) = vault.executes();
            assert_eq!(command, "DEFAULT:QUBESRPC s+ work", "{claimed:?}");
            work.connects(&ident);
        } else {
            work.is_refused(&ident);
        }
        let decision = broker.decision(2 * number);
        assert_eq!(decision["source"], "work", "{claimed:?}");
        assert_eq!(decision["result"] == "allow", runs, "{claimed:?}");
        // What it may not do as itself it may not do as another.
        work.trigger_as(claimed, "N", "work", b"s");
        work.is_refused("N");
        assert_eq!(broker.decision(2 * number + 1)["source"], "work");
    }
    // The ident that another VM's caller has means nothing here.
    work.trigger("SAME", "vault", b"s");
    vault.executes();
    vault.trigger("SAME", "work", b"s");
    work.connects("SAME");
    assert!(matches!(work.next(), Some(ToAgent::Execute(..))));
    vault.connects("SAME");
}

/// Whatever a VM writes as its service, target or source, audit log and journal are lines of plain text.
#[test]
fn nothing_that_a_vm_writes_reaches_the_records_as_it_is() {
    let broker = Broker::start("s* * work vault allow notify=no\n", &[]);
    let mut work = Agent::start(&broker, 3, 4);
    let mut calls = 0;
    let mut call = |source: &[u8], target: &[u8], service: &[u8]| {
        calls += 1;
        let ident = format!("R{calls}");
        // The fields as they are, not as our codec would have them.
        let mut body = [[0; 64], [0; 64]].concat();
        body[..source.len()].copy_from_slice(source);
        body[64..][..target.len()].copy_from_slice(target);
        body.extend_from_slice(&[0; 32]);
        body[128..][..ident.len()].copy_from_slice(ident.as_bytes());
        body.extend_from_slice(service);
        body.push(0);
        let mut frame = 0x213_u32.to_le_bytes().to_vec();
        frame.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        frame.extend(body);
        work.bytes(&frame);
        work.is_refused(&ident);
    };
    for first in (1..=255_u8).step_by(6) {
        let bytes: Vec<u8> = (first..=first.saturating_add(5)).collect();
        call(b"", b"vault", &[&b"x"[..], &bytes].concat());
        call(b"", &bytes, b"s");
        call(&bytes, b"vault", b"s");
    }
    let lines = "a\n{\"result\":\"allow\",\"source\":\"dom0\"}\r\n2026-01-01T00:00:00Z INFO call"
        .as_bytes();
    let escapes = "\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}31m\u{202e}\u{2066}\u{e0001}".as_bytes();
    for bytes in [lines, escapes] {
        call(b"", b"vault", bytes);
        let field = &bytes[..bytes.len().min(63)];
        call(b"", field, b"s");
        call(field, b"vault", b"s");
    }
    let audit = broker.audit();
    assert_eq!(audit.len(), calls);
    assert!(audit.iter().all(|line| line["source"] == "work"));
    for name in ["audit.jsonl", "log"] {
        let text = std::fs::read(broker.path().join(name)).unwrap();
        let plain = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n');
        let odd = text.iter().position(|byte| !plain(byte));
        let place = odd.map(|at| String::from_utf8_lossy(&text[at.saturating_sub(80)..at]));
        assert_eq!(place, None, "{name}");
    }
    let log = std::fs::read_to_string(broker.path().join("log")).unwrap();
    assert!(log.lines().count() >= calls, "each call is a line");
    assert!(!log.lines().any(|line| line.starts_with('{')), "{log}");
}
