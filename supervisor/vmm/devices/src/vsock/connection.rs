//! One stream of the guest joined with one stream socket of a service.
//!
//! Each direction ends on its own, and the end of both takes the connection down:
//!
//! ```text
//!  guest shuts sending    -> backlog is written out -> the service reads its end
//!  guest shuts receiving  -> the service's writes fail
//!  guest shut both        -> backlog is written out -> RESET to the guest, connection gone
//!  service ends sending   -> everything read is sent -> SHUTDOWN(sending) to the guest
//!  service stops reading  -> backlog is dropped      -> SHUTDOWN(receiving) to the guest
//!  guest resets           -> gone; but a guest that had shut sending waits only so long for our RESET, so what it
//!                            sent before is still written out to the service (an orphan)
//! ```
//!
//! Nothing here waits: a socket that is not ready is watched by the loop, a guest without credit or buffers is served
//! when it has some.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use vm_memory::GuestMemoryMmap;

use super::backlog::Backlog;
use super::credit::{ReceiveCredit, SendCredit};
use super::links::hung_up;
use super::packet::{MAX_PAYLOAD, Operation, Ports, Shut, ToGuest, Window};
use crate::event_loop::{Interest, Ready, Registrar};
use crate::scatter::{View, io as guest_io};

/// The guest broke the protocol; its connection is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Violation;

/// Packets that the guest is still to get, apart from data and shutdown, which follow from the state.
#[derive(Debug, Default)]
struct Owed {
    response: bool,
    reset: bool,
    credit_update: bool,
    credit_request: bool,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) ports: Ports,
    /// Whether it is in the muxer's queue of those who want a turn.
    pub(super) queued: bool,
    socket: OwnedFd,
    send: SendCredit,
    receive: ReceiveCredit,
    backlog: Backlog,
    owed: Owed,
    /// Credit was asked for and none has come since.
    asked: bool,
    /// The last read did not find the socket empty.
    readable: bool,
    /// The service will send no more, and everything it sent was read.
    ended: bool,
    /// The service reads no more.
    deaf: bool,
    hung_up: bool,
    /// What the guest has shut, and what it was told that the service has shut.
    guest: Shut,
    told: Shut,
    write_end_shut: bool,
    /// The guest has forgotten it.
    orphan: bool,
    watched: Option<Interest>,
    /// The loop reported what was known already: watch for no more than is needed.
    noisy: bool,
}

impl Connection {
    /// A connection that the guest asked for; `buffer` is what it may send before the service takes any.
    pub(super) fn new(ports: Ports, socket: OwnedFd, window: Window, buffer: u32) -> Self {
        Self {
            ports,
            queued: false,
            socket,
            send: SendCredit::new(window.size),
            receive: ReceiveCredit::new(buffer),
            backlog: Backlog::default(),
            owed: Owed {
                response: true,
                ..Owed::default()
            },
            asked: false,
            readable: true,
            ended: false,
            deaf: false,
            hung_up: false,
            guest: Shut::default(),
            told: Shut::default(),
            write_end_shut: false,
            orphan: false,
            watched: None,
            noisy: false,
        }
    }

    /// The buffer promised to the guest, in bytes.
    pub(super) fn buffer(&self) -> u32 {
        self.receive.size()
    }

    /// Whether the guest has forgotten it.
    pub(super) fn is_orphan(&self) -> bool {
        self.orphan
    }

    /// Takes the window of any packet of the guest.
    pub(super) fn window(&mut self, window: Window) -> Result<(), Violation> {
        self.send.update(window).map_err(|_| Violation)?;
        if self.send.available() > 0 {
            self.asked = false;
            self.owed.credit_request = false;
        }
        Ok(())
    }

    /// The guest wants to hear of its window.
    pub(super) fn credit_requested(&mut self) {
        self.owed.credit_update = true;
    }

