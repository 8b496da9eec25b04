//! One attached VM: its link, its window memory, and the session that is offered or under way.

use std::{os::fd::AsFd, os::unix::net::UnixStream, time::Duration};

use casemate_link::PacketSocket;
use casemate_vm::VmName;
use casemate_vmm_control::{LinkKind, LinkMessage};

use super::{End, MapError, Session, WindowMemory};
use crate::words::Time;

/// First pause after a session that broke the rules; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A session that lasted this long shows that the guest can do it right: the next pause is the first again.
const LASTED: Duration = Duration::from_secs(60);

/// Pause after a session that simply ended; keeps a guest that connects and closes in a loop cheap.
const AFTER_END: Duration = Duration::from_millis(100);

/// The vmm has closed the link: there is nobody to offer a stream to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the vmm has closed its link")]
pub(crate) struct LinkGone;

/// One attached VM.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) name: VmName,
    link: Option<PacketSocket>,
    pub(crate) memory: WindowMemory,
    pub(crate) session: Option<Session>,
    /// When a new stream is offered, while there is no session.
    offer_at: Option<Time>,
    pause: Duration,
}

impl Attachment {
    pub(crate) fn new(
        name: VmName,
        link: PacketSocket,
        memory: std::os::fd::OwnedFd,
        now: Time,
    ) -> Result<Self, MapError> {
        let memory_map = WindowMemory::map(&memory)?;
        drop(memory);
        link.set_nonblocking(true)?;
        Ok(Self {
            name,
            link: Some(link),
            memory: memory_map,
            session: None,
            offer_at: Some(now),
            pause: FIRST_PAUSE,
        })
    }

    /// A second descriptor of the link, for the event loop to notice its end.
    pub(crate) fn watch_link(&self) -> Option<std::io::Result<std::os::fd::OwnedFd>> {
        self.link
            .as_ref()
            .map(|link| link.as_fd().try_clone_to_owned())
    }

    /// Whether the vmm still holds its end of the link. A vmm never speaks on it.
    pub(crate) fn link_alive(&mut self) -> bool {
        let alive = self.link.as_ref().is_some_and(|link| {
            matches!(
                link.receive(LinkMessage::LEN),
                Err(casemate_link::Error::WouldBlock)
            )
        });
        if !alive {
            self.link = None;
        }
        alive
    }

    /// When there is something to offer.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.offer_at
    }

    /// Offers a new stream if it is time; answers whether a session began.
    pub(crate) fn offer(&mut self, now: Time) -> Result<bool, LinkGone> {
        if self.session.is_some() || self.offer_at.is_none_or(|at| at > now) {
            return Ok(false);
        }
        self.offer_at = None;
        let link = self.link.as_ref().ok_or(LinkGone)?;
        let pair = UnixStream::pair().and_then(|(ours, theirs)| {
            let session = Session::new(ours, &self.memory, now)?;
            Ok((session, theirs))
        });
        let (session, theirs) = match pair {
            Ok(pair) => pair,
            Err(error) => {
                tracing::warn!(vm = %self.name, %error, "cannot make a stream, trying again");
                self.offer_at = Some(now + FIRST_PAUSE);
                return Ok(false);
            }
        };
        let message = LinkMessage::Offer {
            port: LinkKind::WINDOWS,
        };
        match link.send(&message.encode(), &[theirs.as_fd()]) {
            Ok(()) => {
                self.session = Some(session);
                Ok(true)
            }
            Err(casemate_link::Error::WouldBlock) => {
                self.offer_at = Some(now + FIRST_PAUSE);
                Ok(false)
            }
            Err(_) => {
                self.link = None;
                Err(LinkGone)
            }
        }
    }

    /// The session is over. The next stream is offered after a pause that grows with every broken rule.
    pub(crate) fn end(&mut self, end: End, now: Time) {
        let Some(session) = self.session.take() else {
            return;
        };
        if now.saturating_sub(session.began) >= LASTED {
            self.pause = FIRST_PAUSE;
        }
        let pause = if end == End::Closed {
            AFTER_END
        } else {
            tracing::warn!(vm = %self.name, %end, "window session ended");
            let pause = self.pause;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            pause
        };
        self.offer_at = self.link.is_some().then(|| now + pause);
    }
}
