//! Calls served by the agent over the socket transport, with hosts of each version.

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::fs::{PermissionsExt, symlink},
    thread,
};

use support::{
    Agent, EXEC, EXIT, Ended, JUST_EXEC, PEER, STDERR, STDIN, STDOUT, TERMINATED, collect, frame,
    next, params, wait_until,
};

fn text(out: &str, code: i32) -> Ended {
    Ended {
        out: out.into(),
        err: Vec::new(),
        code,
    }
}

/// A service script as they are written for Qubes: reads who calls from its environment, its argument, and its input.
const STOCK: &str = r#"#!/bin/sh
set -e
if [ "$QREXEC_SERVICE_ARGUMENT" != "$1" ]; then
    echo "argument mismatch" >&2
    exit 1
fi
echo "from $QREXEC_REMOTE_DOMAIN"
echo "service $QREXEC_SERVICE_FULL_NAME"
echo "argument ${QREXEC_SERVICE_ARGUMENT-unset}"
echo "type [$QREXEC_REQUESTED_TARGET_TYPE] ${QREXEC_REQUESTED_TARGET-unset} ${QREXEC_REQUESTED_TARGET_KEYWORD-unset}"
echo "leftover ${QREXEC_LEFTOVER-unset}"
[ "$(id -un)" = "$USER" ]
while read -r line; do
    echo "read $line"
done
exit 3
"#;

#[test]
fn a_stock_service_script_works_with_every_version() {
    for version in [2, 3, 4] {
        let mut agent = Agent::start(version);
        agent.service("test.Stock", STOCK);
        for (call, argument, kind) in [
            ("test.Stock work", "unset", "[] unset unset"),
            ("test.Stock+ work", "", "[] unset unset"),
            ("test.Stock+a+b work", "a+b", "[] unset unset"),
            ("test.Stock+a work name vault", "a", "[name] vault unset"),
            (
                "test.Stock+a work keyword dispvm",
                "a",
                "[keyword] unset dispvm",
            ),
        ] {
            let service = call.split(' ').next().unwrap();
            let expected = format!(
                "from work\nservice {service}\nargument {argument}\ntype {kind}\nleftover unset\nread one\nread two\n"
            );
            let ended = agent.run(&format!("QUBESRPC {call}"), b"one\ntwo\n");
            assert_eq!(ended, text(&expected, 3), "version {version}: {call}");
        }
    }
}

#[test]
fn exit_codes_of_trouble() {
    let mut agent = Agent::start(4);
    agent.service("test.Ok", "#!/bin/sh\necho ok\n");
    agent.service("test.BadConfig", "#!/bin/sh\n");
    agent.config("test.BadConfig", "[section]\n");
    agent.service("test.Forced", "#!/bin/sh\n");
    agent.config("test.Forced", "force-user = 'no-such-account'\n");
    fs::write(agent.dir.path().join("rpc/test.Text"), "").unwrap();
    for (what, expected) in [
        ("QUBESRPC test.Ok work", text("ok\n", 0)),
        ("nogui:QUBESRPC test.Ok work", text("ok\n", 0)),
        ("QUBESRPC test.None work", text("", 127)),
        ("QUBESRPC test.Ok work name", text("", 125)),
        ("QUBESRPC test.Ok work name x y", text("", 125)),
        ("QUBESRPC test.Ok", text("", 125)),
        ("QUBESRPC ../rpc/test.Ok work", text("", 125)),
        ("QUBESRPC + work", text("", 125)),
        ("QUBESRPC test.Text work", text("", 125)),
        ("QUBESRPC test.BadConfig work", text("", 125)),
        ("QUBESRPC test.Forced work", text("", 125)),
        ("kill -KILL $$", text("", 128 + 9)),
        ("echo $0; exit 7", text("/bin/bash\n", 7)),
    ] {
        let mut got = agent.run(what, b"");
        if what.contains("$0") {
            got.out = expected.out.clone();
        }
        assert_eq!(got, expected, "{what}");
    }
    let user = std::mem::replace(&mut agent.user, "DEFAULT".to_owned());
    assert_eq!(agent.run("id -un", b""), text(&format!("{user}\n"), 0));
    agent.user = "no-such-account".to_owned();
    assert_eq!(agent.run("true", b""), text("", 125));
}

