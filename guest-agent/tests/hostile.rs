//! Row B10-1 of the threat tables, at the agent: frames that no host would send, clients that lie, ends that vanish at
//! each frame boundary, readers that never read. No hang, no leaked process, the next call works.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use support::{
    Agent, CONNECT, EXEC, EXIT, HELLO, JUST_EXEC, PEER, REFUSED, STDERR, STDIN, STDOUT, TERMINATED,
    TRIGGER2, TRIGGER3, TRIGGER4, children, collect, connect, frame, header, next, params,
    wait_until,
};

/// The agent serves as if nothing had happened.
fn is_well(agent: &mut Agent, after: &str) {
    let ended = agent.run("echo well", b"");
    assert_eq!(
        (ended.out.as_slice(), ended.code),
        (&b"well\n"[..], 0),
        "after {after}"
    );
}

/// Lengths that headers lie with.
const LENGTHS: [u32; 9] = [0, 1, 7, 8, 9, 65_536, 65_537, 0x7fff_ffff, 0xffff_ffff];

#[test]
fn control_frames_of_no_host_drop_the_stream_and_nothing_else() {
    let mut agent = Agent::start(4);
    let text = |body: &[u8]| [params(PEER, 900), body.to_vec()].concat();
    let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
    for kind in [
        STDIN,
        STDOUT,
        STDERR,
        EXIT,
        TRIGGER2,
        TERMINATED,
        TRIGGER3,
        TRIGGER4,
        HELLO,
        0,
        0x204,
        u32::MAX,
    ] {
        for len in LENGTHS {
            cases.push((
                format!("type {kind:#x}, length {len}"),
                header(kind, len).to_vec(),
            ));
        }
    }
    for (kind, right) in [
        (CONNECT, 40..41),
        (REFUSED, 32..33),
        (EXEC, 9..65_536),
        (JUST_EXEC, 9..65_536),
    ] {
        for len in LENGTHS.into_iter().filter(|len| !right.contains(len)) {
            cases.push((
                format!("type {kind:#x}, length {len}"),
                header(kind, len).to_vec(),
            ));
        }
    }
    for (what, bytes) in [
        ("a command without NUL", frame(EXEC, &text(b"root:true"))),
        ("a NUL inside a command", frame(EXEC, &text(b"root:a\0b\0"))),
        ("an ident without NUL", frame(REFUSED, &[b'a'; 32])),
        (
            "an ident with a slash",
            frame(REFUSED, &[&b"a/b"[..], &[0; 29]].concat()),
        ),
        (
            "an ident with more behind its NUL",
            frame(REFUSED, &[&b"a\0b"[..], &[0; 29]].concat()),
        ),
    ] {
        cases.push((what.to_owned(), bytes));
    }
    for (what, bytes) in cases {
        agent.send(&bytes);
        assert_eq!(
            next(&mut agent.control),
            None,
            "{what}: the stream is dropped"
        );
        agent.reconnect();
    }
    is_well(&mut agent, "all of them");
    agent.send(&frame(REFUSED, &[0; 32]));
    is_well(&mut agent, "a refusal of nobody");
    // Nobody waits for it: it is over at once, so that the host has its port again.
    agent.send(&frame(CONNECT, &[params(PEER, 901), vec![0; 32]].concat()));
    assert_eq!(agent.receive(), (TERMINATED, params(PEER, 901)));
    is_well(&mut agent, "a call of nobody");
}

#[test]
fn handshakes_of_no_host() {
    let mut agent = Agent::start(4);
    let path = agent
        .dir
        .path()
        .join(format!("vchan/vchan.{}.0.512.sock", support::OWN));
    for (what, bytes) in [
        ("version 1", frame(HELLO, &1_u32.to_le_bytes())),
        ("version 0", frame(HELLO, &[0; 4])),
        ("a short HELLO", frame(HELLO, &[4, 0])),
        ("a long HELLO", header(HELLO, 5).to_vec()),
        ("no HELLO", frame(REFUSED, &[0; 32])),
    ] {
        // The former stream ends first: there is one host.
        agent.control.shutdown(std::net::Shutdown::Both).unwrap();
        let mut stream = connect(&path);
        assert_eq!(
            next(&mut stream).map(|(kind, _)| kind),
            Some(HELLO),
            "{what}"
        );
        stream.write_all(&bytes).unwrap();
        assert_eq!(next(&mut stream), None, "{what}");
        agent.control = stream;
    }
    agent.reconnect();
    is_well(&mut agent, "bad handshakes");
}

