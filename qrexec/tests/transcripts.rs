//! Conversations with agents of versions 2, 3 and 4 and with clients of the host, byte for byte, in every direction.
//!
//! The bytes in `fixtures/transcripts` were written down from the protocol's specification and not by our codec. A line is
//! `WHO> HEX`, what WHO says, or `WHO< HEX`, exactly what it must hear next; `WHO< end` is the end of its stream. `work`
//! and `vault` are agents, `client` is a client of the host at `qrexec.work`, a new one after each end.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/broker.rs"]
mod broker;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use broker::broker;

const SOON: Duration = Duration::from_secs(60);
const FACTS: &str = r#"{"domains":{
    "work":{"type":"AppVM","power_state":"Running","uuid":"1"},
    "vault":{"type":"AppVM","power_state":"Running","uuid":"2"}}}"#;
const POLICY: &str = "\
copy +x work vault allow user=root
pla_in * work vault allow
* * @anyvm @anyvm deny
";

struct Broker {
    child: Child,
    dir: tempfile::TempDir,
    listeners: BTreeMap<&'static str, UnixListener>,
    streams: BTreeMap<String, UnixStream>,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Broker {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("policy")).unwrap();
        fs::write(dir.path().join("policy/10.policy"), POLICY).unwrap();
        fs::write(dir.path().join("facts.json"), FACTS).unwrap();
        // The agents listen first, so that each connects as soon as a transcript mentions it.
        let listen = |id: u32| {
            UnixListener::bind(dir.path().join(format!("vchan.{id}.0.512.sock"))).unwrap()
        };
        let listeners = BTreeMap::from([("work", listen(3)), ("vault", listen(4))]);
        let child = broker(dir.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            child,
            dir,
            listeners,
            streams: BTreeMap::new(),
        }
    }

    fn stream(&mut self, who: &str) -> &mut UnixStream {
        if !self.streams.contains_key(who) {
            let stream = match self.listeners.get(who) {
                Some(listener) => listener.accept().unwrap().0,
                None => connect(&self.dir.path().join("qrexec.work")),
            };
            stream.set_read_timeout(Some(SOON)).unwrap();
            self.streams.insert(who.to_owned(), stream);
        }
        self.streams.get_mut(who).unwrap()
    }
}

fn connect(path: &Path) -> UnixStream {
    let deadline = Instant::now() + SOON;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        thread::yield_now();
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    assert_eq!(hex.len() % 2, 0, "{hex}");
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn replay(text: &str, name: &str) -> usize {
    let mut broker = Broker::start();
    let mut frames = 0;
    for (number, line) in text.lines().enumerate() {
        if line.starts_with('#') {
            continue;
        }
        let (who, what) = line.split_once(' ').unwrap();
        let place = format!("{name}:{}", number + 1);
        if let Some(who) = who.strip_suffix('>') {
            broker.stream(who).write_all(&bytes(what)).unwrap();
        } else {
            let who = who.strip_suffix('<').unwrap();
            hear(broker.stream(who), what, &place);
            if what == "end" {
                broker.streams.remove(who);
            }
        }
        frames += 1;
    }
    frames
}

fn hear(stream: &mut UnixStream, what: &str, place: &str) {
    if what == "end" {
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        assert!(ended.is_ok() || ended.unwrap_err().kind() == std::io::ErrorKind::ConnectionReset);
        assert_eq!(rest, b"", "{place}");
        return;
    }
    let expected = bytes(what);
    let mut heard = vec![0; expected.len()];
    stream
        .read_exact(&mut heard)
        .unwrap_or_else(|error| panic!("{place}: {error}"));
    assert_eq!(heard, expected, "{place}");
}

#[test]
fn every_conversation_goes_as_it_is_written_down() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/transcripts");
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let mut frames = 0;
    for path in &paths {
        let name = path.file_name().unwrap().to_string_lossy();
        frames += replay(&fs::read_to_string(path).unwrap(), &name);
    }
    assert_eq!((paths.len(), frames > 250), (25, true), "{frames}");
}
