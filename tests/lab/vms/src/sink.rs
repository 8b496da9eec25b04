//! The other ends of a guest's devices: they take everything and say nothing but that they have it.

use std::io::{Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;

use anyhow::Result;
use casemate_link::PacketSocket;
use casemate_vmm_control::LinkMessage;
use vsock::{VMADDR_CID_ANY, VsockListener};

use crate::guest::{PORT, STREAM};

/// The monitor's end of a network whose other end reads.
///
/// # Errors
/// The kernel's.
pub fn network() -> Result<OwnedFd> {
    let (theirs, mut ours) = UnixStream::pair()?;
    thread::spawn(move || {
        let mut piece = vec![0; 64 << 10];
        while matches!(ours.read(&mut piece), Ok(1..)) {}
    });
    Ok(theirs.into())
}

/// Offers our VM a stream at [`PORT`], as a broker would.
///
/// # Errors
/// When the monitor has gone.
pub fn offer(broker: &PacketSocket) -> Result<()> {
    let (theirs, ours) = UnixStream::pair()?;
    let message = LinkMessage::Offer { port: PORT };
    broker.send(&message.encode(), &[theirs.as_fd()])?;
    thread::spawn(move || take(ours));
    Ok(())
}

/// Listens at [`PORT`] with the kernel's vsock, for the VMs of other monitors.
///
/// # Errors
/// When the kernel has none.
pub fn listen() -> Result<()> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, PORT)?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || take(stream));
        }
    });
    Ok(())
}

/// Reads what the guest sends, and says so.
fn take(mut stream: impl Read + Write) {
    let mut piece = vec![0; 64 << 10];
    let mut left = STREAM;
    while left > 0 {
        match stream.read(&mut piece) {
            Ok(len @ 1..) => left = left.saturating_sub(len),
            _ => return,
        }
    }
    // The guest waits for it, or has gone.
    let _ = stream.write_all(&[1]);
}
