//! The commands of gpg-agent (Assuan, one line each) that a foreign VM may give: find keys, sign, decrypt. Nothing that
//! makes, imports, exports or deletes one, and nothing that changes the agent.

use std::io::{self, BufRead, BufReader, Read, Write};

/// Longest line of the Assuan protocol, with its line end.
const MAX_LINE: u64 = 1002;

/// Commands that use keys. `D`, `END` and `CAN` answer the agent's own questions.
const ALLOWED: [&str; 19] = [
    "NOP",
    "BYE",
    "RESET",
    "GETINFO",
    "AGENT_ID",
    "HAVEKEY",
    "KEYINFO",
    "READKEY",
    "SIGKEY",
    "SETKEY",
    "SETKEYDESC",
    "SETHASH",
    "PKSIGN",
    "PKDECRYPT",
    "KEYATTR",
    "D",
    "END",
    "CAN",
    "OPTION",
];

/// Options that only name the caller's terminal and manners; others would change the agent.
const OPTIONS: [&str; 4] = [
    "allow-pinentry-notify",
    "agent-awareness",
    "lc-ctype",
    "lc-messages",
];

/// Answer to what is not allowed: GPG_ERR_FORBIDDEN of the agent.
const FORBIDDEN: &[u8] = b"ERR 67109115 Forbidden\n";

/// What is said instead of an option that is ignored.
const OK: &[u8] = b"OK\n";

/// Hands on allowed commands and answers the others itself, until the caller ends.
///
/// # Errors
/// A line that is too long or has no end.
pub(super) fn filter(
    caller: &mut dyn Read,
    agent: &mut dyn Write,
    answers: &mut dyn Write,
) -> io::Result<()> {
    let mut caller = BufReader::new(caller);
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut caller).take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match judge(&line) {
            Verdict::Pass => agent.write_all(&line)?,
            Verdict::Ignore => {
                answers.write_all(OK)?;
                answers.flush()?;
            }
            Verdict::Forbid => {
                answers.write_all(FORBIDDEN)?;
                answers.flush()?;
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    /// Answered as if done: gpg gives up when an option fails.
    Ignore,
    Forbid,
}

fn judge(line: &[u8]) -> Verdict {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let end = line
        .iter()
        .position(|byte| *byte == b' ')
        .unwrap_or(line.len());
    let (command, rest) = line.split_at(end);
    let Ok(command) = str::from_utf8(command) else {
        return Verdict::Forbid;
    };
    let command = command.to_ascii_uppercase();
    if !ALLOWED.contains(&command.as_str()) {
        return Verdict::Forbid;
    }
    let rest = String::from_utf8_lossy(rest);
    match command.as_str() {
        "OPTION" => {
            let name = rest
                .split(['=', ' '])
                .find(|word| !word.is_empty())
                .unwrap_or_default();
            if OPTIONS.contains(&name) {
                Verdict::Pass
            } else {
                Verdict::Ignore
            }
        }
        // `KEYATTR KEYGRIP ATTRIBUTE VALUE` would write.
        "KEYATTR" if rest.split_whitespace().count() > 2 => Verdict::Forbid,
        // Secrets of the agent's process are none of the caller's business.
        "GETINFO"
            if !matches!(
                rest.trim(),
                "version" | "s2k_count" | "s2k_count_cal" | "jent_active"
            ) && !rest.trim().starts_with("cmd_has_option ") =>
        {
            Verdict::Forbid
        }
        _ => Verdict::Pass,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        for (line, verdict) in [
            ("PKSIGN", Verdict::Pass),
            ("pkdecrypt", Verdict::Pass),
            ("HAVEKEY 0123", Verdict::Pass),
            ("D data%0A", Verdict::Pass),
            ("OPTION allow-pinentry-notify", Verdict::Pass),
            ("OPTION display=:0", Verdict::Ignore),
            ("OPTION pinentry-mode=loopback", Verdict::Ignore),
            ("GETINFO version", Verdict::Pass),
            ("GETINFO socket_name", Verdict::Forbid),
            ("GETINFO cmd_has_option SIGKEY x", Verdict::Pass),
            ("KEYATTR A created:", Verdict::Pass),
            ("KEYATTR A created: 1", Verdict::Forbid),
            ("EXPORT_KEY 0123", Verdict::Forbid),
            ("IMPORT_KEY", Verdict::Forbid),
            ("DELETE_KEY 0123", Verdict::Forbid),
            ("GENKEY", Verdict::Forbid),
            ("PASSWD 0123", Verdict::Forbid),
            ("GET_PASSPHRASE x", Verdict::Forbid),
            ("PRESET_PASSPHRASE x", Verdict::Forbid),
            ("KILLAGENT", Verdict::Forbid),
            ("RELOADAGENT", Verdict::Forbid),
            ("SCD x", Verdict::Forbid),
            ("UPDATESTARTUPTTY", Verdict::Forbid),
            ("\u{fffd}", Verdict::Forbid),
            ("", Verdict::Forbid),
        ] {
            assert_eq!(judge(format!("{line}\n").as_bytes()), verdict, "{line}");
        }
    }

    #[test]
    fn streams() {
        let input = b"HAVEKEY 1\nKILLAGENT\nOPTION ttyname=x\nPKSIGN\n";
        let (mut agent, mut answers) = (Vec::new(), Vec::new());
        filter(&mut input.as_slice(), &mut agent, &mut answers).unwrap();
        assert_eq!(agent, b"HAVEKEY 1\nPKSIGN\n");
        assert_eq!(answers, [FORBIDDEN, OK].concat());
        for bad in [vec![b'D'; 2000], b"PKSIGN".to_vec()] {
            let mut agent = Vec::new();
            assert!(filter(&mut bad.as_slice(), &mut agent, &mut Vec::new()).is_err());
            assert!(agent.is_empty());
        }
    }
}