    /// The guest sent data.
    pub(super) fn data(
        &mut self,
        memory: &GuestMemoryMmap,
        payload: View<'_>,
    ) -> Result<(), Violation> {
        let len = u32::try_from(payload.len()).map_err(|_| Violation)?;
        if self.guest.sending {
            return Err(Violation);
        }
        self.receive.receive(len).map_err(|_| Violation)?;
        let mut rest = payload;
        while !rest.is_empty() && self.backlog.is_empty() && !self.deaf {
            match guest_io::send(&self.socket, memory, rest) {
                Ok(count) => {
                    self.forward(count);
                    rest = rest.after(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_gone) => self.deafen(),
            }
        }
        if self.deaf {
            self.forward(rest.len());
        } else if !rest.is_empty() && !self.backlog.push(memory, rest) {
            return Err(Violation);
        }
        Ok(())
    }

    /// The guest will not do something any more.
    pub(super) fn shut(&mut self, shut: Shut) {
        self.guest = self.guest.union(shut);
        if shut.receiving {
            let _ = shutdown(&self.socket, Shutdown::Read);
        }
    }

    /// The guest forgot the connection. False when it is over at once, true when an orphan remains.
    pub(super) fn guest_reset(&mut self) -> bool {
        self.orphan = self.guest.sending && !self.backlog.is_empty();
        if self.orphan {
            let _ = shutdown(&self.socket, Shutdown::Read);
        }
        self.orphan
    }

    /// The socket became ready.
    pub(super) fn socket_ready(&mut self, ready: Ready) {
        if ready.readable {
            self.noisy |= self.readable;
            self.readable = true;
        }
        // The loop may speak of the socket of a connection that had this place before, which has ended since.
        if ready.hung_up && hung_up(&self.socket) {
            self.hung_up = true;
            self.readable = true;
            self.deafen();
        }
        if ready.writable {
            self.noisy |= self.backlog.is_empty();
            self.write_out();
        }
    }

    fn write_out(&mut self) {
        while !self.backlog.is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match send(&self.socket, self.backlog.front(), flags) {
                Ok(count) => {
                    self.backlog.consume(count);
                    self.forward(count);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_gone) => self.deafen(),
            }
        }
    }

    /// The service reads no more: what is left for it counts as taken, so that the guest's sends do not hang.
    fn deafen(&mut self) {
        self.deaf = true;
        let lost = self.backlog.len();
        self.backlog.consume(lost);
        self.forward(lost);
    }

    fn forward(&mut self, count: usize) {
        self.receive
            .forward(u32::try_from(count).unwrap_or(u32::MAX));
        self.owed.credit_update |= !self.guest.sending && self.receive.worth_telling();
    }

    /// Draws the consequences of whatever happened. True when the connection can be taken away.
    pub(super) fn settle(&mut self) -> bool {
        if self.guest.sending && self.backlog.is_empty() {
            if !self.write_end_shut {
                self.write_end_shut = true;
                let _ = shutdown(&self.socket, Shutdown::Write);
            }
            self.owed.reset |= self.guest.receiving;
        }
        self.orphan && self.backlog.is_empty()
    }

    /// Whether [`Connection::produce`] may have something.
    pub(super) fn wants_turn(&self) -> bool {
        let owed = &self.owed;
        !self.orphan
            && (owed.response
                || owed.reset
                || owed.credit_update
                || owed.credit_request
                || self.untold().is_some()
                || self.may_read() && (self.send.available() > 0 || !self.asked))
    }

    fn may_read(&self) -> bool {
        self.readable && !self.ended && !self.guest.receiving
    }

    /// What the guest is to be told that the service has shut.
    fn untold(&self) -> Option<Shut> {
        let now = Shut {
            sending: self.ended,
            receiving: self.deaf,
        };
        (now.union(self.told) != self.told).then(|| now.union(self.told))
    }

