//! A broker and two agents in a directory, each a process; ended when dropped.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::run::standalone;

/// How long the house may take to be ready.
const START: Duration = Duration::from_secs(20);

const RULES: &str = "* * work vault allow\n* * @anyvm @anyvm deny\n";

const FACTS: &str = r#"{"domains":{
    "work":{"type":"AppVM","power_state":"Running","uuid":"1"},
    "vault":{"type":"AppVM","power_state":"Running","uuid":"2"}}}"#;

/// The programs at the two ends, as they are installed.
#[derive(Clone)]
pub(super) struct Programs {
    broker: PathBuf,
    agent: PathBuf,
}

impl Programs {
    pub(super) fn build() -> Result<Self> {
        let agent = super::super::release(&["casemate-agent"])?.join("casemate-agent");
        let broker = standalone("casemate-qrexec", "casemate-qrexec")?;
        Ok(Self { broker, agent })
    }
}

pub(super) struct House {
    dir: tempfile::TempDir,
    programs: Programs,
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
    /// Starts broker and agents; `agent` stands for the agent of vault when it is somebody else's.
    pub(super) fn start(programs: Programs, agent: Option<&Path>) -> Result<Self> {
        let mut house = Self {
            dir: super::super::scratch()?,
            programs,
            children: Vec::new(),
        };
        for name in ["vchan", "policy", "rpc", "rpc-config"] {
            fs::create_dir(house.file(name))?;
        }
        fs::write(house.file("policy/10.policy"), RULES)?;
        fs::write(house.file("facts.json"), FACTS)?;
        house.script("bench.Nothing", "#!/bin/sh\nexit 0\n")?;
        let ours = house.programs.agent.clone();
        house.script(
            "qubes.Filecopy",
            &format!(
                "#!/bin/sh\nexec {} service qubes.Filecopy --incoming {}\n",
                ours.display(),
                house.incoming().display()
            ),
        )?;
        house.agent(&ours, "work", 3)?;
        house.agent(agent.unwrap_or(&ours), "vault", 4)?;
        let mut broker = Command::new(&house.programs.broker);
        broker
            .args(["serve-vchan", "--vm", "work:3", "--vm", "vault:4"])
            .arg("--vchan-dir")
            .arg(house.file("vchan"))
            .arg("--policy-dir")
            .arg(house.file("policy"))
            .arg("--facts")
            .arg(house.file("facts.json"))
            .arg("--policy-socket")
            .arg(house.policy_socket());
        house.spawn(&mut broker)?;
        let deadline = Instant::now() + START;
        while succeed(&mut house.admin(&["--service", "vault", "bench.Nothing"])).is_err() {
            if Instant::now() > deadline {
                bail!("the agents do not serve calls within {} s", START.as_secs());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(house)
    }

    fn agent(&mut self, program: &Path, name: &str, domain: u32) -> Result<()> {
        let who = Command::new("id")
            .arg("-un")
            .output()
            .context("cannot run id")?;
        let user = String::from_utf8(who.stdout)?;
        let mut agent = Command::new(program);
        agent
            .arg("--vchan-dir")
            .arg(self.file("vchan"))
            .args(["--domain", &domain.to_string(), "--user", user.trim()])
            .arg("--agent-socket")
            .arg(self.file(&format!("agent-{name}")))
            .arg("--rpc-path")
            .arg(self.file("rpc"))
            .arg("--rpc-config-path")
            .arg(self.file("rpc-config"));
        self.spawn(&mut agent)
    }

    fn spawn(&mut self, command: &mut Command) -> Result<()> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env("RUST_LOG", "error")
            .spawn();
        let child =
            child.with_context(|| format!("cannot run {}", command.get_program().display()))?;
        self.children.push(child);
        Ok(())
    }

    fn script(&self, name: &str, text: &str) -> Result<()> {
        let path = self.service(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn service(&self, name: &str) -> PathBuf {
        self.file("rpc").join(name)
    }

    pub(super) fn incoming(&self) -> PathBuf {
        self.file("incoming")
    }

    pub(super) fn policy_socket(&self) -> PathBuf {
        self.file("policy.sock")
    }

    /// A call of the admin side.
    pub(super) fn admin(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.broker);
        command
            .arg("call-vchan")
            .arg("--vchan-dir")
            .arg(self.file("vchan"));
        command
            .args(words)
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// A tool in the VM work.
    pub(super) fn tool(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.agent);
        command
            .args(words)
            .env("VCHAN_SOCKET_DIR", self.file("vchan"))
            .env("VCHAN_DOMAIN", "3")
            .env("CASEMATE_AGENT_SOCKET", self.file("agent-work"))
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        command
    }
}

/// Runs to the end; nothing of it on the terminal, where the table goes.
pub(super) fn succeed(command: &mut Command) -> Result<()> {
    let status = command.stdout(Stdio::null()).status();
    let status =
        status.with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{} ended with {status}", command.get_program().display());
    }
    Ok(())
}
