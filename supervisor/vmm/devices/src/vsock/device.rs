//! The vsock device: its queues, its place on the loop, and the handle that attaches links from outside.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use casemate_link::PacketSocket;
use casemate_vmm_control::LinkKind;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::links::{KINDS, Links};
use super::muxer::{MIN_BUFFER, Muxer};
use super::packet::{FromGuest, GuestCid, HEADER};
use crate::config_space;
use crate::event_loop::{Interest, Ready, Registrar};
use crate::lock;
use crate::scatter::Buffers;
use crate::state::{QueuePosition, StateError};
use crate::throttle::Throttle;
use crate::virtio::{
    ActivateError, Activation, ActiveQueue, MAX_QUEUE_SIZE, Memory, QueueError, VirtioDevice,
};

/// The virtio device number.
const DEVICE_TYPE: u32 = 19;
/// Buffers to the guest, packets from it, and events, of which there is one: that all its connections are over.
const QUEUES: [u16; 3] = [MAX_QUEUE_SIZE, MAX_QUEUE_SIZE, 16];

const RING_INDIRECT_DESC: u64 = 1 << 28;
const RING_EVENT_IDX: u64 = 1 << 29;

const RX: u32 = 0;
const TX: u32 = 1;
const WAKE: u32 = 2;
const LINKS: u32 = 3;
const EVENTS: u32 = 8;
const CONNECTIONS: u32 = 16;

/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET (virtio 1.2, 5.10.6.7): the guest drops its connections, keeps what listens, and
/// reads its CID anew.
const TRANSPORT_RESET: [u8; 4] = [0; 4];

/// The virtio-vsock device of one VM.
pub struct Vsock {
    guest: GuestCid,
    muxer: Muxer,
    links: Links,
    mailbox: Arc<Mailbox>,
    buffers: Buffers,
    warnings: Throttle,
    /// The guest was restored, and does not know yet that its connections are over.
    owes_reset: bool,
    active: Option<Active>,
}

struct Active {
    memory: Memory,
    rx: ActiveQueue,
    tx: ActiveQueue,
    events: ActiveQueue,
    /// Packets of the guest wait because refusals wait for its buffers.
    tx_stalled: bool,
}

/// Links on their way from the control thread to the loop.
struct Mailbox {
    links: Mutex<Vec<(LinkKind, PacketSocket)>>,
    wake: EventFd,
}

/// Attaches links to a running device, from any thread.
#[derive(Clone)]
pub struct VsockHandle(Arc<Mailbox>);

impl fmt::Debug for Vsock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Vsock")
            .field("guest", &self.guest)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for VsockHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("VsockHandle")
            .finish_non_exhaustive()
    }
}

impl VsockHandle {
    /// Replaces the link of a kind. Offers made over the old one are dropped; streams that were joined live on.
    /// A service loses its link when it breaks the protocol of links; the guest is refused its ports until a new one comes.
    pub fn attach_link(&self, kind: LinkKind, socket: PacketSocket) {
        let mut links = lock(&self.0.links);
        links.retain(|(other, _)| *other != kind);
        links.push((kind, socket));
        // Fails only when the counter is full, and then the loop is awake.
        let _ = self.0.wake.write(1);
    }
}

impl Vsock {
    /// A device that is not active yet. Links are read from the guest's DRIVER_OK on; what services
    /// send before that waits in their sockets.
    ///
    /// # Errors
    /// When the kernel gives no descriptor.
    pub fn new(guest: GuestCid, links: Vec<(LinkKind, PacketSocket)>) -> io::Result<Self> {
        let mailbox = Arc::new(Mailbox {
            links: Mutex::new(Vec::new()),
            wake: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        });
        let device = Self {
            guest,
            muxer: Muxer::new(guest, CONNECTIONS),
            links: Links::default(),
            mailbox,
            buffers: Buffers::default(),
            warnings: Throttle::default(),
            owes_reset: false,
            active: None,
        };
        for (kind, socket) in links {
            device.handle().attach_link(kind, socket);
        }
        Ok(device)
    }

