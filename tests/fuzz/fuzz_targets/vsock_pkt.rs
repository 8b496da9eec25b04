//! The vsock device under hostile queues, with services that offer streams, answer and go away.
#![no_main]

use std::io::{Read as _, Write as _};
use std::os::{fd::AsFd as _, unix::net::UnixStream};

use casemate_devices::vsock::{GuestCid, Vsock};
use casemate_fuzz::driver;
use casemate_link::PacketSocket;
use casemate_vmm_control::{LinkKind, LinkMessage};
use libfuzzer_sys::fuzz_target;

/// Offers a stream under a port and returns the service's end of it.
fn offer(link: &PacketSocket, port: u32) -> UnixStream {
    let (near, far) = UnixStream::pair().expect("sockets");
    near.set_nonblocking(true).expect("a socket");
    let message = LinkMessage::Offer { port }.encode();
    link.send(&message, &[far.as_fd()])
        .expect("room in the link");
    near
}

fuzz_target!(|input: &[u8]| {
    let (rpc, rpc_end) = PacketSocket::pair().expect("sockets");
    let (windows, windows_end) = PacketSocket::pair().expect("sockets");
    let links = vec![(LinkKind::Rpc, rpc_end), (LinkKind::Windows, windows_end)];
    let device = Vsock::new(GuestCid::new(3).expect("a guest"), links).expect("eventfd");
    let mut streams = vec![offer(&rpc, 512), offer(&rpc, 513), offer(&windows, 769)];
    // A service reads a little, says a little, and one of them leaves in the end.
    driver::play(device, input, || {
        let mut buffer = [0; 512];
        for stream in &mut streams {
            let _ = stream.read(&mut buffer);
            let _ = stream.write(b"from the service");
        }
        if input.first().is_some_and(|flags| flags & driver::OWN != 0) {
            streams.pop();
        }
    });
});
