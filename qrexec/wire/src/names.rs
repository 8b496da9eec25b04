//! Names of services and targets as a caller wrote them, made harmless before anyone judges or runs them.
//!
//! The reference replaces characters rather than refusing them (`a/b` is judged and run as `a_b`), and so do we:
//! what is judged is exactly what is run.

use std::{fmt, str::FromStr};

use crate::limits::{MAX_SERVICE_CALL, MAX_SERVICE_NAME, TARGET_FIELD};

fn is_service_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._+-".contains(&byte)
}

fn is_target_byte(byte: u8) -> bool {
    is_service_byte(byte) || b"@:".contains(&byte)
}

fn replace(bytes: &[u8], allowed: impl Fn(u8) -> bool) -> String {
    bytes
        .iter()
        .map(|byte| {
            if allowed(*byte) {
                char::from(*byte)
            } else {
                '_'
            }
        })
        .collect()
}

/// Why a text cannot be the name of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidService {
    /// Nothing before the `+`.
    #[error("the service name is empty")]
    Empty,
    /// A NUL inside.
    #[error("the service name holds a NUL")]
    Nul,
    /// The part before `+` is longer than a file name.
    #[error("the service name has {0} bytes, {MAX_SERVICE_NAME} are allowed")]
    NameTooLong(usize),
    /// Service and argument are longer than a frame holds.
    #[error("service and argument have {0} bytes, {max} are allowed", max = MAX_SERVICE_CALL - 1)]
    TooLong(usize),
    /// `.` or `..`, which name directories.
    #[error("'.' and '..' are not service names")]
    Directory,
    /// Only when nothing may be replaced: a character outside `[A-Za-z0-9._+-]`.
    #[error("a service name holds only letters, digits, '.', '_', '+' and '-'")]
    Charset,
}

/// A service and its argument, of `[A-Za-z0-9._+-]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceCall {
    full: String,
    plus: usize,
}

impl ServiceCall {
    /// Reads what a VM asked for, replacing characters that no service has.
    ///
    /// # Errors
    /// [`InvalidService`] for what cannot be made a name by that.
    pub fn sanitise(raw: &[u8]) -> Result<Self, InvalidService> {
        if raw.contains(&0) {
            return Err(InvalidService::Nul);
        }
        let mut full = replace(raw, is_service_byte);
        if !full.contains('+') {
            full.push('+');
        }
        let plus = full.find('+').unwrap_or_default();
        match full.get(..plus).unwrap_or_default() {
            "" => return Err(InvalidService::Empty),
            "." | ".." => return Err(InvalidService::Directory),
            name if name.len() > MAX_SERVICE_NAME => {
                return Err(InvalidService::NameTooLong(name.len()));
            }
            _ => {}
        }
        if full.len() >= MAX_SERVICE_CALL {
            return Err(InvalidService::TooLong(full.len()));
        }
        Ok(Self { full, plus })
    }

    /// The service, without argument.
    pub fn service(&self) -> &str {
        self.full.get(..self.plus).unwrap_or_default()
    }

    /// The argument with its leading `+`; `+` alone when there is none.
    pub fn argument(&self) -> &str {
        self.full.get(self.plus..).unwrap_or_default()
    }

    /// Service and argument, always with a `+` between.
    pub fn full(&self) -> &str {
        &self.full
    }
}

impl FromStr for ServiceCall {
    type Err = InvalidService;

    /// Reads what a person wrote: nothing is replaced.
    fn from_str(text: &str) -> Result<Self, InvalidService> {
        let call = Self::sanitise(text.as_bytes())?;
        if !text.bytes().all(is_service_byte) {
            return Err(InvalidService::Charset);
        }
        Ok(call)
    }
}

impl fmt::Display for ServiceCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

/// What a caller asked to reach, of `[A-Za-z0-9._+@:-]`, at most 63 bytes; empty means the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Target(String);

impl Target {
    /// Reads what a VM asked for, replacing characters that no target has; longer texts are cut.
    ///
    /// The fields of the wire cannot hold longer texts, so the cut only guards other callers.
    pub fn sanitise(raw: &[u8]) -> Self {
        let raw = raw.get(..TARGET_FIELD - 1).unwrap_or(raw);
        Self(replace(raw, is_target_byte))
    }

    /// The target as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_services_are_made_harmless_or_refused() {
        let long_name = "a".repeat(MAX_SERVICE_NAME + 1);
        let long_argument = format!("a+{}", "b".repeat(MAX_SERVICE_CALL));
        for (raw, expected) in [
            ("qubes.Filecopy", Ok(("qubes.Filecopy", "+"))),
            ("qubes.Filecopy+", Ok(("qubes.Filecopy", "+"))),
            ("a+b+c", Ok(("a", "+b+c"))),
            ("a/b", Ok(("a_b", "+"))),
            ("/abs", Ok(("_abs", "+"))),
            ("a\nb", Ok(("a_b", "+"))),
            ("$HOME", Ok(("_HOME", "+"))),
            ("`id`", Ok(("_id_", "+"))),
            ("%s ", Ok(("_s_", "+"))),
            ("é", Ok(("__", "+"))),
            ("s+../../x", Ok(("s", "+.._.._x"))),
            ("s+-rf", Ok(("s", "+-rf"))),
            ("s+*", Ok(("s", "+_"))),
            ("s+@anyvm", Ok(("s", "+_anyvm"))),
            ("", Err(InvalidService::Empty)),
            ("+", Err(InvalidService::Empty)),
            ("+arg", Err(InvalidService::Empty)),
            (".", Err(InvalidService::Directory)),
            ("..+x", Err(InvalidService::Directory)),
            ("a\0b", Err(InvalidService::Nul)),
            (
                &long_name,
                Err(InvalidService::NameTooLong(MAX_SERVICE_NAME + 1)),
            ),
            (
                &long_argument,
                Err(InvalidService::TooLong(MAX_SERVICE_CALL + 2)),
            ),
        ] {
            let call = ServiceCall::sanitise(raw.as_bytes());
            let parts = call
                .as_ref()
                .map(|call| (call.service(), call.argument()))
                .map_err(|error| *error);
            assert_eq!(parts, expected, "{raw:?}");
        }
        assert_eq!("a/b".parse::<ServiceCall>(), Err(InvalidService::Charset));
    }

    #[test]
    fn hostile_targets_are_made_harmless() {
        for (raw, expected) in [
            ("", ""),
            ("work", "work"),
            ("@dispvm:tpl", "@dispvm:tpl"),
            ("uuid:12-34", "uuid:12-34"),
            ("$dispvm", "_dispvm"),
            ("a b\n", "a_b_"),
            ("\u{202e}x", "___x"),
        ] {
            assert_eq!(
                Target::sanitise(raw.as_bytes()).as_str(),
                expected,
                "{raw:?}"
            );
        }
        assert_eq!(Target::sanitise(&[b'a'; 100]).as_str().len(), 63);
    }
}
