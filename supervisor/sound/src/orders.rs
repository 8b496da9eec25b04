//! Follows the supervisor's orders: a thread for every socket that comes, and an end to those that are taken back.

use std::{collections::BTreeMap, os::fd::OwnedFd, sync::Arc, thread};

use casemate_link::{Error, Packet, PacketSocket};
use casemate_sound_wire::{MAX_NAME, Order, Report};
use casemate_vm::VmName;
use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{Shutdown, shutdown},
};

use crate::{
    line::Direction,
    serve::{self, End, Place},
};

/// Most lines at once: each has threads and a connection. Beyond it a VM is silent.
const MAX_LINES: usize = 256;

/// A line that runs.
struct Running {
    /// The same socket as the thread's; shutting it down ends both sides.
    socket: OwnedFd,
    thread: thread::JoinHandle<()>,
}

/// Lines by VM; for each at most one to play and one to record.
struct Lines {
    of: BTreeMap<(VmName, bool), Running>,
    supervisor: Arc<PacketSocket>,
}

/// Follows orders until the supervisor's socket is closed. Every line ends with the process.
///
/// # Errors
/// When the socket fails, or is none.
pub(crate) fn follow(supervisor: PacketSocket) -> Result<(), Error> {
    // A supervisor that hears nothing must not keep a line from playing.
    supervisor.set_nonblocking(true).map_err(Error::Io)?;
    supervisor.send(&Report::Ready.encode(), &[])?;
    let supervisor = Arc::new(supervisor);
    let mut lines = Lines {
        of: BTreeMap::new(),
        supervisor: Arc::clone(&supervisor),
    };
    loop {
        poll(&mut [PollFd::new(&*supervisor, PollFlags::IN)], None)?;
        match supervisor.receive(MAX_NAME.saturating_add(2)) {
            Ok(packet) => {
                if let Err(what) = lines.obey(packet) {
                    tracing::warn!(what, "an order was not followed");
                }
            }
            Err(Error::WouldBlock) => {}
            Err(Error::Truncated) => tracing::warn!("an order was too long"),
            Err(Error::Closed) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

impl Lines {
    fn obey(&mut self, packet: Packet) -> Result<(), String> {
        let order = Order::decode(&packet.bytes).ok_or("no order that there is")?;
        let mut sockets = packet.descriptors.into_iter();
        let (name, direction) = match order {
            Order::Speaker(name) => (name, Direction::Play),
            Order::Recorder(name) | Order::Revoke(name) => (name, Direction::Record),
        };
        let name: VmName = name.parse().map_err(|error| format!("{error}"))?;
        match (order, sockets.next(), sockets.next()) {
            (Order::Revoke(_), None, None) => {
                self.end(&name, direction);
                Ok(())
            }
            (Order::Speaker(_) | Order::Recorder(_), Some(socket), None) => {
                self.end(&name, direction);
                self.begin(name, direction, socket)
            }
            _ => Err(format!(
                "{name}: another number of sockets than the order has"
            )),
        }
    }

    fn begin(&mut self, name: VmName, direction: Direction, socket: OwnedFd) -> Result<(), String> {
        self.of.retain(|_, line| !line.thread.is_finished());
        if self.of.len() >= MAX_LINES {
            return Err(format!("{name}: {MAX_LINES} lines are in use"));
        }
        let say = |error: std::io::Error| format!("{name}: {error}");
        let kept = socket.try_clone().map_err(say)?;
        let ended = socket.try_clone().map_err(say)?;
        let place = Place {
            vm: name.clone(),
            direction,
            supervisor: Arc::clone(&self.supervisor),
        };
        let thread = thread::Builder::new()
            .name(format!("vm {name}").chars().take(15).collect())
            .spawn(move || {
                let vm = place.vm.clone();
                tracing::info!(%vm, ?direction, "connected");
                match serve::line(place, socket.into()) {
                    End::Closed => tracing::info!(%vm, ?direction, "closed"),
                    end => tracing::warn!(%vm, ?direction, %end, "a line was ended"),
                }
                // The copy that is kept to end the line would keep the vmm waiting.
                let _ = shutdown(&ended, Shutdown::Both);
            })
            .map_err(say)?;
        let running = Running {
            socket: kept,
            thread,
        };
        self.of
            .insert((name, direction == Direction::Record), running);
        Ok(())
    }

    /// Ends a line if there is one; nothing goes over its socket any more when this returns.
    fn end(&mut self, name: &VmName, direction: Direction) {
        let key = (name.clone(), direction == Direction::Record);
        if let Some(line) = self.of.remove(&key) {
            // It may have ended already.
            let _ = shutdown(&line.socket, Shutdown::Both);
        }
    }
}
