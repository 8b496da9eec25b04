//! All connections of a VM: who gets a packet of the guest, and whose turn it is to send one.

use std::collections::{BTreeMap, VecDeque};

use vm_memory::GuestMemoryMmap;

use super::connection::{Connection, Violation};
use super::credit::{Budget, MAX_CONNECTIONS};
use super::links::Links;
use super::packet::{
    FromGuest, GuestCid, HEADER, HOST_CID, MAX_PAYLOAD, Operation, Ports, ToGuest,
};
use crate::event_loop::{Ready, Registrar};
use crate::scatter::View;

/// Refusals that wait for buffers of the guest. While there are so many, no packet of the guest is taken, so that a
/// flood of requests from a guest that gives no buffers costs no memory.
const MAX_RESETS: usize = 256;

/// The smallest buffer of the guest that is used: a header and a byte, so that data can always move.
pub(super) const MIN_BUFFER: usize = HEADER + 1;

#[derive(Debug)]
pub(super) struct Muxer {
    guest: GuestCid,
    /// Token of a connection is this plus its place.
    token_base: u32,
    places: Vec<Option<Connection>>,
    /// Connections that the guest knows; an orphan has a place but is not here.
    by_ports: BTreeMap<Ports, usize>,
    /// Places whose connection wants a turn, each at most once.
    turns: VecDeque<usize>,
    resets: VecDeque<Ports>,
    budget: Budget,
}

impl Muxer {
    pub(super) fn new(guest: GuestCid, token_base: u32) -> Self {
        Self {
            guest,
            token_base,
            places: Vec::new(),
            by_ports: BTreeMap::new(),
            turns: VecDeque::new(),
            resets: VecDeque::new(),
            budget: Budget::default(),
        }
    }

    /// Whether a packet of the guest can be taken now; every packet makes at most one refusal.
    pub(super) fn can_receive(&self) -> bool {
        self.resets.len() < MAX_RESETS
    }

    /// Whether [`Muxer::send`] may have something.
    pub(super) fn wants_to_send(&self) -> bool {
        !self.resets.is_empty() || !self.turns.is_empty()
    }

    /// Takes a packet of the guest; `payload` is everything that came after the header.
    pub(super) fn receive(
        &mut self,
        packet: &FromGuest,
        payload: View<'_>,
        memory: &GuestMemoryMmap,
        links: &mut Links,
        registrar: &mut Registrar<'_>,
    ) {
        // A guest speaks for itself and to the host only; anything else has no one to answer it.
        if packet.source_cid != self.guest.get() || packet.destination_cid != HOST_CID {
            return;
        }
        let ports = packet.ports;
        let place = self.by_ports.get(&ports).copied();
        match (place, packet.operation) {
            (_, operation) if !packet.stream => {
                if operation != Operation::Reset {
                    self.resets.push_back(ports);
                }
            }
            (None, Operation::Reset) => {}
            (None, Operation::Request) => self.open(packet, links, registrar),
            (None, _) => self.resets.push_back(ports),
            (Some(place), Operation::Reset) => {
                self.by_ports.remove(&ports);
                let orphan = self.with(place, |connection| connection.guest_reset());
                if orphan == Some(true) {
                    self.settle(place, registrar);
                } else {
                    self.remove(place, registrar);
                }
            }
            (Some(place), _) => {
                let outcome = self.with(place, |connection| {
                    apply(connection, packet, payload, memory)
                });
                if outcome == Some(Ok(())) {
                    self.settle(place, registrar);
                } else {
                    self.abort(place, registrar);
                }
            }
        }
    }

    fn with<T>(&mut self, place: usize, f: impl FnOnce(&mut Connection) -> T) -> Option<T> {
        self.places.get_mut(place)?.as_mut().map(f)
    }

    fn open(&mut self, packet: &FromGuest, links: &mut Links, registrar: &mut Registrar<'_>) {
        let ports = packet.ports;
        let free = self.places.iter().position(Option::is_none);
        let place = free.unwrap_or(self.places.len());
        if place >= MAX_CONNECTIONS {
            tracing::debug!(?ports, "connection refused: there are too many");
            self.resets.push_back(ports);
            return;
        }
        let Some(stream) = links.claim(ports.host, registrar) else {
            tracing::debug!(?ports, "connection refused: nothing is offered there");
            self.resets.push_back(ports);
            return;
        };
        let connection = Connection::new(ports, stream, packet.window, self.budget.take());
        if place == self.places.len() {
            self.places.push(None);
        }
        if let Some(room) = self.places.get_mut(place) {
            *room = Some(connection);
        }
        self.by_ports.insert(ports, place);
        self.settle(place, registrar);
    }

    /// A connection's socket became ready.
    pub(super) fn socket_ready(&mut self, token: u32, ready: Ready, registrar: &mut Registrar<'_>) {
        let place = token.checked_sub(self.token_base).map(usize::try_from);
        let Some(Ok(place)) = place else {
            return;
        };
        if self
            .with(place, |connection| connection.socket_ready(ready))
            .is_some()
        {
            self.settle(place, registrar);
        }
    }

