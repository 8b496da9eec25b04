//! A service's configuration: a sliver of TOML (specification of qrexec, 1.6).

/// Largest configuration in bytes; longer ones are no configuration of one service.
pub(crate) const MAX_CONFIG: usize = 4096;

/// A service's configuration. Keys that we do not know are ignored, as the reference does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServiceConfig {
    /// Run as this account, whatever policy said.
    pub(crate) force_user: Option<String>,
    /// Wait for the person's session first.
    pub(crate) wait_for_session: bool,
    /// A socket service gets no line that says who calls.
    pub(crate) skip_service_descriptor: bool,
    /// The client's end of input ends a socket call.
    pub(crate) exit_on_client_eof: bool,
    /// The service's end of output ends a socket call.
    pub(crate) exit_on_service_eof: bool,
}

#[derive(Debug)]
enum Value<'a> {
    Bool(bool),
    Number(u64),
    Text(&'a str),
}

impl ServiceConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// What is wrong, with its line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_CONFIG {
            return Err(format!("longer than {MAX_CONFIG} bytes"));
        }
        let mut config = Self::default();
        let mut seen = Vec::new();
        for (index, line) in text.split('\n').enumerate() {
            let line = line.strip_suffix('\r').unwrap_or(line);
            config
                .line(line, &mut seen)
                .map_err(|what| format!("line {}: {what}", index + 1))?;
        }
        let of_sockets = config.skip_service_descriptor
            || config.exit_on_client_eof
            || config.exit_on_service_eof;
        if config.force_user.is_some() && of_sockets {
            return Err("force-user means programs, the other keys mean sockets".to_owned());
        }
        Ok(config)
    }

    fn line<'a>(&mut self, line: &'a str, seen: &mut Vec<&'a str>) -> Result<(), &'static str> {
        if line.contains(['\0', '\r']) {
            return Err("a control character");
        }
        if line.starts_with('#') || line.trim_matches([' ', '\t']).is_empty() {
            return Ok(());
        }
        let (key, value) = line.split_once('=').ok_or("expected key = value")?;
        let key = key.trim_end_matches([' ', '\t']);
        let letter = key.starts_with(|first: char| first.is_ascii_alphabetic());
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if !letter || !key.chars().all(plain) {
            return Err("a key starts with a letter at the start of the line");
        }
        if seen.contains(&key) {
            return Err("the key stands twice");
        }
        seen.push(key);
        let value = Value::parse(value.trim_start_matches([' ', '\t']))?;
        match (key, value) {
            ("force-user", Value::Text(name)) => self.force_user = Some(name.to_owned()),
            ("force-user", _) => return Err("expected 'text'"),
            ("wait-for-session", Value::Bool(on)) => self.wait_for_session = on,
            ("wait-for-session", Value::Number(on @ 0..=1)) => self.wait_for_session = on == 1,
            ("skip-service-descriptor", Value::Bool(on)) => self.skip_service_descriptor = on,
            ("exit-on-client-eof", Value::Bool(on)) => self.exit_on_client_eof = on,
            ("exit-on-service-eof", Value::Bool(on)) => self.exit_on_service_eof = on,
            (
                "wait-for-session"
                | "skip-service-descriptor"
                | "exit-on-client-eof"
                | "exit-on-service-eof",
                _,
            ) => return Err("expected true or false"),
            (unknown, _) => tracing::info!(
                key = unknown,
                "a service's configuration has an unknown key"
            ),
        }
        Ok(())
    }
}

impl<'a> Value<'a> {
    /// A value and perhaps a comment.
    fn parse(text: &'a str) -> Result<Self, &'static str> {
        let (value, rest) = if let Some(quoted) = text.strip_prefix('\'') {
            let (value, rest) = quoted
                .split_once('\'')
                .ok_or("a text without closing quote")?;
            (Self::Text(value), rest)
        } else {
            let end = text.find([' ', '\t', '#']).unwrap_or(text.len());
            let (word, rest) = text.split_at(end);
            (Self::word(word)?, rest)
        };
        let rest = rest.trim_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with('#') {
            return Err("something stands behind the value");
        }
        Ok(value)
    }

    fn word(word: &str) -> Result<Self, &'static str> {
        let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        match word {
            "true" => Ok(Self::Bool(true)),
            "false" => Ok(Self::Bool(false)),
            "0" => Ok(Self::Number(0)),
            number if digits && !number.starts_with('0') => number
                .parse()
                .map(Self::Number)
                .map_err(|_| "the number is too large"),
            _ => Err("expected true, false, a decimal number or 'text'"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_ship_is_understood() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/guest-files/rpc-config");
        for file in std::fs::read_dir(dir).unwrap() {
            let path = file.unwrap().path();
            let config = ServiceConfig::parse(&std::fs::read_to_string(&path).unwrap());
            assert_ne!(config, Ok(ServiceConfig::default()), "{}", path.display());
            assert!(config.is_ok(), "{}: {config:?}", path.display());
        }
    }

    #[test]
    fn configurations() {
        let full = "# c\r\nforce-user = 'root' # why\nwait-for-session=1\nunknown = 5\n\n";
        let expected = ServiceConfig {
            force_user: Some("root".to_owned()),
            wait_for_session: true,
            ..ServiceConfig::default()
        };
        assert_eq!(ServiceConfig::parse(full).unwrap(), expected);
        let sockets = "skip-service-descriptor\t=\ttrue#c\nexit-on-client-eof = false\r\nexit-on-service-eof = true ";
        let expected = ServiceConfig {
            skip_service_descriptor: true,
            exit_on_service_eof: true,
            ..ServiceConfig::default()
        };
        assert_eq!(ServiceConfig::parse(sockets).unwrap(), expected);
        for good in [
            "",
            "\n",
            "# only",
            "wait-for-session = 0",
            "a_b-c = 'x'",
            "force-user = ''",
        ] {
            assert!(ServiceConfig::parse(good).is_ok(), "{good:?}");
        }
        let long = "#".repeat(MAX_CONFIG + 1);
        for bad in [
            "[section]",
            "force-user = root",
            "force-user = \"root\"",
            "force-user = 'a' 'b'",
            "force-user = 'a",
            "force-user = true",
            " a = 1",
            "1a = 1",
            "= 1",
            "a b = 1",
            "a = 1\na = 2",
            "a = 01",
            "a = -1",
            "a = 0x1",
            "a = 99999999999999999999",
            "a =",
            "a",
            "a = 1 b",
            "a = 'x'\0",
            "a = 1\r\r\n",
            "wait-for-session = yes",
            "wait-for-session = 2",
            "skip-service-descriptor = 1",
            "force-user = 'root'\nexit-on-client-eof = true",
            long.as_str(),
        ] {
            assert!(ServiceConfig::parse(bad).is_err(), "{bad:?}");
        }
        assert!(
            ServiceConfig::parse("x = 1\ny = ?")
                .unwrap_err()
                .contains("line 2")
        );
    }
}