#[test]
fn data_frames_of_no_client_end_the_call_and_its_process() {
    let mut agent = Agent::start(4);
    let mut cases: Vec<Vec<u8>> = Vec::new();
    for kind in [
        EXEC,
        JUST_EXEC,
        CONNECT,
        REFUSED,
        TRIGGER2,
        TERMINATED,
        TRIGGER3,
        TRIGGER4,
        HELLO,
        0,
        0x194,
        u32::MAX,
    ] {
        for len in [0, 4, 65_537, u32::MAX] {
            cases.push(header(kind, len).to_vec());
        }
    }
    for kind in [STDIN, STDOUT, STDERR, EXIT] {
        for len in [65_537, 0x7fff_ffff, u32::MAX] {
            cases.push(header(kind, len).to_vec());
        }
    }
    for bytes in cases {
        let (port, mut stream) = agent.call(EXEC, "exec sleep 1000");
        stream.write_all(&bytes).unwrap();
        let mut rest = Vec::new();
        // Closed with our bytes unread, which a socket may report as a reset.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{bytes:?}");
        assert_eq!(
            agent.receive(),
            (TERMINATED, params(PEER, port)),
            "{bytes:?}"
        );
    }
    let pid = agent.pid();
    wait_until("no process is left", || children(pid).is_empty());
    is_well(&mut agent, "all of them");
}

#[test]
fn harmless_nonsense_in_a_call_is_borne() {
    let mut agent = Agent::start(4);
    let (_, mut stream) = agent.call(EXEC, "cat");
    for bytes in [
        frame(STDERR, b"from a client"),
        frame(EXIT, &7_i32.to_le_bytes()),
        frame(EXIT, &[]),
        frame(EXIT, &[1; 65_536]),
        frame(STDIN, b"one "),
        // The other direction's name is borne, as in the reference.
        frame(STDOUT, b"two"),
        frame(STDIN, &[]),
        frame(STDIN, b"after the end"),
        frame(STDIN, &[]),
    ] {
        stream.write_all(&bytes).unwrap();
    }
    let ended = collect(&mut stream, 65_536);
    assert_eq!((ended.out.as_slice(), ended.code), (&b"one two"[..], 0));
}

#[test]
fn callers_that_vanish_at_each_boundary_leave_nothing() {
    let mut agent = Agent::start(4);
    let talk = [
        frame(STDIN, b"some"),
        frame(STDIN, &[0; 65_536]),
        frame(STDERR, b"x"),
        frame(STDIN, &[])[..4].to_vec(),
    ]
    .concat();
    for what in [
        "cat",
        "yes",
        "exec sleep 1000",
        "sleep 1000 | sleep 1000",
        "cat > /dev/null; sleep 1000",
    ] {
        for cut in [0, 1, 8, 10, 12, 20, 40_000, talk.len()] {
            let (port, mut stream) = agent.call(EXEC, what);
            // A process that has ended reads no more.
            let _ = stream.write_all(&talk[..cut]);
            drop(stream);
            assert_eq!(
                agent.receive(),
                (TERMINATED, params(PEER, port)),
                "{what} at {cut}"
            );
        }
    }
    // A caller that never says HELLO, and one that says half of it.
    for hello in [&[][..], &frame(HELLO, &[4, 0, 0, 0])[..9]] {
        let (port, listener) = agent.offer();
        let body = [params(PEER, port), format!("{}:cat\0", agent.user).into()].concat();
        agent.send(&frame(EXEC, &body));
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(hello).unwrap();
        drop(stream);
        assert_eq!(agent.receive(), (TERMINATED, params(PEER, port)));
    }
    let pid = agent.pid();
    wait_until("no process is left", || children(pid).is_empty());
    is_well(&mut agent, "all of them");
}