    /// The next packet for the guest; its data, if any, was put into the first bytes of `room`.
    /// After a reset the connection is over.
    ///
    /// What the service has shut goes before data, because a service that no longer reads may write for ever; but
    /// after the little that a service which is gone has left behind, so that the guest hears of both ends at once.
    pub(super) fn produce(&mut self, memory: &GuestMemoryMmap, room: View<'_>) -> Option<ToGuest> {
        let mut shut = Shut::default();
        let mut len = 0;
        let operation = if self.orphan {
            return None;
        } else if self.owed.reset {
            Operation::Reset
        } else if std::mem::take(&mut self.owed.response) {
            Operation::Response
        } else if let Some(told) = self.untold().filter(|_| !self.hung_up) {
            shut = told;
            Operation::Shutdown
        } else if let Some(count) = self.read(memory, room) {
            len = count;
            Operation::Data
        } else if let Some(told) = self.untold() {
            shut = told;
            Operation::Shutdown
        } else if std::mem::take(&mut self.owed.credit_request) {
            Operation::CreditRequest
        } else if self.owed.credit_update {
            Operation::CreditUpdate
        } else {
            return None;
        };
        self.told = self.told.union(shut);
        self.owed.credit_update = false;
        Some(ToGuest {
            ports: self.ports,
            operation,
            len,
            shut,
            window: self.receive.tell(),
        })
    }

    /// Reads from the service into `room`, as much as credit allows.
    fn read(&mut self, memory: &GuestMemoryMmap, room: View<'_>) -> Option<u32> {
        if !self.may_read() {
            return None;
        }
        let credit = usize::try_from(self.send.available()).unwrap_or(0);
        if credit == 0 {
            self.look_without_credit();
            return None;
        }
        let (room, _) = room.split_at(credit.min(MAX_PAYLOAD));
        match guest_io::receive(&self.socket, memory, room) {
            Ok(0) => self.ended = true,
            Ok(count) => {
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                self.send.sent(count);
                return Some(count);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            Err(_gone) => {
                self.ended = true;
                self.deafen();
            }
        }
        None
    }

    /// Without credit only the end can be passed on; for data, credit is asked for once.
    fn look_without_credit(&mut self) {
        let mut byte = [0_u8; 1];
        match recv(
            &self.socket,
            &mut byte,
            RecvFlags::PEEK | RecvFlags::DONTWAIT,
        ) {
            Ok((0, _)) => self.ended = true,
            Ok(_) => {
                self.owed.credit_request |= !self.asked;
                self.asked = true;
            }
            Err(Errno::AGAIN | Errno::INTR) => self.readable = false,
            Err(_gone) => {
                self.ended = true;
                self.deafen();
            }
        }
    }

    /// Watches the socket for what is needed now. Watching for too much is only corrected once the loop was woken
    /// for nothing: a busy stream costs no system calls here.
    pub(super) fn watch(&mut self, token: u32, registrar: &mut Registrar<'_>) -> io::Result<()> {
        let noisy = std::mem::take(&mut self.noisy);
        let wanted = self.wanted();
        match (self.watched, wanted) {
            (None, None) => return Ok(()),
            (None, Some(interest)) => registrar.add(&self.socket, token, interest)?,
            (Some(_), None) => registrar.remove(&self.socket)?,
            (Some(now), Some(interest)) => {
                if now == interest || (!noisy && covers(now, interest)) {
                    return Ok(());
                }
                registrar.modify(&self.socket, token, interest)?;
            }
        }
        self.watched = wanted;
        Ok(())
    }

    /// Stops watching, before the socket is closed.
    pub(super) fn unwatch(&mut self, registrar: &mut Registrar<'_>) {
        if self.watched.take().is_some() {
            let _ = registrar.remove(&self.socket);
        }
    }

    fn wanted(&self) -> Option<Interest> {
        if self.hung_up {
            // It would be reported for ever, and there is nothing more to hear.
            return None;
        }
        let read = !self.readable && !self.ended && !self.guest.receiving && !self.orphan;
        Some(match (read, !self.backlog.is_empty()) {
            (false, false) => Interest::Nothing,
            (true, false) => Interest::Read,
            (false, true) => Interest::Write,
            (true, true) => Interest::ReadWrite,
        })
    }
}

fn covers(now: Interest, wanted: Interest) -> bool {
    match now {
        Interest::Nothing => wanted == Interest::Nothing,
        Interest::Read => matches!(wanted, Interest::Nothing | Interest::Read),
        Interest::Write => matches!(wanted, Interest::Nothing | Interest::Write),
        Interest::ReadWrite => true,
    }
}
