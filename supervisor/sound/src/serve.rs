//! The thread of one line: its socket and its connection to PipeWire on one loop.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use casemate_link::{Error, PacketSocket};
use casemate_sound_wire::{MAX_PACKET, Report};
use casemate_vm::VmName;
use pipewire::{
    context::ContextRc, loop_::Timeout, main_loop::MainLoopRc, spa::support::system::IoFlags,
};

use crate::{
    line::{Direction, Line, Wrong},
    server::Server,
};

/// Most packets that are read before the sound server has its turn.
const TURN: usize = 64;

/// Why a line ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error("its socket was closed")]
    Closed,
    #[error("its vmm said what is not of the wire: {0}")]
    Wrong(#[from] Wrong),
    #[error("its socket failed: {0}")]
    Socket(#[source] Error),
    #[error("PipeWire's library gives no loop: {0}")]
    Loop(#[from] pipewire::Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        match error {
            Error::Closed => Self::Closed,
            other => Self::Socket(other),
        }
    }
}

/// Whose line it is, and who is told of it.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) vm: VmName,
    pub(crate) direction: Direction,
    pub(crate) supervisor: Arc<PacketSocket>,
}

impl Place {
    /// Tells the supervisor. One that does not read misses it.
    pub(crate) fn report(&self, report: Report) {
        let _ = self.supervisor.send(&report.encode(), &[]);
    }
}

/// Serves a line until it ends, and says why.
pub(crate) fn line(place: Place, socket: PacketSocket) -> End {
    let Err(end) = run(place, socket);
    end
}

fn run(place: Place, socket: PacketSocket) -> Result<std::convert::Infallible, End> {
    socket
        .set_nonblocking(true)
        .map_err(|error| End::Socket(Error::Io(error)))?;
    let socket = Rc::new(socket);
    let main_loop = MainLoopRc::new(None)?;
    let context = ContextRc::new(&main_loop, None)?;
    let line = Rc::new(RefCell::new(Line::new(place.direction)));
    let mut server = Server::new(context, place, Rc::clone(&line), Rc::clone(&socket));
    // It only ends the wait below.
    let raw = Raw(Rc::clone(&socket));
    let _wake = main_loop.loop_().add_io(raw, IoFlags::IN, |_| {});
    loop {
        let wait = server.tend().map_or(Timeout::Infinite, Timeout::Finite);
        main_loop.loop_().iterate(wait);
        for _ in 0..TURN {
            // A byte more than there may be, so that a longer packet is refused.
            let packet = match socket.receive(MAX_PACKET.saturating_add(1)) {
                Ok(packet) => packet,
                Err(Error::WouldBlock) => break,
                Err(error) => return Err(error.into()),
            };
            let begun = line.borrow_mut().receive(&packet.bytes, &mut server)?;
            if begun && let Some(heard) = line.borrow().heard(0.0) {
                say(&socket, &heard);
            }
        }
    }
}

/// Tells the vmm. One that does not read misses it; one that has gone shows when its socket is read.
pub(crate) fn say(socket: &PacketSocket, packet: &[u8]) {
    let _ = socket.send(packet, &[]);
}

/// What the loop watches.
struct Raw(Rc<PacketSocket>);

impl std::os::fd::AsRawFd for Raw {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        use std::os::fd::AsFd as _;
        self.0.as_fd().as_raw_fd()
    }
}
