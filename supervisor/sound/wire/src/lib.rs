//! Wire between a vmm and the mixer, the process that has the sound server; no I/O.
//!
//! One sequenced-packet socket per VM and direction: a VM that may record has two, and one that may not has no socket
//! that sound could come from. A packet is one message, at most [`MAX_PACKET`] bytes, numbers little endian.
//!
//! Sound goes in *runs*. The vmm begins one with [`ToMixer::Begin`], a number that it has not used on this socket, and
//! ends it with [`ToMixer::End`]; what is said of another run than the current one is out of date and ignored.
//!
//! * Playing: the mixer answers with [`ToVmm::Heard`] at once, and again whenever samples were heard. The vmm has at most
//!   [`MAX_AHEAD`] bytes on their way that were not heard.
//! * Recording: the mixer sends [`ToVmm::Frames`] as they come. A vmm that does not read loses them.
//!
//! The mixer's device is the clock of both. The vmm goes on without it when nothing comes, so a mixer may be slow or end.
//! Who sends anything else loses the connection. Samples are what a guest made of them: a float may be any bits.
#![deny(missing_docs)]

mod message;
mod order;
mod shape;

pub use message::{Malformed, ToMixer, ToVmm};
pub use order::{MAX_NAME, Order, Report};
pub use shape::{Channels, Format, Rate, Shape};

/// Most bytes of samples in one packet.
pub const MAX_FRAMES: usize = 8192;

/// Bytes before the samples of a packet that has some.
pub const FRAMES_HEADER: usize = 16;

/// Longest packet in either direction.
pub const MAX_PACKET: usize = FRAMES_HEADER + MAX_FRAMES;

/// Most bytes of samples that the vmm sends beyond those heard: 0.3 seconds of the densest shape. The mixer need not keep
/// more of a VM, and a socket's buffer of the usual size takes them.
pub const MAX_AHEAD: u32 = 128 * 1024;
