//! A VM of a test: a vmm that keeps offers, and an agent that speaks what it is told to.

use std::{
    collections::HashMap,
    future::Future,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net,
    },
    sync::{Arc, Mutex},
    time::Duration,
};

use casemate_link::PacketSocket;
use casemate_qrexec_wire::{
    ControlDecoder, ExecParams, Ident, Message, Target, ToAgent, ToBroker, Trigger, Version,
};
use casemate_vmm_control::LinkMessage;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::watch,
};

/// Nothing in these tests takes this long.
pub(super) const SOON: Duration = Duration::from_secs(20);

pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future)
        .await
        .unwrap_or_else(|_| panic!("{what} did not happen"))
}

/// The vmm's end of a link: offers by port. Dropping it ends the VM.
pub(super) struct Vmm {
    offers: Arc<Mutex<HashMap<u32, OwnedFd>>>,
    /// Streams in use that a cut is to end, by port.
    held: Arc<Mutex<HashMap<u32, OwnedFd>>>,
    changed: watch::Receiver<u64>,
    link: OwnedFd,
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // The reader's copy would keep the link alive.
        let _ = rustix::net::shutdown(&self.link, rustix::net::Shutdown::Both);
        self.offers.lock().unwrap().clear();
    }
}

impl Vmm {
    /// A vmm and the broker's end of its link.
    pub(super) fn new() -> (Self, OwnedFd) {
        let (ours, brokers) = PacketSocket::pair().unwrap();
        let link = OwnedFd::from(ours);
        let reader = PacketSocket::from(link.try_clone().unwrap());
        let offers = Arc::new(Mutex::new(HashMap::new()));
        let (tell, changed) = watch::channel(0);
        let held = Arc::new(Mutex::new(HashMap::<u32, OwnedFd>::new()));
        let (kept, to_cut) = (Arc::clone(&offers), Arc::clone(&held));
        std::thread::spawn(move || {
            while let Ok(packet) = reader.receive(LinkMessage::LEN) {
                match LinkMessage::decode(&packet.bytes).unwrap() {
                    LinkMessage::Offer { port } => {
                        let [stream] = <[OwnedFd; 1]>::try_from(packet.descriptors).unwrap();
                        kept.lock().unwrap().insert(port, stream);
                    }
                    LinkMessage::Withdraw { port } => drop(kept.lock().unwrap().remove(&port)),
                    LinkMessage::Cut { port } => {
                        drop(kept.lock().unwrap().remove(&port));
                        if let Some(stream) = to_cut.lock().unwrap().remove(&port) {
                            rustix::net::shutdown(&stream, rustix::net::Shutdown::Both).unwrap();
                        }
                    }
                }
                tell.send_modify(|count| *count += 1);
            }
        });
        let vmm = Self {
            offers,
            held,
            changed,
            link,
        };
        (vmm, brokers.into())
    }

    /// The guest connects to a port, as soon as something is offered there.
    pub(super) async fn connect(&self, port: u32) -> UnixStream {
        let mut changed = self.changed.clone();
        let offer = async {
            loop {
                changed.borrow_and_update();
                if let Some(stream) = self.offers.lock().unwrap().remove(&port) {
                    break stream;
                }
                changed.changed().await.expect("the link is over");
            }
        };
        let stream = net::UnixStream::from(soon("an offer", offer).await);
        stream.set_nonblocking(true).unwrap();
        UnixStream::from_std(stream).unwrap()
    }

    /// The same, and a cut ends the connection, as a vmm would see to. The other end sees no end by itself, for the
    /// stream is held here as well.
    pub(super) async fn connect_for_cut(&self, port: u32) -> UnixStream {
        let stream = self.connect(port).await;
        let copy = stream.as_fd().try_clone_to_owned().unwrap();
        self.held.lock().unwrap().insert(port, copy);
        stream
    }

    /// Returns when nothing is offered but the control stream, or not even that.
    pub(super) async fn idle(&self) {
        let mut changed = self.changed.clone();
        let wait = async {
            loop {
                changed.borrow_and_update();
                if self.offers.lock().unwrap().keys().all(|port| *port == 512) {
                    break;
                }
                changed.changed().await.expect("the link is over");
            }
        };
        soon("the end of all offers", wait).await;
    }
}