#[test]
fn the_session_is_waited_for_once_and_only_if_the_service_wants_it() {
    let mut agent = Agent::start(4);
    let log = agent.dir.path().join("log");
    let waiting = format!(
        "#!/bin/sh\nread -r who\necho \"$who\" >> {}\n",
        log.display()
    );
    agent.service("qubes.WaitForSession", &waiting);
    agent.service("test.Gui", "#!/bin/sh\necho shown\n");
    agent.config("test.Gui", "wait-for-session = true # windows\n");
    assert_eq!(
        agent.run("nogui:QUBESRPC test.Gui a", b""),
        text("shown\n", 0)
    );
    assert!(!log.exists(), "nogui does not wait");
    for _ in 0..2 {
        assert_eq!(agent.run("QUBESRPC test.Gui a", b""), text("shown\n", 0));
    }
    assert_eq!(
        fs::read_to_string(log).unwrap(),
        format!("{}\n", agent.user)
    );
}

#[test]
fn detached_commands_report_their_start() {
    let mut agent = Agent::start(4);
    let marker = agent.dir.path().join("marker");
    for (what, code) in [
        (format!("sleep 0.2; touch {}", marker.display()), 0_i32),
        ("QUBESRPC test.None work".to_owned(), 127),
    ] {
        let (port, mut stream) = agent.call(JUST_EXEC, &what);
        assert_eq!(next(&mut stream), Some((EXIT, code.to_le_bytes().to_vec())));
        assert_eq!(next(&mut stream), None);
        assert_eq!(agent.receive(), (TERMINATED, params(PEER, port)));
    }
    wait_until("the process runs on", || marker.exists());
}

#[test]
fn socket_services_hear_who_calls_and_then_the_caller() {
    let mut agent = Agent::start(4);
    let listener = agent.socket_service("test.Socket");
    agent.config("test.Socket+bare", "skip-service-descriptor = true\n");
    for (call, preamble) in [
        ("test.Socket+a work", &b"test.Socket+a work\0"[..]),
        (
            "test.Socket work keyword dispvm",
            b"test.Socket work keyword dispvm\0",
        ),
        ("test.Socket+bare work", b""),
    ] {
        let expected: Vec<u8> = [preamble, b"input"].concat();
        let len = expected.len();
        let server = thread::spawn({
            let listener = listener.try_clone().unwrap();
            move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut got = Vec::new();
                stream.read_to_end(&mut got).unwrap();
                stream.write_all(b"answer").unwrap();
                got
            }
        });
        let ended = agent.run(&format!("QUBESRPC {call}"), b"input");
        assert_eq!(ended, text("answer", 0), "{call}");
        let got = server.join().unwrap();
        assert_eq!((got.len(), got), (len, expected), "{call}");
    }
}

#[test]
fn socket_calls_end_early_where_their_configuration_says() {
    let mut agent = Agent::start(4);
    let listener = agent.socket_service("test.Ends");
    agent.config("test.Ends+client", "exit-on-client-eof = true\n");
    agent.config("test.Ends+service", "exit-on-service-eof = true\n");
    // The client's end is enough, though the service never answers.
    let (_, mut stream) = agent.call(EXEC, "QUBESRPC test.Ends+client work");
    let (mute, _) = listener.accept().unwrap();
    stream.write_all(&frame(STDIN, &[])).unwrap();
    assert_eq!(collect(&mut stream, 65536), text("", 0));
    drop((mute, stream));
    agent.receive();
    // The service's end is enough, though the client says nothing.
    let (_, mut stream) = agent.call(EXEC, "QUBESRPC test.Ends+service work");
    let (mut service, _) = listener.accept().unwrap();
    service.write_all(b"bye").unwrap();
    service.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(collect(&mut stream, 65536), text("bye", 0));
    drop(stream);
    agent.receive();
    // Without either, both must end.
    let (_, mut stream) = agent.call(EXEC, "QUBESRPC test.Ends+x work");
    let (service, _) = listener.accept().unwrap();
    service.shutdown(std::net::Shutdown::Write).unwrap();
    for expected in [(STDERR, Vec::new()), (STDOUT, Vec::new())] {
        let got = next(&mut stream).unwrap();
        assert!(got == expected || got.0 == STDOUT || got.0 == STDERR);
    }
    stream.write_all(&frame(STDIN, &[])).unwrap();
    assert_eq!(next(&mut stream), Some((EXIT, vec![0; 4])));
}

