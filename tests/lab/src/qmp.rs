//! QEMU's machine protocol: JSON lines over a Unix socket, one command at a time.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// How long QEMU may take for one command; it answers between two slices of emulation.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to QEMU.
#[derive(Debug)]
pub struct Qmp(Mutex<BufReader<UnixStream>>);

impl Qmp {
    /// Greets QEMU over `stream`.
    pub(crate) fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(TIMEOUT))?;
        let qmp = Self(Mutex::new(BufReader::new(stream)));
        // The greeting comes unasked, and commands are refused until capabilities are agreed on.
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and gives what it returns.
    ///
    /// # Errors
    /// When QEMU has gone, is silent for too long, or refuses.
    pub fn execute(&self, command: &str, arguments: &Value) -> Result<Value> {
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!(
            "{}\n",
            json!({ "execute": command, "arguments": arguments })
        );
        connection
            .get_mut()
            .write_all(line.as_bytes())
            .context("QEMU has gone")?;
        loop {
            let mut line = String::new();
            let length = connection.read_line(&mut line);
            if length.with_context(|| format!("QEMU does not answer {command}"))? == 0 {
                bail!("QEMU ended during {command}");
            }
            let answer: Value = serde_json::from_str(&line)?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refused {command}: {error}");
            }
            // Everything else is the greeting or an event.
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
        }
    }
}
