//! What a snapshot keeps of devices. Types here are read back from a file, and nothing in them is believed: every value
//! passes the checks that a guest's own write of it would have to pass, or the restore is refused.

use serde::{Deserialize, Serialize};

/// Why a state was not taken, or cannot be saved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The function has a state outside of this process, as an assigned device has.
    #[error("function {0} of the PCI bus cannot be saved; take the device away first")]
    NotSaveable(usize),
    /// The bus had other functions, or they were in other places.
    #[error("the snapshot is of a VM with {saved} PCI functions, this one has {here}")]
    Functions {
        /// In the snapshot.
        saved: usize,
        /// In this VM.
        here: usize,
    },
    /// A value that this device, as it was built, cannot have.
    #[error("the snapshot does not fit the device: {0}")]
    Unfit(&'static str),
    /// The device has something else behind it than when it was saved.
    #[error("the snapshot is of another device: {0}")]
    Other(String),
    /// The device did not start.
    #[error("the restored device did not start: {0}")]
    Activation(String),
}

/// One PCI function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionState {
    /// All bytes of its configuration space.
    pub configuration: Vec<u8>,
    /// What it has besides; absent when it is nothing but its configuration space.
    pub virtio: Option<VirtioState>,
}

/// Transport and device of a virtio function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtioState {
    /// The virtio device number, for a check only.
    pub device_type: u32,
    /// Features offered, for a check only.
    pub offered: u64,
    /// Features that the driver accepted.
    pub accepted: u64,
    /// The two feature selectors.
    pub selectors: [u32; 2],
    /// The status register, NEEDS_RESET included.
    pub status: u8,
    /// The queue selector.
    pub queue_select: u16,
    /// All queues.
    pub queues: Vec<QueueState>,
    /// Interrupt status register.
    pub interrupt_status: u8,
    /// Configuration generation.
    pub generation: u8,
    /// Vector of configuration changes.
    pub config_vector: u16,
    /// The MSI-X table with its pending bits.
    pub vectors: Vec<VectorState>,
    /// Where the active queues are; empty when the device is not active.
    pub positions: Vec<QueuePosition>,
    /// The device's own state, in a form only it knows.
    pub own: Vec<u8>,
}

/// Registers of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    /// Size that the driver chose.
    pub size: u16,
    /// Whether it is enabled.
    pub enabled: bool,
    /// Its interrupt vector.
    pub vector: u16,
    /// Address of the descriptor table.
    pub descriptors: u64,
    /// Address of the available ring.
    pub driver: u64,
    /// Address of the used ring.
    pub device: u64,
}

/// How far a device is in its queue. Any two numbers are safe: a position ahead of what the driver made available makes
/// the queue broken, which the driver is told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePosition {
    /// The next chain that it takes.
    pub next_available: u16,
    /// The next place in the used ring.
    pub next_used: u16,
}

/// One entry of an MSI-X table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorState {
    /// Where the message is written.
    pub address: u64,
    /// What is written.
    pub data: u32,
    /// Masked by itself.
    pub masked: bool,
    /// Raised while masked.
    pub pending: bool,
}

/// The serial port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialState {
    /// Divisor latch, low and high; then the registers from interrupt enable to scratch, in the order of their ports.
    pub registers: [u8; 9],
}
