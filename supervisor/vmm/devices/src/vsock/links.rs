//! What the services offer: read from their links, kept by port until the guest takes it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, OwnedFd};

use casemate_link::{Error as LinkError, Packet, PacketSocket};
use casemate_vmm_control::{LinkKind, LinkMessage, MAX_OFFERS, MalformedLink};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionread;
use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};

use crate::event_loop::{Interest, Registrar};

/// Messages read in one turn of the loop; the rest waits for the next. Enough for every port of a service and back.
const TURN: usize = 2 * MAX_OFFERS;

/// The kinds of link, in the order of their tokens.
pub(super) const KINDS: [LinkKind; 2] = [LinkKind::Rpc, LinkKind::Windows];

/// Why a link was dropped.
#[derive(Debug, thiserror::Error)]
enum Misuse {
    #[error("the service closed it")]
    Closed,
    #[error(transparent)]
    Malformed(#[from] MalformedLink),
    #[error("port {0} is not among those of this service")]
    ForeignPort(u32),
    #[error("an offer came with {0} descriptors instead of one")]
    Descriptors(usize),
    #[error("what was offered is not a local stream socket")]
    NotAStream,
    #[error("more than {MAX_OFFERS} offers")]
    TooMany,
    #[error(transparent)]
    Socket(LinkError),
}

#[derive(Debug)]
struct Link {
    socket: PacketSocket,
    offers: BTreeMap<u32, OwnedFd>,
    watched: bool,
}

/// The links of a VM, at most one of each kind.
#[derive(Debug, Default)]
pub(super) struct Links {
    rpc: Option<Link>,
    windows: Option<Link>,
    /// Ports whose connections are to end; each is some service's own, so there are never many.
    cuts: BTreeSet<u32>,
}

impl Links {
    fn place(&mut self, kind: LinkKind) -> &mut Option<Link> {
        match kind {
            LinkKind::Rpc => &mut self.rpc,
            LinkKind::Windows => &mut self.windows,
        }
    }

    /// Replaces the link of a kind; offers made over the old one are dropped.
    pub(super) fn attach(
        &mut self,
        kind: LinkKind,
        socket: PacketSocket,
        registrar: &mut Registrar<'_>,
    ) {
        self.detach(kind, registrar);
        if let Err(error) = socket.set_nonblocking(true) {
            tracing::warn!(?kind, %error, "a link cannot be used");
            return;
        }
        *self.place(kind) = Some(Link {
            socket,
            offers: BTreeMap::new(),
            watched: false,
        });
    }

    fn detach(&mut self, kind: LinkKind, registrar: &mut Registrar<'_>) {
        if let Some(link) = self.place(kind).take()
            && link.watched
        {
            let _ = registrar.remove(&link.socket.as_fd());
        }
    }

    /// Starts to watch the links that are not watched; `token` of a kind is `base` plus its place in [`KINDS`].
    pub(super) fn watch(&mut self, base: u32, registrar: &mut Registrar<'_>) {
        for (token, kind) in (base..).zip(KINDS) {
            let Some(link) = self.place(kind).as_mut().filter(|link| !link.watched) else {
                continue;
            };
            let socket = link.socket.as_fd();
            match registrar.add(&socket, token, Interest::Read) {
                Ok(()) => link.watched = true,
                Err(error) => {
                    tracing::warn!(?kind, %error, "a link cannot be watched");
                    *self.place(kind) = None;
                }
            }
        }
    }

    /// Stops watching; links and offers stay.
    pub(super) fn unwatch(&mut self, registrar: &mut Registrar<'_>) {
        for kind in KINDS {
            if let Some(link) = self.place(kind)
                && std::mem::take(&mut link.watched)
            {
                let _ = registrar.remove(&link.socket.as_fd());
            }
        }
    }

