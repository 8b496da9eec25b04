//! Our broker, our agents and their tools, all as processes: calls of the admin side and between two VMs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/agent.rs"]
mod agent;
#[path = "support/broker.rs"]
mod broker;

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use agent::agent_program;
use broker::broker;

const SOON: Duration = Duration::from_secs(20);
const FACTS: &str = r#"{"domains":{
    "work":{"type":"AppVM","tags":["office"],"power_state":"Running","uuid":"1"},
    "vault":{"type":"AppVM","power_state":"Running","uuid":"2"}}}"#;
const RULES: &str = "\
echo +allowed @tag:office @type:AppVM allow
qubes.Filecopy * work vault allow
* * @anyvm @anyvm deny
";

struct House {
    dir: tempfile::TempDir,
    agent: PathBuf,
    children: Vec<Child>,
}

impl Drop for House {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl House {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["policy", "rpc", "rpc-config"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("policy/10.policy"), RULES).unwrap();
        fs::write(dir.path().join("facts.json"), FACTS).unwrap();
        let mut house = Self {
            dir,
            agent: agent_program(),
            children: Vec::new(),
        };
        let who = Command::new("id").arg("-un").output().unwrap();
        let user = String::from_utf8(who.stdout).unwrap();
        for (name, id) in [("work", "3"), ("vault", "4")] {
            let mut agent = Command::new(&house.agent);
            agent
                .arg("--vchan-dir")
                .arg(house.path())
                .args(["--domain", id, "--user", user.trim()])
                .arg("--agent-socket")
                .arg(house.path().join(name))
                .arg("--rpc-path")
                .arg(house.path().join("rpc"))
                .arg("--rpc-config-path")
                .arg(house.path().join("rpc-config"));
            house.spawn(&mut agent);
        }
        house.spawn(&mut broker(house.path()));
        let deadline = Instant::now() + SOON;
        // The broker's and each agent's own: a client may come to any of them first.
        for name in ["qrexec.vault", "work", "vault"] {
            let socket = house.path().join(name);
            while !socket.exists() {
                assert!(Instant::now() < deadline, "there is no {name}");
                thread::yield_now();
            }
        }
        house
    }

    fn spawn(&mut self, command: &mut Command) {
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        self.children.push(child.unwrap());
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn service(&self, name: &str, text: &str) {
        let path = self.path().join("rpc").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn admin(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_casemate-qrexec"));
        command
            .args(["call-vchan", "--vchan-dir"])
            .arg(self.path())
            .args(words);
        command
    }

    /// A tool in the VM work.
    fn tool(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.agent);
        command
            .args(words)
            .env("VCHAN_SOCKET_DIR", self.path())
            .env("VCHAN_DOMAIN", "3")
            .env("CASEMATE_AGENT_SOCKET", self.path().join("work"));
        command
    }
}

/// Runs with this input to the end.
fn run(mut command: Command, input: &[u8]) -> Output {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    // One that ends without reading all is told so by its exit code.
    let feeder = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    output
}

#[test]
fn the_admin_side_runs_commands_and_services() {
    let house = House::start();
    house.service(
        "say",
        "#!/bin/sh\necho \"$1 $QREXEC_REMOTE_DOMAIN $QREXEC_SERVICE_FULL_NAME\"\ncat\n",
    );
    let data: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let output = run(
        house.admin(&["vault", "cat; echo words >&2; exit 9"]),
        &data,
    );
    assert_eq!(output.status.code(), Some(9));
    assert!(output.stdout == data && output.stderr == b"words\n");
    let output = run(house.admin(&["--service", "vault", "say+x"]), b"more");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "x dom0 say+x\nmore"
    );
    for (words, code) in [
        (&["--service", "vault", "absent"][..], 127),
        (&["--user", "nobody-of-this-name", "vault", "true"], 125),
        (&["vault", "kill -9 $$"], 137),
        (&["--just", "vault", "sleep 0.1"], 0),
        (&["nowhere", "true"], 125),
    ] {
        let output = run(house.admin(words), b"");
        assert_eq!(output.status.code(), Some(code), "{words:?}");
    }
    let audit = fs::read_to_string(house.path().join("audit.jsonl")).unwrap();
    assert!(
        audit.contains("\"source\":\"dom0\""),
        "calls of the host are on record: {audit}"
    );
}

#[test]
fn a_vm_calls_another_where_the_policy_lets_it() {
    let house = House::start();
    house.service(
        "echo",
        "#!/bin/sh\necho \"$QREXEC_REMOTE_DOMAIN $1\"\ncat\nexit 3\n",
    );
    let output = run(
        house.tool(&["qrexec-client-vm", "vault", "echo+allowed"]),
        b"data",
    );
    assert_eq!(
        (
            String::from_utf8_lossy(&output.stdout).as_ref(),
            output.status.code()
        ),
        ("work allowed\ndata", Some(3))
    );
    let output = run(
        house.tool(&["qrexec-client-vm", "vault", "echo+other"]),
        b"",
    );
    assert_eq!(output.status.code(), Some(126));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Request refused"));
    let audit = fs::read_to_string(house.path().join("audit.jsonl")).unwrap();
    assert!(
        audit.contains("10.policy:1") && audit.contains("10.policy:3"),
        "{audit}"
    );
}

#[test]
fn files_cross() {
    let house = House::start();
    let incoming = house.path().join("incoming");
    let script = format!(
        "#!/bin/sh\nexec {} service qubes.Filecopy --incoming {}\n",
        house.agent.display(),
        incoming.display()
    );
    house.service("qubes.Filecopy", &script);
    let file = house.path().join("report.txt");
    fs::write(&file, "figures").unwrap();
    let mut tool = house.tool(&["qvm-copy-to-vm", "vault"]);
    tool.arg(&file);
    let output = run(tool, b"");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(fs::read(incoming.join("report.txt")).unwrap(), b"figures");
}

/// The service writes for ever and nobody reads: it is stopped, and neither end grows.
#[test]
fn a_reader_that_never_reads_stops_its_writer() {
    let house = House::start();
    let count = house.path().join("count");
    let command = format!("head -c 1G /dev/zero; touch {}", count.display());
    let mut call = house.admin(&["vault", &command]);
    let mut client = call
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let sample = || {
        let pids = house.children.iter().map(Child::id).chain([client.id()]);
        pids.map(resident_kib).max().unwrap()
    };
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut most = 0;
    while Instant::now() < deadline {
        most = most.max(sample());
        thread::sleep(Duration::from_millis(50));
    }
    assert!(!count.exists(), "1 GiB went nowhere");
    assert!(most < 64 * 1024, "{most} KiB");
    client.kill().unwrap();
    client.wait().unwrap();
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
