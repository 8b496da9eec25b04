//! Two VMs on one machine: a tool in one calls a service in the other. The host of this test only introduces them; the data
//! pass between the tool, which listens, and the other agent, which connects.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    thread,
};

use support::{children, pair::Pair, wait_until};

#[test]
fn a_tool_in_one_vm_calls_a_service_in_another() {
    let mut pair = Pair::start();
    pair.callee.service(
        "test.Echo",
        "#!/bin/sh\necho \"$QREXEC_REMOTE_DOMAIN $1\" >&2\ncat\nexit 9\n",
    );
    let mut tool = pair.call(&["qrexec-client-vm", "vault", "test.Echo+x"]);
    let data: Vec<u8> = (0..2_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut input = tool.stdin.take().unwrap();
    let sent = data.clone();
    let feeder = thread::spawn(move || input.write_all(&sent));
    let ended = tool.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert_eq!(
        (ended.stderr.as_slice(), ended.status.code()),
        (&b"caller x\n"[..], Some(9))
    );
    assert!(
        ended.stdout == data,
        "{} bytes came back",
        ended.stdout.len()
    );
    pair.over();
}

#[test]
fn a_command_in_another_vm() {
    let mut pair = Pair::start();
    let agent = env!("CARGO_BIN_EXE_casemate-agent");
    pair.callee.service(
        "qubes.VMExec",
        &format!("#!/bin/sh\nexec {agent} service qubes.VMExec \"$1\"\n"),
    );
    for (arguments, out, code) in [
        (
            &["qvm-run-vm", "vault", "echo $((40 + 2)); exit 4"][..],
            "42\n",
            4,
        ),
        (
            &["qvm-run-vm", "vault", "printf", "%s|", "a b", "c/d", "ü-e"],
            "a b|c/d|ü-e|",
            0,
        ),
        (
            &["qvm-run-vm", "--dispvm", "echo disposable"],
            "disposable\n",
            0,
        ),
    ] {
        let tool = pair.call(arguments);
        let ended = tool.wait_with_output().unwrap();
        let got = (
            String::from_utf8(ended.stdout).unwrap(),
            ended.status.code(),
        );
        assert_eq!(got, (out.to_owned(), Some(code)), "{arguments:?}");
        pair.over();
    }
}

#[test]
fn files_cross() {
    let mut pair = Pair::start();
    let agent = env!("CARGO_BIN_EXE_casemate-agent");
    let incoming = pair.callee.dir.path().join("incoming");
    let script = format!(
        "#!/bin/sh\nexec {agent} service qubes.Filecopy --incoming {}\n",
        incoming.display()
    );
    pair.callee.service("qubes.Filecopy", &script);
    let source = pair.caller.dir.path().join("report.txt");
    for (verb, kept) in [("qvm-copy", true), ("qvm-move", false)] {
        fs::write(&source, verb).unwrap();
        let tool = pair.call(&[verb, source.to_str().unwrap()]);
        let ended = tool.wait_with_output().unwrap();
        assert!(
            ended.status.success(),
            "{verb}: {}",
            String::from_utf8_lossy(&ended.stderr)
        );
        assert_eq!(
            fs::read_to_string(incoming.join("report.txt")).unwrap(),
            verb
        );
        assert_eq!(source.exists(), kept, "{verb}");
        fs::remove_file(incoming.join("report.txt")).unwrap();
        pair.over();
    }
}

#[test]
fn a_killed_end_ends_the_other() {
    let mut pair = Pair::start();
    pair.callee
        .service("test.Long", "#!/bin/sh\necho begun\nexec sleep 1000\n");
    // The tool is killed: the service goes, both ends are reported.
    let mut tool = pair.call(&["qrexec-client-vm", "vault", "test.Long"]);
    let mut out = tool.stdout.take().unwrap();
    out.read_exact(&mut [0; 6]).unwrap();
    tool.kill().unwrap();
    tool.wait().unwrap();
    pair.over();
    let pid = pair.callee.pid();
    wait_until("no process is left", || children(pid).is_empty());
    // The service is killed: the tool has its code.
    let mut tool = pair.call(&["qrexec-client-vm", "vault", "test.Long"]);
    let mut out = tool.stdout.take().unwrap();
    out.read_exact(&mut [0; 6]).unwrap();
    let victim = children(pid).pop().unwrap();
    kill(&victim);
    assert_eq!(tool.wait().unwrap().code(), Some(128 + 9));
    pair.over();
}

fn kill(process: &Path) {
    let number = process
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let pid = nix::unistd::Pid::from_raw(number);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}