    /// Reads what the service of a link has sent. A service that misuses its link loses it and its offers.
    pub(super) fn read(&mut self, kind: LinkKind, registrar: &mut Registrar<'_>) {
        let mut cuts = std::mem::take(&mut self.cuts);
        self.read_to(kind, &mut cuts, registrar);
        self.cuts = cuts;
    }

    /// The ports whose connections must end now.
    pub(super) fn take_cuts(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.cuts)
    }

    fn read_to(&mut self, kind: LinkKind, cuts: &mut BTreeSet<u32>, registrar: &mut Registrar<'_>) {
        let Some(link) = self.place(kind) else {
            return;
        };
        for _ in 0..TURN {
            let misuse = match link.socket.receive(LinkMessage::LEN) {
                Ok(packet) => match link.take(kind, packet, cuts) {
                    Ok(()) => continue,
                    Err(misuse) => misuse,
                },
                Err(LinkError::WouldBlock) => return,
                Err(LinkError::Closed) => Misuse::Closed,
                Err(error) => Misuse::Socket(error),
            };
            tracing::warn!(?kind, error = %misuse, "a link was dropped with its unused offers");
            self.detach(kind, registrar);
            return;
        }
    }

    /// The stream offered under a port, which is thereby used up. Reads the links first, so that an offer counts
    /// from the moment the service sent it. An offer whose service has died is as good as none.
    pub(super) fn claim(&mut self, port: u32, registrar: &mut Registrar<'_>) -> Option<OwnedFd> {
        let kind = KINDS
            .into_iter()
            .find(|kind| kind.ports().contains(&port))?;
        self.read(kind, registrar);
        let stream = self.place(kind).as_mut()?.offers.remove(&port)?;
        alive(&stream).then_some(stream)
    }
}

impl Link {
    fn take(
        &mut self,
        kind: LinkKind,
        packet: Packet,
        cuts: &mut BTreeSet<u32>,
    ) -> Result<(), Misuse> {
        match LinkMessage::decode(&packet.bytes)? {
            LinkMessage::Offer { port } => {
                let count = packet.descriptors.len();
                let stream = packet.descriptors.into_iter().next();
                let stream = stream
                    .filter(|_| count == 1)
                    .ok_or(Misuse::Descriptors(count))?;
                own_port(kind, port)?;
                if !is_stream(&stream) {
                    return Err(Misuse::NotAStream);
                }
                if self.offers.len() >= MAX_OFFERS && !self.offers.contains_key(&port) {
                    return Err(Misuse::TooMany);
                }
                self.offers.insert(port, stream);
            }
            LinkMessage::Withdraw { port } => {
                own_port(kind, port)?;
                self.offers.remove(&port);
            }
            LinkMessage::Cut { port } => {
                own_port(kind, port)?;
                self.offers.remove(&port);
                cuts.insert(port);
            }
        }
        Ok(())
    }
}

fn own_port(kind: LinkKind, port: u32) -> Result<(), Misuse> {
    if kind.ports().contains(&port) {
        Ok(())
    } else {
        Err(Misuse::ForeignPort(port))
    }
}

fn is_stream(stream: &OwnedFd) -> bool {
    socket_type(stream).is_ok_and(|kind| kind == SocketType::STREAM)
        && socket_domain(stream).is_ok_and(|domain| domain == AddressFamily::UNIX)
}

/// Whether the other end still exists, or has left something to read.
fn alive(stream: &OwnedFd) -> bool {
    !hung_up(stream) || ioctl_fionread(stream).is_ok_and(|waiting| waiting > 0)
}

/// Whether both directions of a stream are over, now.
pub(super) fn hung_up(stream: &OwnedFd) -> bool {
    let mut poll_fd = [PollFd::new(stream, PollFlags::IN)];
    match poll(&mut poll_fd, Some(&Timespec::default())) {
        Ok(_) => poll_fd
            .iter()
            .any(|fd| fd.revents().intersects(PollFlags::HUP | PollFlags::ERR)),
        Err(_) => true,
    }
}
