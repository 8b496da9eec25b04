//! Two VMs on one machine, and a host that only introduces them.

use std::process::Child;

use super::{Agent, CONNECT, EXEC, OWN, PEER, TERMINATED, TRIGGER4, frame, params};

/// A caller and a callee that share one directory of sockets.
pub(crate) struct Pair {
    pub(crate) caller: Agent,
    pub(crate) callee: Agent,
    port: u32,
}

impl Pair {
    pub(crate) fn start() -> Self {
        let caller = Agent::start(4);
        let callee = Agent::beside(&caller, PEER);
        Self {
            caller,
            callee,
            port: 600,
        }
    }

    /// A port that no call has had.
    pub(super) fn port(&mut self) -> u32 {
        self.port += 1;
        self.port
    }

    /// Starts a tool in the caller and does the host's part: every call goes to the callee.
    pub(crate) fn call(&mut self, arguments: &[&str]) -> Child {
        let tool = self.caller.tool(arguments).spawn().unwrap();
        let (kind, body) = self.caller.receive();
        assert_eq!(kind, TRIGGER4);
        let service = std::str::from_utf8(&body[160..])
            .unwrap()
            .trim_end_matches('\0');
        self.port();
        let order = format!("{}:QUBESRPC {service} caller\0", self.callee.user);
        let to_callee = [params(OWN, self.port), order.into()].concat();
        self.callee.send(&frame(EXEC, &to_callee));
        let to_caller = [&params(PEER, self.port), &body[128..160]].concat();
        self.caller.send(&frame(CONNECT, &to_caller));
        tool
    }

    pub(crate) fn over(&mut self) {
        assert_eq!(self.callee.receive(), (TERMINATED, params(OWN, self.port)));
        assert_eq!(self.caller.receive(), (TERMINATED, params(PEER, self.port)));
    }
}
