//! Either end of a call killed at every stage of it: the tool, the agent of the caller, that of the service, the broker.
//! Whoever is left ends with the code that it should, nothing stays live, no service and no socket is left behind.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
};

use crate::{
    house::{Broker, until},
    services::{Real, code},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The person is asked.
    Asked,
    /// The service runs; nothing was said.
    Started,
    /// Words went both ways.
    Talking,
    /// The service has read the end of its input.
    InputEnded,
    /// The service has closed its output.
    OutputEnded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Tool,
    Caller,
    Service,
    Broker,
}

use Stage::{Asked, InputEnded, OutputEnded, Started, Talking};
use Victim::{Caller, Service, Tool};

const STAGES: [Stage; 5] = [Asked, Started, Talking, InputEnded, OutputEnded];
const VICTIMS: [Victim; 4] = [Tool, Caller, Service, Victim::Broker];

/// The exit code of the tool, unless it is the victim.
fn expected(stage: Stage, victim: Victim) -> Option<i32> {
    match (stage, victim) {
        (_, Tool) => None,
        // There was no answer yet: a refusal. The person says no where there is still somebody to be told.
        (Asked, _) => Some(126),
        // The data stream has lost its other end before the exit code.
        (_, Service) => Some(255),
        // The stream is between the tool and the service's agent: it outlives everybody else.
        (_, Caller | Victim::Broker) => Some(3),
    }
}

const SERVICE: &str = "\
echo $$ > pid
echo started
read line || exit 4
echo \"heard $line\"
[ ! -e closes ] || { exec >&-; echo > closed; }
cat > /dev/null
echo > eof
until [ -e go ]; do [ -e pid ] || exit 5; sleep 0.02; done
exit 3
";

#[test]
fn whoever_is_killed_at_any_stage_leaves_the_others_well() {
    for stage in STAGES {
        for victim in VICTIMS {
            kill(stage, victim);
        }
    }
}

fn start() -> Real {
    let policy = "s * work vault ask default_target=vault notify=no\n";
    Real::start(Broker::prepared(policy, |dir| {
        let program = dir.join("person");
        let text = format!(
            "#!/bin/sh\ncd {dir}\ncat > /dev/null\necho > asked\nuntil [ -e answer ]; do [ -e asked ] || exit; sleep 0.02; done\ncat answer\n",
            dir = dir.display()
        );
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        vec!["--ask-command".to_owned(), program.display().to_string()]
    }))
}

fn answer(real: &Real, words: &str) {
    let new = real.path("answer.new");
    fs::write(&new, words).unwrap();
    fs::rename(new, real.path("answer")).unwrap();
}

fn kill(stage: Stage, victim: Victim) {
    let mut real = start();
    real.service("s", SERVICE);
    if stage == OutputEnded {
        fs::write(real.path("closes"), "").unwrap();
    }
    let mut tool = real.call("s");
    let mut stdin = tool.stdin.take();
    let mut stdout = BufReader::new(tool.stdout.take().unwrap());
    let mut hear = |expected: &str| {
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, expected, "{stage:?} {victim:?}");
    };
    real.exists("asked");
    if stage != Asked {
        answer(&real, "allow:vault");
        hear("started\n");
    }
    if matches!(stage, Talking | InputEnded | OutputEnded) {
        stdin.as_mut().unwrap().write_all(b"words\n").unwrap();
        hear("heard words\n");
    }
    match stage {
        InputEnded => {
            drop(stdin.take());
            real.exists("eof");
        }
        OutputEnded => real.exists("closed"),
        _ => {}
    }

    let process = match victim {
        Tool => &mut tool,
        Caller => &mut real.work,
        Service => &mut real.vault,
        Victim::Broker => &mut real.broker.child,
    };
    process.kill().unwrap();
    process.wait().unwrap();

    if stage == Asked {
        answer(&real, "deny");
    }
    let expected = expected(stage, victim);
    if expected == Some(3) {
        // It goes on as if nothing had happened.
        if let Some(mut stdin) = stdin.take() {
            stdin.write_all(b"words\n").unwrap();
        }
        fs::write(real.path("go"), "").unwrap();
    }
    if victim != Tool {
        assert_eq!(code(&mut tool), expected, "{stage:?} {victim:?}");
    }
    drop(stdin);
    if stage != Asked {
        // Nobody is left to tell a service whose agent was killed, but that its input ends.
        if victim == Service {
            fs::write(real.path("go"), "").unwrap();
        }
        real.is_gone("pid");
    }
    if victim != Victim::Broker {
        real.broker.idle();
    }
    until("the end of all data sockets", || {
        real.broker.sockets() == [] as [PathBuf; 0]
    });
}
