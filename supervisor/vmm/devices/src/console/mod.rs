//! virtio-console (virtio 1.2, 5.3), port 0 only: what the guest prints on hvc0 goes to a [`ConsoleSink`].
//!
//! There is no input: buffers for it are never used. What a guest can do wrong: print without end (the sink is a
//! ring, a turn has a budget) and hand over buffers that cannot be read (skipped).

mod device;
mod ring_file;
#[cfg(test)]
mod tests;

pub use device::{Console, MAX_OUTPUT};
pub use ring_file::RingFile;

/// Takes what a guest prints, on hvc0 or on the serial port. Bytes are the guest's: nobody may interpret them.
/// Called on a loop's thread or a vCPU's with the device's lock held; must not block for long.
pub trait ConsoleSink: Send + Sync {
    /// Takes bytes; a sink that fails loses them.
    fn write(&self, bytes: &[u8]);
}