    /// The handle that attaches links.
    pub fn handle(&self) -> VsockHandle {
        VsockHandle(Arc::clone(&self.mailbox))
    }

    fn take_mail(&mut self, registrar: &mut Registrar<'_>) {
        let _ = self.mailbox.wake.read();
        let mail = std::mem::take(&mut *lock(&self.mailbox.links));
        for (kind, socket) in mail {
            self.links.attach(kind, socket, registrar);
        }
        self.links.watch(LINKS, registrar);
    }

    /// One turn after an event: packets of the guest first, then packets to it, which the former may have caused.
    fn turn(
        &mut self,
        active: &mut Active,
        packets: bool,
        registrar: &mut Registrar<'_>,
    ) -> Result<(), QueueError> {
        self.cut(registrar);
        if packets {
            self.take_packets(active, registrar)?;
            // Reading a link for a connection may have brought some.
            self.cut(registrar);
        }
        self.give_packets(active, registrar)?;
        if active.tx_stalled && self.muxer.can_receive() {
            active.tx.kick_again();
        }
        Ok(())
    }

    fn cut(&mut self, registrar: &mut Registrar<'_>) {
        for port in self.links.take_cuts() {
            self.muxer.cut(port, registrar);
        }
    }

    /// Tells a restored guest that its connections are over, as soon as it has a buffer for that.
    fn tell_reset(&mut self, active: &mut Active) -> Result<(), QueueError> {
        let Active { memory, events, .. } = active;
        // Each turn takes at most the chains that can be there at once.
        for _ in 0..events.budget() {
            if !self.owes_reset {
                break;
            }
            let Some(chain) = events.pop(memory)? else {
                if events.rearm(memory)? {
                    continue;
                }
                break;
            };
            let head = chain.head_index();
            let written = match self.buffers.load(chain, memory) {
                Ok(()) => self.buffers.writable().write(memory, &TRANSPORT_RESET),
                Err(_bad) => 0,
            };
            self.owes_reset = written < TRANSPORT_RESET.len();
            events.complete(memory, head, u32::try_from(written).unwrap_or(0))?;
            events.notify(memory)?;
        }
        Ok(())
    }

    fn take_packets(
        &mut self,
        active: &mut Active,
        registrar: &mut Registrar<'_>,
    ) -> Result<(), QueueError> {
        let Active { memory, tx, .. } = active;
        active.tx_stalled = false;
        let mut budget = tx.budget();
        loop {
            if !self.muxer.can_receive() {
                active.tx_stalled = true;
                break;
            }
            if budget == 0 {
                tx.kick_again();
                break;
            }
            let Some(chain) = tx.pop(memory)? else {
                if tx.rearm(memory)? {
                    continue;
                }
                break;
            };
            budget = budget.saturating_sub(1);
            let head = chain.head_index();
            // A chain that is no packet is given back like any other: there is no connection to blame.
            if self.buffers.load(chain, memory).is_ok() {
                let bytes = self.buffers.readable();
                let packet = bytes.read_array::<HEADER>(memory);
                if let Some(packet) = packet.and_then(|bytes| FromGuest::decode(&bytes)) {
                    let payload = bytes.after(HEADER);
                    self.muxer
                        .receive(&packet, payload, memory, &mut self.links, registrar);
                }
            }
            tx.complete(memory, head, 0)?;
        }
        tx.notify(memory)
    }

    fn give_packets(
        &mut self,
        active: &mut Active,
        registrar: &mut Registrar<'_>,
    ) -> Result<(), QueueError> {
        let Active { memory, rx, .. } = active;
        let mut budget = rx.budget();
        while self.muxer.wants_to_send() {
            if budget == 0 {
                rx.kick_again();
                break;
            }
            let Some(chain) = rx.pop(memory)? else {
                if rx.rearm(memory)? {
                    continue;
                }
                break;
            };
            budget = budget.saturating_sub(1);
            let head = chain.head_index();
            let usable = self.buffers.load(chain, memory).is_ok()
                && self.buffers.readable().is_empty()
                && self.buffers.writable().len() >= MIN_BUFFER;
            if !usable {
                rx.complete(memory, head, 0)?;
                continue;
            }
            match self.muxer.send(memory, self.buffers.writable(), registrar) {
                Some(written) => rx.complete(memory, head, written)?,
                None => {
                    rx.put_back(head);
                    break;
                }
            }
        }
        rx.notify(memory)
    }