/// An agent that has connected.
pub(super) struct Agent {
    pub(super) vmm: Vmm,
    stream: UnixStream,
    decoder: ControlDecoder<ToAgent>,
}

impl Agent {
    /// Connects without a word.
    pub(super) async fn silent(vmm: Vmm) -> Self {
        let stream = vmm.connect(512).await;
        Self {
            vmm,
            stream,
            decoder: ControlDecoder::default(),
        }
    }

    /// Connects and says hello.
    pub(super) async fn start(vmm: Vmm) -> Self {
        let mut agent = Self::silent(vmm).await;
        agent.hello().await;
        agent
    }

    pub(super) async fn hello(&mut self) {
        self.send(&ToBroker::Hello(Version::OURS.number())).await;
        assert_eq!(self.next().await, Some(ToAgent::Hello(4)));
    }

    /// A new control stream of the same VM.
    pub(super) async fn again(self) -> Self {
        let Self { vmm, stream, .. } = self;
        drop(stream);
        Self::start(vmm).await
    }

    pub(super) async fn send(&mut self, message: &ToBroker) {
        let mut bytes = Vec::new();
        message.encode(Version::OURS, &mut bytes).unwrap();
        self.bytes(&bytes).await;
    }

    pub(super) async fn bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// What the broker says next; `None` when it has closed the stream.
    pub(super) async fn next(&mut self) -> Option<ToAgent> {
        let next = async {
            loop {
                if let Some(message) = self.decoder.take().unwrap() {
                    return Some(message);
                }
                let mut piece = [0; 4096];
                match self.stream.read(&mut piece).await {
                    Ok(0) | Err(_) => return None,
                    Ok(read) => self.decoder.feed(&piece[..read]),
                }
            }
        };
        soon("a message to the agent", next).await
    }

    pub(super) async fn trigger(&mut self, ident: &str, target: &str, service: &str) {
        self.trigger_as("", ident, target, service).await;
    }

    pub(super) async fn trigger_as(
        &mut self,
        claimed: &str,
        ident: &str,
        target: &str,
        service: &str,
    ) {
        self.send(&ToBroker::Trigger(Trigger {
            claimed_source: Target::sanitise(claimed.as_bytes()),
            target: Target::sanitise(target.as_bytes()),
            ident: Ident::new(ident).unwrap(),
            service: service.as_bytes().to_vec(),
        }))
        .await;
    }

    /// The next message, which must be an order to execute.
    pub(super) async fn executes(&mut self) -> (ExecParams, String) {
        match self.next().await {
            Some(ToAgent::Execute(params, command)) => {
                let command = String::from_utf8(command.as_bytes().to_vec()).unwrap();
                (params, command)
            }
            other => panic!("no order to execute but {other:?}"),
        }
    }

    /// The next message, which must accept the call of this ident.
    pub(super) async fn connects(&mut self, ident: &str) -> ExecParams {
        match self.next().await {
            Some(ToAgent::Connect(params, of)) if of == Ident::new(ident).unwrap() => params,
            other => panic!("{ident} is not accepted but {other:?}"),
        }
    }

    /// The next message, which must refuse the call of this ident.
    pub(super) async fn is_refused(&mut self, ident: &str) {
        let refused = ToAgent::Refused(Ident::new(ident).unwrap());
        assert_eq!(self.next().await, Some(refused));
    }

    pub(super) async fn terminated(&mut self, params: ExecParams) {
        self.send(&ToBroker::Terminated(params)).await;
    }
}

/// Bytes written to one end come out of the other.
pub(super) async fn are_joined(a: &mut UnixStream, b: &mut UnixStream) {
    reaches(a, b).await;
    reaches(b, a).await;
}

async fn reaches(from: &mut UnixStream, to: &mut UnixStream) {
    from.write_all(b"hello").await.unwrap();
    let mut bytes = [0; 5];
    soon("the other end's bytes", to.read_exact(&mut bytes))
        .await
        .unwrap();
    assert_eq!(&bytes, b"hello");
}

/// The other end has closed.
pub(super) async fn is_over(stream: &mut UnixStream) {
    let mut bytes = Vec::new();
    let read = soon("the end of a stream", stream.read_to_end(&mut bytes)).await;
    assert!(matches!(read, Ok(0)) || read.is_err(), "{bytes:?}");
}
