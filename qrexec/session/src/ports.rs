//! The data ports of one VM: which are in use, by which call, and whose offers are still open.

use std::{collections::HashMap, time::Instant};

use casemate_qrexec_wire::{
    ExecParams,
    limits::{FIRST_DATA_PORT, MAX_DATA_PORTS},
};

use crate::ADMIN_DOMAIN;

/// Calls that a VM takes part in over sockets, in both roles together: as many as it can have over a link. Stops a VM
/// from filling the broker's memory.
const MAX_MEETINGS: usize = MAX_DATA_PORTS as usize;

/// The ports that are in use.
#[derive(Debug)]
pub(crate) struct Ports<L> {
    used: HashMap<u32, Use<L>>,
    /// Calls that meet at sockets: the same port may be in use with several others.
    meetings: HashMap<ExecParams, Use<L>>,
    /// Where the search for a free port begins. Ports are used in turn, so that the late end of one call is not taken
    /// for the end of the next.
    next: u32,
}

#[derive(Debug)]
struct Use<L> {
    /// Domain number of the other end.
    peer: u32,
    /// When the offer is taken back; `None` when it was.
    offered_until: Option<Instant>,
    /// Dropped with the entry: whoever waits for the end of the call's leg sees that.
    _leg: L,
}

impl<L> Ports<L> {
    /// No port in use; `start` is any number, another one after each start of the broker.
    pub(crate) fn new(start: u32) -> Self {
        Self {
            used: HashMap::new(),
            meetings: HashMap::new(),
            next: start % MAX_DATA_PORTS,
        }
    }

    /// Takes a free port; `leg` is dropped when it is free again.
    pub(crate) fn take(&mut self, peer: u32, offered_until: Instant, leg: L) -> Option<u32> {
        let index = (0..MAX_DATA_PORTS)
            .map(|step| (self.next + step) % MAX_DATA_PORTS)
            .find(|index| !self.used.contains_key(&(FIRST_DATA_PORT + index)))?;
        self.next = (index + 1) % MAX_DATA_PORTS;
        let port = FIRST_DATA_PORT + index;
        let offered_until = Some(offered_until);
        let used = Use {
            peer,
            offered_until,
            _leg: leg,
        };
        self.used.insert(port, used);
        Some(port)
    }

    /// Takes a port for a socket between this VM, whose number is `own`, and another domain.
    ///
    /// Of each pair one takes even indices and the other odd ones, so that two brokers could never choose the same.
    pub(crate) fn meet(&mut self, own: u32, peer: u32, leg: L) -> Option<u32> {
        let (first, step) = match peer {
            ADMIN_DOMAIN => (0, 1),
            _ if peer > own => (1, 2),
            _ => (0, 2),
        };
        let of_parity = MAX_DATA_PORTS / step;
        let start = self.next;
        let index = (0..of_parity)
            .map(|turn| first + step * ((start + turn) % of_parity))
            .find(|index| {
                let port = FIRST_DATA_PORT + index;
                !self
                    .meetings
                    .contains_key(&ExecParams { domain: peer, port })
            })?;
        self.next = (start + 1) % MAX_DATA_PORTS;
        let port = FIRST_DATA_PORT + index;
        self.join(peer, port, leg).then_some(port)
    }

    /// Notes a port that the other VM has given to the call; `false` when this VM takes part in too many.
    pub(crate) fn join(&mut self, peer: u32, port: u32, leg: L) -> bool {
        if self.meetings.len() >= MAX_MEETINGS {
            return false;
        }
        let used = Use {
            peer,
            offered_until: None,
            _leg: leg,
        };
        self.meetings
            .insert(ExecParams { domain: peer, port }, used);
        true
    }

    /// Frees the port that an agent reports, if it means that call. Says whether.
    pub(crate) fn end(&mut self, params: ExecParams) -> bool {
        match self.used.get(&params.port) {
            Some(used) if used.peer == params.domain => self.used.remove(&params.port).is_some(),
            _ => self.meetings.remove(&params).is_some(),
        }
    }

    /// Whether a call with this other end has this port, over a link.
    pub(crate) fn is_in_use(&self, params: ExecParams) -> bool {
        let used = self.used.get(&params.port);
        used.is_some_and(|used| used.peer == params.domain)
    }

    /// Frees every port and returns them.
    pub(crate) fn free_all(&mut self) -> Vec<u32> {
        self.meetings.clear();
        self.used.drain().map(|(port, _)| port).collect()
    }

