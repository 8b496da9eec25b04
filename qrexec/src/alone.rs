//! What stands for supervisor and compositor when there are none: facts from a file, and a standing answer.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use casemate_api::{Answer, Question};
use casemate_policy::Facts;
use tokio::task::spawn_blocking;

use crate::{arguments::Reply, peers::PeerError};

/// Where answers come from.
#[derive(Debug)]
pub(crate) enum Asking {
    Standing(Reply),
    Program(PathBuf),
}

/// Device, inode, size and time of the facts' file: what shows that it has changed.
type Stamp = (u64, u64, u64, i64, i64);

/// The house of a broker that is alone.
#[derive(Debug)]
pub(crate) struct Alone {
    file: PathBuf,
    asking: Asking,
    /// What was read last; held while the file is looked at.
    read: Mutex<Option<(Stamp, Arc<Facts>)>>,
}

impl Alone {
    pub(crate) fn new(file: PathBuf, asking: Asking) -> Self {
        Self {
            file,
            asking,
            read: Mutex::new(None),
        }
    }

    /// The facts as they are in the file now.
    pub(crate) fn facts(&self) -> Result<Arc<Facts>, PeerError> {
        let failed = |error: &dyn std::fmt::Display| {
            PeerError::new(format!("{}: {error}", self.file.display()))
        };
        let metadata = fs::metadata(&self.file).map_err(|error| failed(&error))?;
        let stamp = (
            metadata.dev(),
            metadata.ino(),
            metadata.size(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        );
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, facts)) = &*read
            && *of == stamp
        {
            return Ok(Arc::clone(facts));
        }
        let text = fs::read_to_string(&self.file).map_err(|error| failed(&error))?;
        let facts: Facts = serde_json::from_str(&text).map_err(|error| failed(&error))?;
        let facts = Arc::new(facts);
        *read = Some((stamp, Arc::clone(&facts)));
        Ok(facts)
    }

    /// The labels of all VMs, which nobody knows here.
    pub(crate) fn labels(&self) -> Result<std::collections::HashMap<String, String>, PeerError> {
        let facts = self.facts()?;
        let label = |name: &String| (name.clone(), "gray".to_owned());
        Ok(facts.domains.keys().map(label).collect())
    }

    /// The answer to a question.
    pub(crate) async fn ask(&self, question: &Question) -> Result<Answer, PeerError> {
        let no = Answer {
            allowed: false,
            target: String::new(),
            for_a_while: false,
        };
        match &self.asking {
            Asking::Standing(Reply::Default) if !question.default_target.is_empty() => Ok(Answer {
                allowed: true,
                target: question.default_target.clone(),
                for_a_while: false,
            }),
            Asking::Standing(_) => Ok(no),
            Asking::Program(program) => {
                let program = program.clone();
                let json = serde_json::to_vec(question)
                    .map_err(|error| PeerError::new(error.to_string()))?;
                let said = spawn_blocking(move || said(&program, &json)).await;
                let said = said
                    .unwrap_or_else(|error| Err(io::Error::other(error)))
                    .map_err(|error| PeerError::new(format!("the asking program: {error}")))?;
                Ok(match said.trim().split_once(':') {
                    Some((word @ ("allow" | "allow-for-a-while"), target)) => Answer {
                        allowed: true,
                        target: target.to_owned(),
                        for_a_while: word != "allow",
                    },
                    _ => no,
                })
            }
        }
    }
}

fn said(program: &PathBuf, json: &[u8]) -> io::Result<String> {
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that answers without reading is fine.
        let _ = stdin.write_all(json);
    }
    let output = child.wait_with_output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
