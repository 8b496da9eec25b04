//! Real agents and their tools: services that crash, stop, flood, close early.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use crate::{
    agent::agent_program,
    house::{Broker, until},
};

/// The broker with the agents of work and vault, all as processes.
pub(crate) struct Real {
    pub(crate) broker: Broker,
    pub(crate) work: Child,
    pub(crate) vault: Child,
    agent: PathBuf,
}

impl Drop for Real {
    fn drop(&mut self) {
        for child in [&mut self.work, &mut self.vault] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Real {
    pub(crate) fn start(broker: Broker) -> Self {
        let agent = agent_program();
        for name in ["rpc", "rpc-config"] {
            fs::create_dir(broker.path().join(name)).unwrap();
        }
        let who = Command::new("id").arg("-un").output().unwrap();
        let user = String::from_utf8(who.stdout).unwrap();
        let start = |name: &str, id: &str| {
            Command::new(&agent)
                .arg("--vchan-dir")
                .arg(broker.path())
                .args(["--domain", id, "--user", user.trim()])
                .arg("--agent-socket")
                .arg(broker.path().join(name))
                .arg("--rpc-path")
                .arg(broker.path().join("rpc"))
                .arg("--rpc-config-path")
                .arg(broker.path().join("rpc-config"))
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        };
        let (work, vault) = (start("work", "3"), start("vault", "4"));
        for name in ["qrexec.vault", "work", "vault"] {
            until(name, || broker.path().join(name).exists());
        }
        Self {
            broker,
            work,
            vault,
            agent,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.broker.path().join(name)
    }

    pub(crate) fn service(&self, name: &str, text: &str) {
        let path = self.path("rpc").join(name);
        fs::write(
            &path,
            format!("#!/bin/sh\ncd '{}'\n{text}", self.broker.path().display()),
        )
        .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A tool in the VM work that calls a service of vault.
    pub(crate) fn call(&self, service: &str) -> Child {
        Command::new(&self.agent)
            .args(["qrexec-client-vm", "vault", service])
            .env("VCHAN_SOCKET_DIR", self.broker.path())
            .env("VCHAN_DOMAIN", "3")
            .env("CASEMATE_AGENT_SOCKET", self.path("work"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// A client of the host that runs a command in vault.
    pub(crate) fn host(&self, command: &str) -> Child {
        Command::new(env!("CARGO_BIN_EXE_casemate-qrexec"))
            .args(["call-vchan", "--vchan-dir"])
            .arg(self.broker.path())
            .args(["vault", command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    pub(crate) fn exists(&self, name: &str) {
        until(name, || self.path(name).exists());
    }

    /// Returns when the process whose number a service wrote down has gone.
    pub(crate) fn is_gone(&self, name: &str) {
        let pid = fs::read_to_string(self.path(name)).unwrap();
        let stat = format!("/proc/{}/stat", pid.trim());
        until("the end of a service", || {
            // One that nobody has waited for yet has ended all the same.
            fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "))
        });
    }
}

const ALLOW: &str = "* * work vault allow notify=no\n* * @anyvm @anyvm deny\n";

pub(crate) fn code(child: &mut Child) -> Option<i32> {
    let mut status = None;
    until("the end of a client", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap().code()
}

#[test]
fn services_that_misbehave_end_their_call_and_nothing_else() {
    let real = Real::start(Broker::start(ALLOW, &[]));
    // What the service does, and the exit code of its caller.
    let rows = [
        ("kill -9 $$", 137),
        ("kill -SEGV $$", 139),
        ("exec >&-; exit 5", 5),
        ("exec >&- 2>&-; exit 6", 6),
        ("exec <&-; exit 7", 7),
        ("exit 255", 255),
        ("echo out; echo err >&2; exit 8", 8),
        // A child of its own keeps the streams for a moment longer.
        ("(echo late) & exit 9", 9),
        ("head -c 10000000 /dev/zero; exit 10", 10),
    ];
    for (number, (does, expected)) in rows.into_iter().enumerate() {
        let name = format!("s{number}");
        real.service(&name, does);
        let mut tool = real.call(&name);
        drop(tool.stdin.take());
        let mut output = Vec::new();
        tool.stdout
            .take()
            .unwrap()
            .read_to_end(&mut output)
            .unwrap();
        assert_eq!(code(&mut tool), Some(expected), "{does}");
    }
    let mut tool = real.call("absent");
    assert_eq!(code(&mut tool), Some(127));
    let mut tool = real.call("..");
    assert_eq!(code(&mut tool), Some(126));
    real.broker.idle();
    assert_eq!(real.broker.sockets(), [] as [PathBuf; 0]);
}

#[test]
fn a_service_that_was_stopped_gives_its_slot_back_when_its_caller_goes() {
    let real = Real::start(Broker::start(ALLOW, &[]));
    real.service("stops", "echo $$ > pid; kill -STOP $$; cat");
    let mut tool = real.call("stops");
    real.exists("pid");
    until("a live call", || {
        let calls = real.broker.calls();
        calls.len() == 1 && calls[0].state == "running"
    });
    tool.kill().unwrap();
    tool.wait().unwrap();
    // A process that is stopped hears of its end when it is continued; the call is over before that.
    let pid = fs::read_to_string(real.path("pid")).unwrap();
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    real.is_gone("pid");
    real.broker.idle();
}

/// Services that would go on for ever, each in more calls than one; their callers read nothing, and go.
#[test]
fn services_without_end_give_all_their_slots_back() {
    const EACH: usize = 8;
    let real = Real::start(Broker::start(ALLOW, &[]));
    let rows = [
        "yes",
        "head -c 10737418240 /dev/zero",
        "exec >&-; exec sleep 1000",
        "exec >&- 2>&-; exec sleep 1000",
        "exec <&-; exec sleep 1000",
        "cat > /dev/null; exec sleep 1000",
        "(sleep 1000 &); exec sleep 1000",
        "kill -STOP $$",
    ];
    let mut tools = Vec::new();
    for (number, does) in rows.into_iter().enumerate() {
        let name = format!("s{number}");
        real.service(&name, &format!("echo $$ >> pids\n{does}"));
        tools.extend((0..EACH).map(|_| real.call(&name)));
    }
    let all = EACH * rows.len();
    let pids = || fs::read_to_string(real.path("pids")).unwrap_or_default();
    until("all services", || pids().lines().count() == all);
    until("all calls", || {
        let calls = real.broker.calls();
        calls.iter().filter(|call| call.state == "running").count() == all
    });
    // One more is served as if they were not there.
    real.service("well", "cat; exit 3");
    let mut tool = real.call("well");
    tool.stdin.take().unwrap().write_all(b"words").unwrap();
    let mut output = String::new();
    let mut stdout = tool.stdout.take().unwrap();
    stdout.read_to_string(&mut output).unwrap();
    assert_eq!((output.as_str(), code(&mut tool)), ("words", Some(3)));

    for mut tool in tools {
        tool.kill().unwrap();
        tool.wait().unwrap();
    }
    real.broker.idle();
    assert_eq!(real.broker.sockets(), [] as [PathBuf; 0]);
    for pid in pids().lines() {
        let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
        // One that is stopped hears of its end when it is continued; most have gone.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
        fs::write(real.path("one"), pid.as_raw_nonzero().to_string()).unwrap();
        real.is_gone("one");
    }
}
