//! virtio-blk: a disk of the guest over a file of the host.
//!
//! One file per question. [`request`](Request): what does a descriptor chain ask, within which limits? [`Disk`]: what are
//! the bytes, a raw file ([`RawDisk`]) or a qcow2 overlay over one ([`Overlay`])? [`Block`]: the device, with a worker
//! for each queue, which takes requests in order and answers each before it takes the next.
//!
//! Files come as open descriptors. Nothing here opens a path, guesses a format or believes a file name in an image.

mod config;
mod device;
mod disk;
mod overlay;
mod raw;
mod request;
#[cfg(test)]
mod tests;

pub use config::{Access, InvalidSerial, Serial};
pub use device::{Block, MAX_QUEUES};
pub use disk::{Disk, OpenError, SECTOR};
pub use overlay::Overlay;
pub use raw::RawDisk;
pub use request::{
    MAX_DATA, MAX_DATA_SEGMENTS, MAX_RANGES, Range, Ranges, Refusal, Request, SEGMENT_BYTES,
};
