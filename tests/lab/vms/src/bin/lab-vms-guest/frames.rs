//! Sends raw Ethernet frames, until the other end has the last one.
#![expect(unsafe_code, reason = "packet sockets have no safe wrapper here")]

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use casemate_lab_vms::guest::{FRAME, FRAMES, KIND, LAST};

const DEVICE: &str = "eth0";

pub(super) fn send() -> Result<Duration> {
    let folder = format!("/sys/class/net/{DEVICE}");
    let number = std::fs::read_to_string(format!("{folder}/ifindex")).context(DEVICE)?;
    let number: i32 = number.trim().parse()?;
    let address = std::fs::read_to_string(format!("{folder}/address"))?;
    let mut head = vec![0xff; 6];
    for byte in address.trim().split(':') {
        head.push(u8::from_str_radix(byte, 16)?);
    }
    let [frame, last] = [KIND, LAST].map(|kind| {
        let mut frame = head.clone();
        frame.extend(kind);
        frame.resize(FRAME, 0x5a);
        frame
    });
    let socket = packet_socket(0)?;
    let mut answer = packet_socket(u16::from_be_bytes(LAST))?;
    bring_up(&socket)?;
    let began = Instant::now();
    for _ in 1..FRAMES {
        send_one(&socket, number, &frame)?;
    }
    send_one(&socket, number, &last)?;
    let _ = answer.read(&mut [0; FRAME])?;
    Ok(began.elapsed() / FRAMES)
}

/// A socket that hears frames of this type, or none.
fn packet_socket(kind: u16) -> Result<File> {
    // SAFETY: no memory of ours is given away.
    let number = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(kind.to_be())) };
    if number < 0 {
        return Err(std::io::Error::last_os_error()).context("a packet socket");
    }
    // SAFETY: it was made just now and nobody else has it.
    Ok(unsafe { File::from_raw_fd(number) })
}

fn bring_up(socket: &File) -> Result<()> {
    let mut name = [0; libc::IFNAMSIZ];
    for (place, byte) in name.iter_mut().zip(DEVICE.bytes()) {
        *place = byte.cast_signed();
    }
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: i16::try_from(libc::IFF_UP)?,
        },
    };
    // SAFETY: the kernel reads one ifreq at this address during the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result != 0 {
        return Err(std::io::Error::last_os_error()).context("cannot bring it up");
    }
    Ok(())
}

fn send_one(socket: &File, interface: i32, frame: &[u8]) -> Result<()> {
    let [a, b, c, d, e, f, ..] = frame else {
        anyhow::bail!("no frame");
    };
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET)?,
        sll_protocol: u16::from_ne_bytes(KIND),
        sll_ifindex: interface,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [*a, *b, *c, *d, *e, *f, 0, 0],
    };
    // SAFETY: the kernel reads the frame and one sockaddr_ll, both of the given lengths, during the call.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            u32::try_from(size_of::<libc::sockaddr_ll>())?,
        )
    };
    if sent < 0 {
        return Err(std::io::Error::last_os_error()).context("cannot send");
    }
    Ok(())
}
