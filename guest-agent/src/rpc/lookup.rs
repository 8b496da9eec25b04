//! Finding the program behind a service name (specification of qrexec, 1.5) and its configuration (1.6).

use std::{fs, io, os::unix::fs::PermissionsExt, path::PathBuf};

/// Why there is no program to run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LookupError {
    /// No such service: exit code 127.
    Missing,
    /// Something is there that cannot be run, or its configuration is wrong: exit code 125.
    Broken(String),
}

/// A service's configuration. Keys that we do not know are ignored, as the reference does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServiceConfig {
    /// Run as this account, whatever policy said.
    pub(crate) force_user: Option<String>,
    /// Wait for the person's session first.
    pub(crate) wait_for_session: bool,
}

/// The program for `full` (`service+argument` or `service`).
pub(crate) fn find_service(dirs: &[PathBuf], full: &str) -> Result<PathBuf, LookupError> {
    let program = find(dirs, full)?.ok_or(LookupError::Missing)?;
    let metadata =
        fs::metadata(&program).map_err(|error| LookupError::Broken(error.to_string()))?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(LookupError::Broken(format!(
            "{} is not an executable file",
            program.display()
        )));
    }
    Ok(program)
}

/// The configuration for `full`, the default one when there is none.
pub(crate) fn find_config(dirs: &[PathBuf], full: &str) -> Result<ServiceConfig, LookupError> {
    let Some(file) = find(dirs, full)? else {
        return Ok(ServiceConfig::default());
    };
    let text = fs::read_to_string(&file)
        .map_err(|error| LookupError::Broken(format!("{}: {error}", file.display())))?;
    parse_config(&text).map_err(|what| LookupError::Broken(format!("{}: {what}", file.display())))
}

/// `svc+arg` in every directory, only then `svc` in every directory.
fn find(dirs: &[PathBuf], full: &str) -> Result<Option<PathBuf>, LookupError> {
    let service = full.split('+').next().unwrap_or(full);
    // A call without an argument looks for `svc+` first.
    let specific = if full.contains('+') {
        full.to_owned()
    } else {
        format!("{full}+")
    };
    for name in [specific.as_str(), service] {
        for dir in dirs {
            let candidate = dir.join(name);
            match fs::metadata(&candidate) {
                Ok(_) => return Ok(Some(candidate)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(LookupError::Broken(format!(
                        "{}: {error}",
                        candidate.display()
                    )));
                }
            }
        }
    }
    Ok(None)
}

fn parse_config(text: &str) -> Result<ServiceConfig, String> {
    let mut config = ServiceConfig::default();
    let mut seen = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| format!("line {}: {what}", number + 1);
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| wrong("expected key = value"))?;
        let key = key.trim_end();
        if !key.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(wrong("a key starts with a letter at the start of the line"));
        }
        if seen.contains(&key) {
            return Err(wrong("the key stands twice"));
        }
        seen.push(key);
        let value = value.trim_start();
        match key {
            "force-user" => {
                config.force_user = Some(quoted(value).ok_or_else(|| wrong("expected 'text'"))?);
            }
            "wait-for-session" => {
                config.wait_for_session =
                    boolean(value).ok_or_else(|| wrong("expected true or false"))?;
            }
            _ => {}
        }
    }
    Ok(config)
}

fn bare(value: &str) -> &str {
    value.split('#').next().unwrap_or(value).trim_end()
}

fn boolean(value: &str) -> Option<bool> {
    match bare(value) {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

fn quoted(value: &str) -> Option<String> {
    let (text, rest) = value.strip_prefix('\'')?.split_once('\'')?;
    bare(rest).is_empty().then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specific_names_win_over_general_ones() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("1"), dir.path().join("2"));
        for made in [&first, &second] {
            fs::create_dir(made).unwrap();
        }
        fs::write(first.join("test.Svc"), "").unwrap();
        fs::write(second.join("test.Svc+arg"), "").unwrap();
        fs::write(second.join("test.Svc+"), "").unwrap();
        let path = [first.clone(), second.clone()];
        assert_eq!(
            find(&path, "test.Svc+arg").unwrap(),
            Some(second.join("test.Svc+arg"))
        );
        assert_eq!(
            find(&path, "test.Svc+other").unwrap(),
            Some(first.join("test.Svc"))
        );
        assert_eq!(
            find(&path, "test.Svc").unwrap(),
            Some(second.join("test.Svc+"))
        );
        assert_eq!(find(&path, "test.None").unwrap(), None);
        let through_a_file = [first.join("test.Svc")];
        assert!(matches!(
            find(&through_a_file, "x"),
            Err(LookupError::Broken(_))
        ));
    }

    #[test]
    fn configurations() {
        let config = |text| parse_config(text);
        assert_eq!(config("").unwrap(), ServiceConfig::default());
        let full = "# c\r\nforce-user = 'root' # why\nwait-for-session=1\nunknown = 5\n";
        let expected = ServiceConfig {
            force_user: Some("root".to_owned()),
            wait_for_session: true,
        };
        assert_eq!(config(full).unwrap(), expected);
        for bad in [
            "[section]",
            "force-user = root",
            "force-user = 'a' 'b'",
            " a = 1",
            "a = 1\na = 2",
            "wait-for-session = yes",
        ] {
            assert!(config(bad).is_err(), "{bad}");
        }
    }
}