fn resident(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn readers_that_never_read_cost_no_memory_and_stop_nobody_else() {
    const SOME: usize = 4096;
    let mut agent = Agent::start(4);
    is_well(&mut agent, "the start");
    let before = resident(agent.pid());
    // 1 GiB of output that nobody takes, and input that nobody takes.
    let (_, silent) = agent.call(EXEC, "head -c 1073741824 /dev/zero");
    let (_, mut full) = agent.call(EXEC, "exec sleep 1000");
    full.set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let chunk = frame(STDIN, &[0; 65_536]);
    let begun = Instant::now();
    let mut sent = 0;
    while full.write_all(&chunk).is_ok() {
        sent += chunk.len();
        assert!(sent < 64 << 20, "input is taken without end");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    is_well(&mut agent, "two that wait");
    let after = resident(agent.pid());
    assert!(
        after < before + SOME,
        "{before} KiB before, {after} KiB after"
    );
    drop((silent, full));
    for _ in 0..2 {
        assert_eq!(agent.receive().0, TERMINATED);
    }
}

#[test]
fn output_flows_while_input_is_stuck() {
    let mut agent = Agent::start(4);
    let (_, mut stream) = agent.call(EXEC, "sleep 0.2; echo flows; exec sleep 1000");
    let mut writer = stream.try_clone().unwrap();
    writer
        .set_write_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let chunk = frame(STDIN, &[0; 65_536]);
    while writer.write_all(&chunk).is_ok() {}
    assert_eq!(next(&mut stream), Some((STDOUT, b"flows\n".to_vec())));
}

#[test]
fn local_clients_that_lie_or_hang_are_dropped() {
    let mut agent = Agent::start(4);
    let socket = agent.dir.path().join("agent");
    for (what, bytes) in [
        ("an old form", frame(TRIGGER3, &[0; 97])),
        ("the oldest form", frame(TRIGGER2, &[0; 128])),
        ("HELLO", frame(HELLO, &[4, 0, 0, 0])),
        ("the end of a call", frame(TERMINATED, &[0; 8])),
        ("too short", header(TRIGGER4, 160).to_vec()),
        ("too long", header(TRIGGER4, 65_161).to_vec()),
        ("without end", header(TRIGGER4, u32::MAX).to_vec()),
        ("no NUL behind the service", frame(TRIGGER4, &[1; 161])),
    ] {
        let mut client = connect(&socket);
        client.write_all(&bytes).unwrap();
        assert_eq!(client.read(&mut [0; 8]).unwrap_or(0), 0, "{what}");
    }
    // 1000 that connect and hang; each is one descriptor and at most one thread.
    let hanging: Vec<UnixStream> = (0..1000).map(|_| connect(&socket)).collect();
    is_well(&mut agent, "many that hang");
    drop(hanging);
    let mut request = vec![0; 128];
    request.extend_from_slice(&[0; 32]);
    request.extend_from_slice(b"test.Svc\0");
    wait_until("a client is heard again", || {
        let mut client = connect(&socket);
        let _ = client.write_all(&frame(TRIGGER4, &request));
        client.set_nonblocking(true).unwrap();
        // Refused at once while too many hang.
        matches!(client.read(&mut [0; 8]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    });
}

#[test]
fn a_lost_host_refuses_whoever_waits() {
    let mut agent = Agent::start(4);
    let mut client = connect(&agent.dir.path().join("agent"));
    let body = [&[0; 160][..], b"test.Svc\0"].concat();
    client.write_all(&frame(TRIGGER4, &body)).unwrap();
    assert_eq!(agent.receive().0, TRIGGER4);
    agent.control.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    agent.reconnect();
    is_well(&mut agent, "a new host");
}

#[test]
fn a_client_that_goes_while_it_waits_ends_its_call() {
    let mut agent = Agent::start(4);
    let body = [&[0; 160][..], b"test.Svc\0"].concat();
    let mut client = connect(&agent.dir.path().join("agent"));
    client.write_all(&frame(TRIGGER4, &body)).unwrap();
    let (_, request) = agent.receive();
    drop(client);
    agent.send(&frame(
        CONNECT,
        &[&params(PEER, 902), &request[128..160]].concat(),
    ));
    assert_eq!(agent.receive(), (TERMINATED, params(PEER, 902)));
    is_well(&mut agent, "a client that went");
}
