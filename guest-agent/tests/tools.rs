//! The commands that a person types, against a host of each version.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    io::Write,
    process::{Command, Stdio},
};

use support::{
    Agent, EXIT, PEER, REFUSED, STDERR, STDIN, STDOUT, TERMINATED, TRIGGER2, TRIGGER3, TRIGGER4,
    frame, next, params,
};

fn name(field: &[u8]) -> &str {
    std::str::from_utf8(field).unwrap().trim_end_matches('\0')
}

/// Target, ident and service of a request in the form of `version`.
fn request(agent: &mut Agent, version: u32) -> (String, Vec<u8>, String) {
    let (kind, body) = agent.receive();
    let (expected, target, ident, service) = match version {
        2 => (TRIGGER2, 64..96, 96..128, 0..64),
        3 => (TRIGGER3, 0..64, 64..96, 96..body.len()),
        _ => (TRIGGER4, 64..128, 128..160, 160..body.len()),
    };
    assert_eq!(kind, expected);
    (
        name(&body[target]).to_owned(),
        body[ident].to_vec(),
        name(&body[service]).to_owned(),
    )
}

#[test]
fn calls_out_in_every_version() {
    for version in [2, 3, 4] {
        let mut agent = Agent::start(version);
        let mut tool = agent
            .tool(&["qrexec-client-vm", "$dispvm", "test.Svc+arg"])
            .spawn()
            .unwrap();
        let (target, ident, service) = request(&mut agent, version);
        assert_eq!(
            (target.as_str(), service.as_str()),
            ("@dispvm", "test.Svc+arg")
        );
        let (port, mut stream) = agent.accept_call(&ident);
        tool.stdin.take().unwrap().write_all(b"question").unwrap();
        assert_eq!(next(&mut stream), Some((STDIN, b"question".to_vec())));
        assert_eq!(next(&mut stream), Some((STDIN, Vec::new())));
        // In one piece: the tool ends at the first exit code, whatever follows.
        let answer = [
            (STDOUT, &b"answer"[..]),
            (STDERR, b"error"),
            (STDOUT, b""),
            (STDERR, b""),
            (EXIT, &[42, 0, 0, 0, 9]),
            (EXIT, &[1, 0, 0, 0]),
        ]
        .map(|(kind, body)| frame(kind, body));
        stream.write_all(&answer.concat()).unwrap();
        let ended = tool.wait_with_output().unwrap();
        assert_eq!(
            (
                ended.stdout.as_slice(),
                ended.stderr.as_slice(),
                ended.status.code()
            ),
            (&b"answer"[..], &b"error"[..], Some(42)),
            "version {version}"
        );
        assert_eq!(agent.receive(), (TERMINATED, params(PEER, port)));
    }
}

#[test]
fn refusals_losses_and_odd_codes() {
    let mut agent = Agent::start(4);
    let tool = agent
        .tool(&["qrexec-client-vm", "vault", "test.Svc"])
        .spawn()
        .unwrap();
    let (_, ident, _) = request(&mut agent, 4);
    agent.send(&frame(REFUSED, &ident));
    let ended = tool.wait_with_output().unwrap();
    assert_eq!(
        (ended.stderr.as_slice(), ended.status.code()),
        (&b"Request refused\n"[..], Some(126))
    );
    for (frames, code) in [
        (Vec::new(), 255),
        (frame(STDOUT, b"x"), 255),
        (frame(EXIT, &[1, 0]), 255),
        (frame(EXIT, &(-1_i32).to_le_bytes()), 255),
        (frame(EXIT, &127_i32.to_le_bytes()), 127),
        (frame(0x777, &[]), 255),
    ] {
        let tool = agent
            .tool(&["qrexec-client-vm", "vault", "test.Svc"])
            .spawn()
            .unwrap();
        let (_, ident, _) = request(&mut agent, 4);
        let (port, mut stream) = agent.accept_call(&ident);
        stream.write_all(&frames).unwrap();
        drop(stream);
        let ended = tool.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(code), "{frames:?}");
        assert_eq!(agent.receive(), (TERMINATED, params(PEER, port)));
    }
}

#[test]
fn a_local_program_and_options() {
    let mut agent = Agent::start(4);
    let script = "read -r line; echo \"heard $line\"";
    let options = [
        "qrexec-client-vm",
        "-t",
        "-T",
        "--buffer-size=65536",
        "--prefix-data",
        "first ",
    ];
    let call = [
        "--no-filter-escape-chars-stdout",
        "vault",
        "test.Svc",
        "sh",
        "-c",
        script,
    ];
    let tool = agent
        .tool(&[&options[..], &call[..]].concat())
        .spawn()
        .unwrap();
    let (_, ident, _) = request(&mut agent, 4);
    let (_, mut stream) = agent.accept_call(&ident);
    stream.write_all(&frame(STDOUT, b"you\n")).unwrap();
    let mut sent = Vec::new();
    while let Some((STDIN, body)) = next(&mut stream) {
        if body.is_empty() {
            break;
        }
        sent.extend(body);
    }
    assert_eq!(sent, b"first heard you\n");
    let rest = [
        frame(STDERR, b"\x1b[31mred"),
        frame(STDOUT, &[]),
        frame(STDERR, &[]),
        frame(EXIT, &[0; 4]),
    ];
    stream.write_all(&rest.concat()).unwrap();
    let ended = tool.wait_with_output().unwrap();
    assert_eq!(
        (ended.stderr.as_slice(), ended.status.code()),
        (&b"_[31mred"[..], Some(0))
    );
}

#[test]
fn wrong_commands_are_one_line_and_have_their_codes() {
    let agent = Agent::start(4);
    let run = |mut tool: Command| {
        let ended = tool.stdin(Stdio::null()).output().unwrap();
        (
            String::from_utf8(ended.stderr).unwrap(),
            ended.status.code(),
        )
    };
    for (arguments, code, what) in [
        (&["qrexec-client-vm"][..], 2, "Usage: "),
        (&["qrexec-client-vm", "vault"], 2, "<SERVICE>"),
        (
            &["qrexec-client-vm", "--buffer-size=3", "a", "b"],
            2,
            "power of two",
        ),
        (
            &["qrexec-client-vm", "--agent-socket=/no/such", "a", "b"],
            125,
            "/no/such",
        ),
        (&["qvm-copy"], 2, "Usage: "),
        (&["qvm-copy-to-vm", "work"], 2, "Usage: "),
        (&["qvm-move", "/no/such/file"], 1, "/no/such/file"),
        (&["qvm-open-in-vm", "work"], 2, "Usage: "),
        (&["qvm-run-vm", "work"], 125, "no command"),
        (&["no-such-verb"], 2, "no-such-verb"),
    ] {
        let (text, got) = run(agent.tool(arguments));
        assert_eq!(got, Some(code), "{arguments:?}: {text}");
        assert!(text.contains(what), "{arguments:?}: {text}");
        assert_eq!(text.trim_end().lines().count(), 1, "{arguments:?}: {text}");
    }
}
