//! Service scripts and policy files as Qubes OS users have them, taken as they are: a script that reads its input and
//! `QREXEC_*`, rules with `@tag`, `@type`, `@dispvm`. Leaves the whole conversation as `services.txt`.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use casemate_lab::wire::Exit;

use crate::demo::Story;
use crate::demo::house::{House, LONG};
use crate::demo::report::Report;

/// The service, as a package would put it into a VM.
const SERVICE: &str = "demo.Ask";
const SCRIPT: &str = r#"#!/bin/sh
# What a service of Qubes OS sees: who calls, what for, and what it says on standard input.
read -r line
echo "$(hostname) as $(id -un): $QREXEC_REMOTE_DOMAIN called $QREXEC_SERVICE_FULL_NAME"
echo "argument '${QREXEC_SERVICE_ARGUMENT-none}' = '${1-none}', said '$line'"
case $QREXEC_SERVICE_ARGUMENT in fail) exit 42;; esac
"#;
const INSTALL: &str = "mkdir -p /usr/local/etc/qubes-rpc; cd /usr/local/etc/qubes-rpc; \
                       cat > demo.Ask; chmod 755 demo.Ask";

const POLICY_FILE: &str = ".config/casemate/policy.d/20-services.policy";
const POLICY: &str = "\
# service        argument  source       target       action
demo.Ask         +secret   @anyvm       @anyvm       deny
demo.Ask         *         @tag:guest   @tag:office  allow
demo.Ask         *         @tag:office  @type:AppVM  allow user=root
qubes.VMShell    *         @tag:office  @dispvm      allow
";

/// A call: from where, to where, what, what is said; the answer and its code. `*` stands for any word.
struct Call {
    source: &'static str,
    target: &'static str,
    service: &'static str,
    input: &'static str,
    code: i32,
    answer: &'static str,
    /// Line of the rule that decides, counted from 1.
    line: u32,
}

const CALLS: [Call; 5] = [
    Call {
        source: "untrusted",
        target: "work",
        service: "demo.Ask+time",
        input: "what time is it",
        code: 0,
        answer: "work as user: untrusted called demo.Ask+time\n\
                 argument 'time' = 'time', said 'what time is it'\n",
        line: 3,
    },
    Call {
        source: "untrusted",
        target: "work",
        service: "demo.Ask+fail",
        input: "please",
        code: 42,
        answer: "work as user: untrusted called demo.Ask+fail\n\
                 argument 'fail' = 'fail', said 'please'\n",
        line: 3,
    },
    Call {
        source: "untrusted",
        target: "work",
        service: "demo.Ask+secret",
        input: "please",
        code: 126,
        answer: "",
        line: 2,
    },
    Call {
        source: "work",
        target: "untrusted",
        service: "demo.Ask",
        input: "who are you",
        code: 0,
        answer: "untrusted as root: work called demo.Ask+\n\
                 argument '' = 'none', said 'who are you'\n",
        line: 4,
    },
    Call {
        source: "work",
        target: "@dispvm",
        service: "qubes.VMShell",
        input: "echo $(hostname): $QREXEC_REMOTE_DOMAIN",
        code: 0,
        answer: "disp*: work\n",
        line: 5,
    },
];

pub(super) fn unmodified(story: &mut Story, report: &mut Report) -> Result<String> {
    let house = story.house()?;
    let mut transcript = String::new();
    for (vm, tag) in [("work", "office"), ("untrusted", "guest")] {
        let words = ["tag", "add", vm, tag];
        let said = house.say(&words, LONG)?;
        write!(transcript, "$ casemate {}\n{said}", words.join(" "))?;
        let words = [
            "casemate", "run", "--user", "root", vm, "--", "sh", "-c", INSTALL,
        ];
        let install = house.lab.command("user", &words).stdin(SCRIPT);
        install.timeout(LONG).run()?.check()?;
    }
    house.put(POLICY_FILE, POLICY.as_bytes())?;
    write!(
        transcript,
        "\n$ cat {POLICY_FILE}\n{POLICY}\n$ cat /usr/local/etc/qubes-rpc/{SERVICE}    # in both VMs\n{SCRIPT}\n"
    )?;
    for call in &CALLS {
        make(&house, call, &mut transcript)
            .with_context(|| format!("the conversation so far:\n{transcript}"))?;
    }
    let path = report.folder().join("services.txt");
    fs::write(&path, transcript).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(format!(
        "{} calls of an unmodified script by rules with @tag, @type, @dispvm, target and account as told; services.txt",
        CALLS.len()
    ))
}

fn make(house: &House<'_>, call: &Call, transcript: &mut String) -> Result<()> {
    let Call {
        source,
        target,
        service,
        input,
        ..
    } = call;
    let line = format!("echo '{input}' | qrexec-client-vm {target} {service}");
    let output = house.casemate(&["run", source, "--", "sh", "-c", &line], LONG)?;
    let decision = house
        .decisions()?
        .into_iter()
        .rev()
        .find(|decision| decision.source == *source && decision.service.starts_with(service));
    let rule = decision.map_or_else(
        || "no decision in the audit".to_owned(),
        |decision| format!("{} by {}", decision.result, decision.rule),
    );
    writeln!(
        transcript,
        "$ casemate run {source} -- sh -c \"{line}\"\n{}{}[{:?}; audit: {rule}]\n",
        output.text(),
        output.errors(),
        output.exit
    )?;
    ensure!(
        output.exit == Exit::Code(call.code),
        "it ended with {:?}, not {}",
        output.exit,
        call.code
    );
    ensure!(
        matches(call.answer, &output.text()),
        "the answer is not {:?}",
        call.answer
    );
    let place = format!("20-services.policy:{}", call.line);
    ensure!(rule.ends_with(&place), "the rule is not {place}");
    Ok(())
}

/// Whether a text is as expected, where `*` is any number of letters and digits.
fn matches(expected: &str, text: &str) -> bool {
    match expected.split_once('*') {
        None => expected == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            after == rest.trim_start_matches(|letter: char| letter.is_ascii_alphanumeric())
        }),
    }
}
