//! The agent's program in a directory of its own, without privileges, and a host made of Unix sockets that writes its
//! frames by hand.
#![allow(dead_code, reason = "each test program uses its part")]
#![expect(clippy::unwrap_used, reason = "a helper of tests fails them")]

pub(crate) mod between;
pub(crate) mod copies;
pub(crate) mod pair;

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

pub(crate) const STDIN: u32 = 0x190;
pub(crate) const STDOUT: u32 = 0x191;
pub(crate) const STDERR: u32 = 0x192;
pub(crate) const EXIT: u32 = 0x193;
pub(crate) const EXEC: u32 = 0x200;
pub(crate) const JUST_EXEC: u32 = 0x201;
pub(crate) const CONNECT: u32 = 0x202;
pub(crate) const REFUSED: u32 = 0x203;
pub(crate) const TRIGGER2: u32 = 0x210;
pub(crate) const TERMINATED: u32 = 0x211;
pub(crate) const TRIGGER3: u32 = 0x212;
pub(crate) const TRIGGER4: u32 = 0x213;
pub(crate) const HELLO: u32 = 0x300;

/// The agent's own domain and its caller's.
pub(crate) const OWN: u32 = 5;
pub(crate) const PEER: u32 = 7;

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn frame(kind: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap();
    let mut frame = header(kind, len).to_vec();
    frame.extend_from_slice(body);
    frame
}

pub(crate) fn header(kind: u32, len: u32) -> [u8; 8] {
    let mut header = [0; 8];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[4..].copy_from_slice(&len.to_le_bytes());
    header
}

pub(crate) fn params(domain: u32, port: u32) -> Vec<u8> {
    header(domain, port).to_vec()
}

/// Reads one frame; `None` at the end of the stream.
pub(crate) fn next(stream: &mut UnixStream) -> Option<(u32, Vec<u8>)> {
    let mut header = [0; 8];
    stream.read_exact(&mut header).ok()?;
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
    let mut body = vec![0; usize::try_from(word(4)).unwrap()];
    stream.read_exact(&mut body).ok()?;
    Some((word(0), body))
}

pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What a call gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) out: Vec<u8>,
    pub(crate) err: Vec<u8>,
    pub(crate) code: i32,
}

/// A running agent and its host.
pub(crate) struct Agent {
    pub(crate) dir: tempfile::TempDir,
    child: Child,
    pub(crate) control: UnixStream,
    port: u32,
    version: u32,
    domain: u32,
    vchan: PathBuf,
    pub(crate) user: String,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Agent {
    /// Starts an agent and shakes hands as a host of this version.
    pub(crate) fn start(version: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let vchan = dir.path().join("vchan");
        Self::start_in(dir, vchan, version, OWN)
    }

    /// Starts an agent that is another domain among the same sockets.
    pub(crate) fn beside(other: &Self, domain: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir, other.vchan.clone(), other.version, domain)
    }

