//! Registers of BAR0, as offset and width (virtio 1.2, 4.1.4.3).

/// Offset and width in bytes.
pub(super) type Register = (u64, usize);

pub(super) const OFFERED_SELECT: Register = (0x00, 4);
pub(super) const OFFERED: Register = (0x04, 4);
pub(super) const ACCEPTED_SELECT: Register = (0x08, 4);
pub(super) const ACCEPTED: Register = (0x0c, 4);
pub(super) const CONFIG_VECTOR: Register = (0x10, 2);
pub(super) const QUEUES: Register = (0x12, 2);
pub(super) const STATUS: Register = (0x14, 1);
pub(super) const QUEUE_SELECT: Register = (0x16, 2);
pub(super) const QUEUE_SIZE: Register = (0x18, 2);
pub(super) const QUEUE_VECTOR: Register = (0x1a, 2);
pub(super) const QUEUE_ENABLE: Register = (0x1c, 2);
pub(super) const QUEUE_DESCRIPTORS: Register = (0x20, 8);
pub(super) const QUEUE_DRIVER: Register = (0x28, 8);
pub(super) const QUEUE_DEVICE: Register = (0x30, 8);
/// MSI-X table and pending bits.
pub(super) const TABLE: u64 = 0x4000;
pub(super) const PENDING: u64 = 0x5000;