    /// How many calls take part in.
    pub(crate) fn len(&self) -> usize {
        self.used.len() + self.meetings.len()
    }

    /// Panics when something is not as it must always be.
    pub(crate) fn verify_invariants(&self) {
        let last = FIRST_DATA_PORT + MAX_DATA_PORTS;
        assert!(self.next < MAX_DATA_PORTS);
        assert!(self.meetings.len() <= MAX_MEETINGS);
        let ports = self
            .used
            .keys()
            .chain(self.meetings.keys().map(|params| &params.port));
        for port in ports {
            assert!((FIRST_DATA_PORT..last).contains(port), "port {port}");
        }
    }

    /// When the next offer must be taken back.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.used
            .values()
            .filter_map(|used| used.offered_until)
            .min()
    }

    /// Ports whose offers must be taken back now. They stay in use until the agent reports their end.
    pub(crate) fn overdue(&mut self, now: Instant) -> Vec<u32> {
        let mut overdue = Vec::new();
        for (port, used) in &mut self.used {
            if used.offered_until.is_some_and(|until| until <= now) {
                used.offered_until = None;
                overdue.push(*port);
            }
        }
        overdue
    }
}

#[cfg(test)]
mod tests {
    use std::{rc::Rc, time::Duration};

    use super::*;

    #[test]
    fn ports_are_taken_in_turn_and_freed_by_whom_they_belong_to() {
        let now = Instant::now();
        let mut ports = Ports::new(MAX_DATA_PORTS - 1);
        let take = |ports: &mut Ports<()>| ports.take(7, now, ());
        assert_eq!(take(&mut ports), Some(768));
        assert_eq!(take(&mut ports), Some(513));
        assert!(
            !ports.end(ExecParams {
                domain: 8,
                port: 513
            }),
            "another call's end"
        );
        assert!(!ports.end(ExecParams {
            domain: 7,
            port: 600
        }));
        assert!(ports.end(ExecParams {
            domain: 7,
            port: 513
        }));
        assert_eq!(
            take(&mut ports),
            Some(514),
            "not the one that was just freed"
        );
        let taken = std::iter::from_fn(|| take(&mut ports)).count();
        assert_eq!(taken, 256 - 2, "then there are no more");
        assert!(ports.end(ExecParams {
            domain: 7,
            port: 600
        }));
        assert_eq!(take(&mut ports), Some(600));
        assert_eq!(ports.free_all().len(), 256);
        assert_eq!(ports.next_deadline(), None);
    }

    #[test]
    fn sockets_have_ports_of_a_parity_and_by_peer() {
        let port = |ports: &mut Ports<()>, own, peer| ports.meet(own, peer, ());
        let mut ports = Ports::new(0);
        assert_eq!(
            port(&mut ports, 3, 4),
            Some(514),
            "the peer is the larger one"
        );
        let mut ports = Ports::new(0);
        assert_eq!(port(&mut ports, 4, 3), Some(513));
        assert_eq!(port(&mut ports, 4, 3), Some(515));
        assert_eq!(port(&mut ports, 4, 0), Some(515), "any, and by peer");
        assert!(
            ports.join(9, 513, ()),
            "the other VM's number counts for it alone"
        );
        assert!(ports.end(ExecParams {
            domain: 9,
            port: 513
        }));
        assert!(!ports.end(ExecParams {
            domain: 9,
            port: 513
        }));
        let more = std::iter::from_fn(|| port(&mut ports, 4, 3)).count();
        assert_eq!(more, 126);
        ports.free_all();
        assert_eq!(std::iter::from_fn(|| port(&mut ports, 4, 0)).count(), 256);
    }

    #[test]
    fn offers_are_taken_back_once_and_the_end_is_seen() {
        let now = Instant::now();
        let mut ports = Ports::new(0);
        let leg = Rc::new(());
        let port = ports
            .take(7, now + Duration::from_secs(5), Rc::clone(&leg))
            .unwrap();
        assert_eq!(ports.next_deadline(), Some(now + Duration::from_secs(5)));
        assert!(ports.overdue(now).is_empty());
        assert_eq!(ports.overdue(now + Duration::from_secs(6)), [port]);
        assert!(ports.overdue(now + Duration::from_secs(7)).is_empty());
        assert_eq!(Rc::strong_count(&leg), 2);
        ports.free_all();
        assert_eq!(Rc::strong_count(&leg), 1);
    }
}