    /// Draws the consequences of an event of a connection.
    fn settle(&mut self, place: usize, registrar: &mut Registrar<'_>) {
        let token = self.token(place);
        let Some(Some(connection)) = self.places.get_mut(place) else {
            return;
        };
        if connection.settle() {
            self.remove(place, registrar);
            return;
        }
        if let Err(error) = connection.watch(token, registrar) {
            tracing::warn!(ports = ?connection.ports, %error, "a connection cannot be watched");
            self.abort(place, registrar);
            return;
        }
        if connection.wants_turn() && !connection.queued {
            connection.queued = true;
            self.turns.push_back(place);
        }
    }

    /// Ends the guest's connections to a port of the host, at once; whatever is on its way in them is lost.
    pub(super) fn cut(&mut self, port: u32, registrar: &mut Registrar<'_>) {
        let of_port = |connection: &Connection| connection.ports.host == port;
        for place in 0..self.places.len() {
            let place_holds = self.places.get(place).and_then(Option::as_ref);
            if place_holds.is_some_and(of_port) {
                self.abort(place, registrar);
            }
        }
    }

    fn token(&self, place: usize) -> u32 {
        // Places are below MAX_CONNECTIONS.
        self.token_base
            .saturating_add(u32::try_from(place).unwrap_or(u32::MAX))
    }

    /// Takes a connection away and tells the guest.
    fn abort(&mut self, place: usize, registrar: &mut Registrar<'_>) {
        if let Some((ports, false)) = self.with(place, |gone| (gone.ports, gone.is_orphan())) {
            self.resets.push_back(ports);
        }
        self.remove(place, registrar);
    }

    fn remove(&mut self, place: usize, registrar: &mut Registrar<'_>) {
        let Some(mut gone) = self.places.get_mut(place).and_then(Option::take) else {
            return;
        };
        gone.unwatch(registrar);
        self.budget.give_back(gone.buffer());
        if gone.queued {
            self.turns.retain(|waiting| *waiting != place);
        }
        if self.by_ports.get(&gone.ports) == Some(&place) {
            self.by_ports.remove(&gone.ports);
        }
    }

    /// Puts the next packet into a buffer of the guest of at least [`MIN_BUFFER`] bytes; returns its whole length.
    /// Connections take turns of one packet each.
    pub(super) fn send(
        &mut self,
        memory: &GuestMemoryMmap,
        buffer: View<'_>,
        registrar: &mut Registrar<'_>,
    ) -> Option<u32> {
        let (head, room) = buffer.split_at(HEADER);
        let (room, _) = room.split_at(MAX_PAYLOAD);
        let packet = match self.resets.pop_front() {
            Some(ports) => ToGuest::reset(ports),
            None => self.next_turn(memory, room, registrar)?,
        };
        head.write(memory, &packet.encode(self.guest));
        Some(u32::try_from(HEADER).ok()?.saturating_add(packet.len))
    }

    fn next_turn(
        &mut self,
        memory: &GuestMemoryMmap,
        room: View<'_>,
        registrar: &mut Registrar<'_>,
    ) -> Option<ToGuest> {
        while let Some(place) = self.turns.pop_front() {
            let packet = self.with(place, |connection| {
                connection.queued = false;
                connection.produce(memory, room)
            });
            match packet.flatten() {
                Some(packet) if packet.operation == Operation::Reset => {
                    self.remove(place, registrar);
                    return Some(packet);
                }
                Some(packet) => {
                    self.settle(place, registrar);
                    return Some(packet);
                }
                None => self.settle(place, registrar),
            }
        }
        None
    }

    /// Forgets everything: the guest's driver was reset.
    pub(super) fn clear(&mut self, registrar: &mut Registrar<'_>) {
        for place in 0..self.places.len() {
            self.remove(place, registrar);
        }
        self.places.clear();
        self.resets.clear();
    }
}

/// What a packet does to the connection it belongs to.
fn apply(
    connection: &mut Connection,
    packet: &FromGuest,
    payload: View<'_>,
    memory: &GuestMemoryMmap,
) -> Result<(), Violation> {
    connection.window(packet.window)?;
    match packet.operation {
        Operation::Data => {
            let len = usize::try_from(packet.len).map_err(|_| Violation)?;
            if len > MAX_PAYLOAD || len > payload.len() {
                return Err(Violation);
            }
            connection.data(memory, payload.split_at(len).0)
        }
        Operation::Shutdown => {
            connection.shut(packet.shut);
            Ok(())
        }
        Operation::CreditUpdate => Ok(()),
        Operation::CreditRequest => {
            connection.credit_requested();
            Ok(())
        }
        // It has asked already, it is never asked, and what we do not know we cannot obey.
        Operation::Request | Operation::Response | Operation::Reset | Operation::Unknown(_) => {
            Err(Violation)
        }
    }
}