    fn start_in(dir: tempfile::TempDir, vchan: PathBuf, version: u32, domain: u32) -> Self {
        for name in ["rpc", "rpc-config"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::create_dir_all(&vchan).unwrap();
        let who = Command::new("id").arg("-un").output().unwrap();
        let user = String::from_utf8(who.stdout).unwrap().trim().to_owned();
        let child = Command::new(env!("CARGO_BIN_EXE_casemate-agent"))
            .arg("--vchan-dir")
            .arg(&vchan)
            .args(["--domain", &domain.to_string(), "--user", &user])
            .arg("--agent-socket")
            .arg(dir.path().join("agent"))
            .arg("--rpc-path")
            .arg(dir.path().join("rpc"))
            .arg("--rpc-config-path")
            .arg(dir.path().join("rpc-config"))
            .env("QREXEC_LEFTOVER", "must not be inherited")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let control = connect(&vchan.join(format!("vchan.{domain}.0.512.sock")));
        let mut agent = Self {
            dir,
            child,
            control,
            port: 513,
            version,
            domain,
            vchan,
            user,
        };
        agent.greet();
        agent
    }

    /// Connects again, as a host that was restarted, or that was dropped.
    pub(crate) fn reconnect(&mut self) {
        let path = self
            .dir
            .path()
            .join(format!("vchan/vchan.{OWN}.0.512.sock"));
        self.control = connect(&path);
        self.greet();
    }

    /// The agent speaks first.
    fn greet(&mut self) {
        let hello = self.receive();
        assert_eq!(hello, (HELLO, 4_u32.to_le_bytes().to_vec()));
        let version = self.version;
        self.send(&frame(HELLO, &version.to_le_bytes()));
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the agent as the kernel does when memory is short.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.control.write_all(bytes).unwrap();
    }

    pub(crate) fn receive(&mut self) -> (u32, Vec<u8>) {
        next(&mut self.control).expect("a control frame")
    }

    /// Installs an executable service.
    pub(crate) fn service(&self, name: &str, text: &str) {
        let path = self.dir.path().join("rpc").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn config(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join("rpc-config").join(name), text).unwrap();
    }

    pub(crate) fn socket_service(&self, name: &str) -> UnixListener {
        UnixListener::bind(self.dir.path().join("rpc").join(name)).unwrap()
    }

    /// Sends EXEC_CMDLINE or JUST_EXEC for `what` as the agent's own account and is the client end, which listens.
    pub(crate) fn call(&mut self, kind: u32, what: &str) -> (u32, UnixStream) {
        let (port, listener) = self.offer();
        let mut body = params(PEER, port);
        body.extend_from_slice(format!("{}:{what}\0", self.user).as_bytes());
        self.send(&frame(kind, &body));
        let (stream, _) = listener.accept().unwrap();
        (port, self.open(stream))
    }

    /// A listener at a fresh port, as the client end makes it.
    pub(crate) fn offer(&mut self) -> (u32, UnixListener) {
        let port = self.port;
        self.port += 1;
        let name = format!("vchan/vchan.{PEER}.{OWN}.{port}.sock");
        (
            port,
            UnixListener::bind(self.dir.path().join(name)).unwrap(),
        )
    }

    /// HELLO in both directions.
    pub(crate) fn open(&self, mut stream: UnixStream) -> UnixStream {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
            .write_all(&frame(HELLO, &self.version.to_le_bytes()))
            .unwrap();
        let hello = next(&mut stream);
        assert_eq!(hello, Some((HELLO, 4_u32.to_le_bytes().to_vec())));
        stream
    }

    /// A whole call.
    pub(crate) fn run(&mut self, what: &str, input: &[u8]) -> Ended {
        let (port, mut stream) = self.call(EXEC, what);
        let mut writer = stream.try_clone().unwrap();
        let (chunk, input) = (if self.version < 3 { 4096 } else { 65536 }, input.to_vec());
        let feeder = thread::spawn(move || {
            for piece in input.chunks(chunk) {
                if writer.write_all(&frame(STDIN, piece)).is_err() {
                    return;
                }
            }
            // The service may have ended without reading everything.
            let _ = writer.write_all(&frame(STDIN, &[]));
        });
        let ended = collect(&mut stream, chunk);
        feeder.join().unwrap();
        drop(stream);
        assert_eq!(self.receive(), (TERMINATED, params(PEER, port)), "{what}");
        ended
    }

    /// `qrexec-client-vm` as a program of this VM.
    pub(crate) fn tool(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_casemate-agent"));
        command
            .args(arguments)
            .env("VCHAN_SOCKET_DIR", &self.vchan)
            .env("VCHAN_DOMAIN", self.domain.to_string())
            .env("CASEMATE_AGENT_SOCKET", self.dir.path().join("agent"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// The ident of the request that the agent makes next, in the form of its host's version.
    pub(crate) fn request(&mut self) -> Vec<u8> {
        let (kind, body) = self.receive();
        let (expected, ident) = match self.version {
            2 => (TRIGGER2, 96..128),
            3 => (TRIGGER3, 64..96),
            _ => (TRIGGER4, 128..160),
        };
        assert_eq!(kind, expected);
        body[ident].to_vec()
    }

    /// The service end of an accepted call: connects to the listening client.
    pub(crate) fn accept_call(&mut self, ident: &[u8]) -> (u32, UnixStream) {
        let port = self.port;
        self.port += 1;
        let mut body = params(PEER, port);
        body.extend_from_slice(ident);
        self.send(&frame(CONNECT, &body));
        let path = self
            .dir
            .path()
            .join(format!("vchan/vchan.{OWN}.{PEER}.{port}.sock"));
        let stream = connect(&path);
        (port, self.open(stream))
    }
}

pub(crate) fn connect(path: &Path) -> UnixStream {
    let mut stream = None;
    wait_until(&format!("a listener at {}", path.display()), || {
        stream = UnixStream::connect(path).ok();
        stream.is_some()
    });
    let stream = stream.unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Everything up to the exit code, which comes after both ends.
pub(crate) fn collect(stream: &mut UnixStream, chunk: usize) -> Ended {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (mut out_ended, mut err_ended) = (false, false);
    loop {
        let (kind, body) = next(stream).expect("an exit code before the end");
        assert!(body.len() <= chunk, "a frame of {} bytes", body.len());
        match (kind, body.is_empty()) {
            (STDOUT, false) => out.extend(body),
            (STDERR, false) => err.extend(body),
            (STDOUT, true) => out_ended = true,
            (STDERR, true) => err_ended = true,
            (EXIT, _) => {
                assert!(out_ended && err_ended, "both streams end first");
                let code = i32::from_le_bytes(body.try_into().unwrap());
                assert_eq!(next(stream), None, "nothing after the exit code");
                return Ended { out, err, code };
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Processes below `parent` that are alive.
pub(crate) fn children(parent: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let fields = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest)
            .unwrap_or_default();
        if fields.split_whitespace().nth(1) == Some(parent.to_string().as_str()) {
            found.push(entry.path());
        }
    }
    found
}

/// Processes of the services of an agent, which it may have left behind.
pub(crate) fn served_by(agent: u32) -> Vec<u32> {
    let mark = format!("QREXEC_AGENT_PID={agent}\0").into_bytes();
    let numbers = fs::read_dir("/proc").unwrap().flatten();
    numbers
        .filter(|entry| {
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            environment.windows(mark.len()).any(|part| part == mark)
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

pub(crate) fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    // It may have ended by itself.
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
}
