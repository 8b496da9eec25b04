//! Sends to the host over vsock, until the host has all of it.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::Result;
use casemate_lab_vms::guest::{PORT, SEND, SENDS};
use vsock::{VMADDR_CID_HOST, VsockStream};

pub(super) fn send() -> Result<Duration> {
    let mut stream = VsockStream::connect_with_cid_port(VMADDR_CID_HOST, PORT)?;
    let piece = vec![0x5a; SEND];
    let began = Instant::now();
    for _ in 0..SENDS {
        stream.write_all(&piece)?;
    }
    stream.read_exact(&mut [0])?;
    Ok(began.elapsed() / SENDS)
}
