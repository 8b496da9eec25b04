//! The other ends of a guest's devices: they take everything and say nothing but that they have it.

use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;

use anyhow::Result;
use casemate_link::PacketSocket;
use casemate_vmm_control::LinkMessage;
use vsock::{VMADDR_CID_ANY, VsockListener};

use crate::guest::{FRAME, LAST, PORT, STREAM};

/// Longest frame that is read whole: one whose work a device leaves to the other end.
const LARGEST: usize = 70_000;

/// The other end's address: a local one.
const ROUTER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

/// The monitor's end of a network whose other end reads frames, and answers the [`LAST`].
///
/// # Errors
/// The kernel's.
pub fn network() -> Result<OwnedFd> {
    let (theirs, ours) = UnixStream::pair()?;
    // It ends when the monitor does.
    thread::spawn(move || frames(&ours));
    Ok(theirs.into())
}

/// Reads frames behind their lengths, four bytes in network order.
fn frames(stream: &UnixStream) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(64 << 10, stream);
    let mut frame = Vec::new();
    loop {
        let mut len = [0; 4];
        reader.read_exact(&mut len)?;
        let len = usize::try_from(u32::from_be_bytes(len)).map_err(io::Error::other)?;
        frame.resize(len.min(LARGEST), 0);
        reader.read_exact(&mut frame)?;
        if let Some((_, from)) = frame.split_first_chunk::<6>()
            && let Some((sender, rest)) = from.split_first_chunk::<6>()
            && rest.starts_with(&LAST)
        {
            let mut answer = u32::try_from(FRAME)
                .map_err(io::Error::other)?
                .to_be_bytes()
                .to_vec();
            answer.extend(sender);
            answer.extend(ROUTER);
            answer.extend(LAST);
            answer.resize(4 + FRAME, 0);
            (&*stream).write_all(&answer)?;
        }
    }
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