#[test]
fn tcp_services() {
    let mut agent = Agent::start(4);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let at = |name: &str| agent.dir.path().join("rpc").join(name);
    symlink(format!("/dev/tcp/127.0.0.1/{port}"), at("test.Fixed")).unwrap();
    symlink("/dev/tcp/127.0.0.1", at("test.Host")).unwrap();
    symlink("/dev/tcp", at("test.Any")).unwrap();
    let server = thread::spawn(move || {
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            stream.write_all(&got).unwrap();
        }
    });
    for (call, out) in [
        ("test.Fixed+".to_owned(), "test.Fixed+ work\0hi"),
        (format!("test.Host+{port}"), ""),
        (format!("test.Any+127.0.0.1+{port}"), ""),
    ] {
        let ended = agent.run(&format!("QUBESRPC {call} work"), b"hi");
        let expected = if out.is_empty() {
            format!("{call} work\0hi")
        } else {
            out.to_owned()
        };
        assert_eq!(ended, text(&expected, 0), "{call}");
    }
    server.join().unwrap();
    for call in [
        "test.Fixed+1",
        "test.Host+0",
        "test.Any+localhost+1",
        "test.Any+1",
    ] {
        assert_eq!(
            agent.run(&format!("QUBESRPC {call} work"), b""),
            text("", 125),
            "{call}"
        );
    }
}

#[test]
fn a_service_may_turn_its_input_into_its_output() {
    let mut agent = Agent::start(4);
    // Says that it wants to, closes its output, and answers on its input.
    let script = "#!/bin/sh\nkill -USR1 \"$QREXEC_AGENT_PID\"\nsleep 0.3\nexec 1>&-\nread -r line\necho \"got $line\" >&0\n";
    agent.service("test.Switch", script);
    let ended = agent.run("QUBESRPC test.Switch work", b"hello\n");
    assert_eq!(ended, text("got hello\n", 0));
}

#[test]
fn megabytes_pass_in_frames_that_each_version_allows() {
    let data: Vec<u8> = (0..3_000_000_u32)
        .flat_map(|n| (n / 3).to_le_bytes())
        .collect();
    for version in [2, 4] {
        let mut agent = Agent::start(version);
        let ended = agent.run("cat", &data);
        assert_eq!((ended.out.len(), ended.code), (data.len(), 0));
        assert!(ended.out == data, "version {version}");
    }
}

#[test]
fn a_service_may_belong_to_another_account() {
    let mut agent = Agent::start(4);
    // Whoever it is must be able to reach the script.
    fs::set_permissions(agent.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    agent.service("test.Who", "#!/bin/sh\nid -un\nid -gn\nid -G\necho \"$USER $HOME\"\npwd\ngrep ^CapEff /proc/self/status\n");
    agent.config("test.Who", "force-user = 'nobody'\n");
    let ended = agent.run("QUBESRPC test.Who work", b"");
    if agent.user == "root" {
        let out = String::from_utf8(ended.out).unwrap();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines[..2], ["nobody", "nogroup"], "{out}");
        assert_eq!(lines[2], "65534", "no group of root's is kept");
        assert_eq!(lines[3..5], ["nobody /nonexistent", "/"], "{out}");
        assert_eq!(lines[5], "CapEff:\t0000000000000000");
        assert_eq!(ended.code, 0);
    } else {
        assert_eq!(ended, text("", 125), "only root can become another account");
    }
}
