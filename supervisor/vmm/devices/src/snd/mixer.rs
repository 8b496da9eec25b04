//! The mixer's process as a [`Host`]: the wire of `casemate-sound-wire` on a socket.

use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use casemate_sound_wire::{MAX_FRAMES, MAX_PACKET, Shape, ToMixer, ToVmm};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use vm_memory::GuestMemoryMmap;

use super::host::{Gone, Host, News};
use crate::scatter::{View, io as guest_io};

/// One connected `SOCK_SEQPACKET` socket: of one VM, for one direction.
pub struct Mixer {
    socket: OwnedFd,
    packet: Box<[u8]>,
}

impl fmt::Debug for Mixer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Mixer")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl Mixer {
    /// The host at the other end of this socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            // A byte more than there may be, so that a longer packet shows.
            packet: vec![0; MAX_PACKET.saturating_add(1)].into_boxed_slice(),
        }
    }

    fn say(&self, message: ToMixer<'_>) -> Result<bool, Gone> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            return match rustix::net::send(&self.socket, &bytes, flags) {
                Ok(_) => Ok(true),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN | Errno::NOBUFS) => Ok(false),
                Err(_) => Err(Gone),
            };
        }
    }
}

impl Host for Mixer {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn begin(&mut self, run: u32, shape: Shape, period: u32) -> Result<bool, Gone> {
        self.say(ToMixer::Begin { run, shape, period })
    }

    fn end(&mut self, run: u32) -> Result<bool, Gone> {
        self.say(ToMixer::End { run })
    }

    fn play(
        &mut self,
        run: u32,
        memory: &GuestMemoryMmap,
        samples: View<'_>,
    ) -> Result<usize, Gone> {
        // A multiple of every frame's length.
        let (now, _) = samples.split_at(MAX_FRAMES);
        let header = ToMixer::frames_header(run);
        match guest_io::send_after(&self.socket, [&header, &[]], memory, now) {
            Ok(_) => Ok(now.len()),
            Err(error) if is_full(&error) => Ok(0),
            Err(_) => Err(Gone),
        }
    }

    fn next(&mut self, into: &mut [u8; MAX_FRAMES]) -> Result<Option<News>, Gone> {
        let len = loop {
            match rustix::net::recv(&self.socket, &mut self.packet[..], RecvFlags::DONTWAIT) {
                // There are no empty packets: it was closed.
                Ok((0, _)) => return Err(Gone),
                Ok((len, _)) => break len,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(_) => return Err(Gone),
            }
        };
        let packet = self.packet.get(..len).unwrap_or_default();
        match ToVmm::decode(packet) {
            Ok(ToVmm::Heard {
                run,
                total,
                latency,
            }) => Ok(Some(News::Heard {
                run,
                total,
                latency,
            })),
            Ok(ToVmm::Frames {
                run,
                latency,
                samples,
            }) => {
                let place = into.get_mut(..samples.len()).ok_or(Gone)?;
                place.copy_from_slice(samples);
                let len = samples.len();
                Ok(Some(News::Recorded { run, len, latency }))
            }
            Err(_malformed) => Err(Gone),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}
