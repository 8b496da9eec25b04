//! Either end of a call is lost at each boundary of what is said: the other end ends with the code that is specified, and
//! no process is left. A copy that is not confirmed loses no original.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{fs, io::Write};

use support::{
    Agent, EXEC, EXIT, PEER, STDERR, STDIN, STDOUT, TERMINATED, children, collect, frame, next,
    params, wait_until,
};

/// Ends of frames, of their headers, and places inside.
fn cuts(frames: &[Vec<u8>]) -> Vec<usize> {
    let mut cuts = vec![0];
    let mut start = 0;
    for frame in frames {
        cuts.extend([4, 8, frame.len().saturating_sub(1), frame.len()].map(|cut| start + cut));
        start += frame.len();
    }
    cuts.retain(|cut| *cut <= start);
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

#[test]
fn a_service_end_that_is_lost_at_each_boundary_gives_its_code() {
    for version in [2, 3, 4] {
        service_ends(version);
    }
}

fn service_ends(version: u32) {
    let mut agent = Agent::start(version);
    let frames = [
        frame(STDOUT, b"some"),
        frame(STDERR, b"error"),
        frame(STDOUT, &[7; 70]),
        frame(STDOUT, &[]),
        frame(STDERR, &[]),
        frame(EXIT, &5_i32.to_le_bytes()),
    ];
    let talk = frames.concat();
    for cut in cuts(&frames) {
        let tool = agent
            .tool(&["qrexec-client-vm", "vault", "test.Svc"])
            .spawn()
            .unwrap();
        let ident = agent.request();
        let (port, mut stream) = agent.accept_call(&ident);
        stream.write_all(&talk[..cut]).unwrap();
        drop(stream);
        let ended = tool.wait_with_output().unwrap();
        // An exit code counts when it is whole; without one the call is lost.
        let code = if cut == talk.len() { 5 } else { 255 };
        let what = format!("version {version}, cut at {cut}");
        assert_eq!(ended.status.code(), Some(code), "{what}");
        let whole = [(12, 4), (12 + 13, 4), (12 + 13 + 78, 74)];
        let most = whole
            .iter()
            .filter(|(end, _)| cut >= *end)
            .map(|(_, out)| *out)
            .max();
        assert!(ended.stdout.len() >= most.unwrap_or(0), "{what}");
        assert_eq!(agent.receive(), (TERMINATED, params(PEER, port)), "{what}");
    }
    // It serves on.
    assert_eq!(agent.run("echo well", b"").out, b"well\n");
}

#[test]
fn a_client_end_that_is_lost_at_each_boundary_leaves_no_process() {
    for version in [2, 3, 4] {
        client_ends(version);
    }
}

fn client_ends(version: u32) {
    let mut agent = Agent::start(version);
    let frames = [
        frame(STDIN, b"one\n"),
        frame(STDIN, &[b'x'; 300]),
        frame(STDIN, b"\n"),
        frame(STDIN, &[]),
    ];
    let talk = frames.concat();
    for cut in cuts(&frames) {
        let (port, mut stream) = agent.call(EXEC, "cat; exec sleep 1000");
        stream.write_all(&talk[..cut]).unwrap();
        drop(stream);
        assert_eq!(
            agent.receive(),
            (TERMINATED, params(PEER, port)),
            "version {version}, cut at {cut}"
        );
    }
    let pid = agent.pid();
    wait_until("no process is left", || children(pid).is_empty());
    // Cut after all is said: the service ends as it would.
    let (_, mut stream) = agent.call(EXEC, "cat; exit 6");
    stream.write_all(&talk).unwrap();
    let ended = collect(&mut stream, 65_536);
    assert_eq!((ended.out.len(), ended.code), (305, 6));
}

#[test]
fn a_move_that_is_not_confirmed_keeps_the_original() {
    // The receiver answers with another sum, refuses, says nothing, or says half.
    let sum = 0_u64.to_le_bytes();
    let answers: [(&str, Vec<u8>, &str); 4] = [
        ("another sum", [&[0; 8][..], &sum].concat(), "damaged"),
        (
            "a refusal",
            [&122_u32.to_le_bytes()[..], &[0; 12]].concat(),
            "limit",
        ),
        ("nothing", Vec::new(), "without saying why"),
        ("half an outcome", vec![0; 15], "without saying why"),
    ];
    for (what, answer, words) in answers {
        let mut agent = Agent::start(4);
        let file = agent.dir.path().join("kept");
        fs::write(&file, "content").unwrap();
        let tool = agent
            .tool(&["qvm-move", file.to_str().unwrap()])
            .spawn()
            .unwrap();
        let ident = agent.request();
        let (_, mut stream) = agent.accept_call(&ident);
        while let Some((STDIN, body)) = next(&mut stream) {
            if body.is_empty() || body.ends_with(&[0; 32]) {
                break;
            }
        }
        let frames = [
            frame(STDOUT, &answer),
            frame(STDOUT, &[]),
            frame(STDERR, &[]),
            frame(EXIT, &[0; 4]),
        ];
        stream.write_all(&frames.concat()).unwrap();
        let ended = tool.wait_with_output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(said.contains(words), "{what}: {said}");
        assert_eq!(ended.status.code(), Some(1), "{what}");
        assert!(file.exists(), "{what}");
    }
}