    /// Removes everything from the loop; connections are over, links and their offers stay.
    fn deactivate(&mut self, active: &Active, registrar: &mut Registrar<'_>) {
        self.muxer.clear(registrar);
        self.links.unwatch(registrar);
        for descriptor in [
            &active.rx.kick,
            &active.tx.kick,
            &active.events.kick,
            &self.mailbox.wake,
        ] {
            let _ = registrar.remove(descriptor);
        }
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUES
    }

    fn features(&self) -> u64 {
        RING_INDIRECT_DESC | RING_EVENT_IDX
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config_space::read(&self.guest.get().to_le_bytes(), offset, data);
    }

    fn activate(
        &mut self,
        activation: Activation,
        registrar: &mut Registrar<'_>,
    ) -> Result<(), ActivateError> {
        let Activation { memory, queues, .. } = activation;
        let [rx, tx, events] =
            <[ActiveQueue; 3]>::try_from(queues).map_err(|queues| ActivateError::Queues {
                got: queues.len(),
                expected: QUEUES.len(),
            })?;
        // Kept before they are watched: a reset after a failure takes back what was.
        let active = self.active.insert(Active {
            memory,
            rx,
            tx,
            events,
            tx_stalled: false,
        });
        registrar.add(&active.rx.kick, RX, Interest::Read)?;
        registrar.add(&active.tx.kick, TX, Interest::Read)?;
        registrar.add(&active.events.kick, EVENTS, Interest::Read)?;
        registrar.add(&self.mailbox.wake, WAKE, Interest::Read)?;
        self.take_mail(registrar);
        Ok(())
    }

    fn handle(&mut self, token: u32, ready: Ready, registrar: &mut Registrar<'_>) {
        let Some(mut active) = self.active.take() else {
            return;
        };
        match token {
            RX => active.rx.drain_kick(),
            TX => active.tx.drain_kick(),
            WAKE => self.take_mail(registrar),
            EVENTS => active.events.drain_kick(),
            _ => {
                match KINDS.get(usize::try_from(token.wrapping_sub(LINKS)).unwrap_or(usize::MAX)) {
                    Some(kind) => self.links.read(*kind, registrar),
                    None => self.muxer.socket_ready(token, ready, registrar),
                }
            }
        }
        let packets = token == TX;
        let turn = self
            .tell_reset(&mut active)
            .and_then(|()| self.turn(&mut active, packets, registrar));
        match turn {
            Ok(()) => self.active = Some(active),
            Err(error) => {
                if self.warnings.allows(Instant::now()) {
                    tracing::warn!(%error, "a queue of vsock is unusable");
                }
                self.deactivate(&active, registrar);
                active.rx.interrupt.needs_reset();
            }
        }
    }

    fn positions(&self) -> Vec<QueuePosition> {
        let active = self.active.iter();
        active
            .flat_map(|active| [&active.rx, &active.tx, &active.events])
            .map(ActiveQueue::position)
            .collect()
    }

    /// Only that it is one: connections end with the VM that was saved, links and offers are the new VM's.
    fn save(&self) -> Vec<u8> {
        vec![1]
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), StateError> {
        if saved != [1] {
            return Err(StateError::Unfit("the vsock device's own state"));
        }
        self.owes_reset = true;
        Ok(())
    }

    fn reset(&mut self, registrar: &mut Registrar<'_>) {
        // A new driver has no connections that it would have to forget.
        self.owes_reset = false;
        if let Some(active) = self.active.take() {
            self.deactivate(&active, registrar);
        }
    }
}
