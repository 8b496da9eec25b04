//! virtio-rng (virtio 1.2, 5.4): one queue of buffers that the host fills with random bytes.
//!
//! What a guest can do wrong: ask for more than is good for the host (a bucket bounds the rate, a constant the
//! request), and hand over buffers that cannot be written (completed with nothing in them).

mod bucket;
mod device;
#[cfg(test)]
mod tests;

pub use bucket::{Bucket, Clock, MonotonicClock};
pub use device::{MAX_REQUEST, Rng};
