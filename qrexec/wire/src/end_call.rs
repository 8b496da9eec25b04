//! The one service that is part of the protocol: the host has an agent end a call whose stream it does not carry.

use crate::{CommandLine, ExecParams, Execute, Malformed, Work};

/// Ends a call that the VM serves. Only the host orders it (domain 0 of the frame): whoever else calls a service of this
/// name gets what is installed under it. An agent that does not know it has no such service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndCall(
    /// The parameters that the agent was given with the call.
    pub ExecParams,
);

impl EndCall {
    const SERVICE: &str = "casemate.EndCall";

    /// The order, in the name of `source`.
    ///
    /// # Errors
    /// Only when `source` is far too long.
    pub fn command_line(self, source: &str) -> Result<CommandLine, Malformed> {
        let Self(ExecParams { domain, port }) = self;
        let execute = Execute {
            user: "DEFAULT".to_owned(),
            nogui: true,
            work: Work::Service {
                call: format!("{}+{domain}.{port}", Self::SERVICE),
                source: source.to_owned(),
                target: None,
            },
        };
        execute.command_line()
    }

    /// Reads an order; `None` when a command is another one.
    pub fn parse(line: &CommandLine) -> Option<Self> {
        let Work::Service { call, .. } = Execute::parse(line).ok()?.work else {
            return None;
        };
        let place = call.strip_prefix(Self::SERVICE)?.strip_prefix('+')?;
        let (domain, port) = place.split_once('.')?;
        Some(Self(ExecParams {
            domain: number(domain)?,
            port: number(port)?,
        }))
    }
}

/// One spelling for each number.
fn number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_as_they_are_written() {
        let place = ExecParams {
            domain: 3,
            port: 514,
        };
        let line = EndCall(place).command_line("dom0").unwrap();
        assert_eq!(
            line.as_bytes(),
            b"DEFAULT:nogui:QUBESRPC casemate.EndCall+3.514 dom0"
        );
        assert_eq!(EndCall::parse(&line), Some(EndCall(place)));
        for other in [
            "u:casemate.EndCall+3.514",
            "u:QUBESRPC casemate.EndCall dom0",
            "u:QUBESRPC casemate.EndCall+ dom0",
            "u:QUBESRPC casemate.EndCall+3 dom0",
            "u:QUBESRPC casemate.EndCall+3.514.1 dom0",
            "u:QUBESRPC casemate.EndCall+03.514 dom0",
            "u:QUBESRPC casemate.EndCall++3.514 dom0",
            "u:QUBESRPC casemate.EndCall+-3.514 dom0",
            "u:QUBESRPC casemate.EndCall+3.4294967296 dom0",
            "u:QUBESRPC casemate.EndCalls+3.514 dom0",
        ] {
            let line = CommandLine::new(other.as_bytes().to_vec()).unwrap();
            assert_eq!(EndCall::parse(&line), None, "{other}");
        }
    }
}
