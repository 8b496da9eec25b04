//! What the driver is told of a disk: features, limits and its serial (virtio 1.2, 5.2.3 and 5.2.4).

use std::fmt::{self, Write as _};

use super::disk::SECTOR;
use super::request::{MAX_DATA_SEGMENTS, MAX_RANGES, SEGMENT_BYTES};

/// Whether the guest may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Writes are refused, whatever the driver negotiated.
    ReadOnly,
    /// It may.
    ReadWrite,
}

/// A name for the disk that the guest can read: `/dev/disk/by-id/virtio-SERIAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serial([u8; Serial::LEN]);

/// A text that is no [`Serial`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no disk serial: at most 20 printable ASCII characters without a space")]
pub struct InvalidSerial(String);

impl Serial {
    /// Length of the field in bytes, padded with zeroes.
    pub const LEN: usize = 20;

    /// Checks a serial.
    ///
    /// # Errors
    /// [`InvalidSerial`] when it is too long or not plain text.
    pub fn new(text: &str) -> Result<Self, InvalidSerial> {
        let mut bytes = [0; Self::LEN];
        match bytes.get_mut(..text.len()) {
            Some(field) if text.bytes().all(|byte| byte.is_ascii_graphic()) => {
                field.copy_from_slice(text.as_bytes());
                Ok(Self(bytes))
            }
            _ => Err(InvalidSerial(text.to_owned())),
        }
    }

    /// The field as the guest reads it.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .take_while(|byte| **byte != 0)
            .try_for_each(|byte| formatter.write_char(char::from(*byte)))
    }
}

/// Feature bits of the device and of rings.
pub(super) mod feature {
    pub(crate) const SIZE_MAX: u64 = 1 << 1;
    pub(crate) const SEG_MAX: u64 = 1 << 2;
    pub(crate) const RO: u64 = 1 << 5;
    pub(crate) const BLK_SIZE: u64 = 1 << 6;
    pub(crate) const FLUSH: u64 = 1 << 9;
    pub(crate) const MQ: u64 = 1 << 12;
    pub(crate) const DISCARD: u64 = 1 << 13;
    pub(crate) const WRITE_ZEROES: u64 = 1 << 14;
    pub(crate) const RING_INDIRECT_DESC: u64 = 1 << 28;
    pub(crate) const RING_EVENT_IDX: u64 = 1 << 29;
}

/// What a device with so many queues offers.
pub(super) fn features(access: Access, queues: usize) -> u64 {
    let several = if queues > 1 { feature::MQ } else { 0 };
    let always = feature::SIZE_MAX
        | feature::SEG_MAX
        | feature::BLK_SIZE
        | feature::FLUSH
        | feature::RING_INDIRECT_DESC
        | feature::RING_EVENT_IDX;
    match access {
        Access::ReadOnly => always | several | feature::RO,
        Access::ReadWrite => always | several | feature::DISCARD | feature::WRITE_ZEROES,
    }
}

/// Sectors that one range of a discard may cover: 1 GiB, a promise of short requests; larger ones are served too.
const DISCARD_SECTORS: u32 = 1 << 21;
/// Sectors that one range of a write-zeroes may cover: 64 MiB, in case the file system has to write them.
const WRITE_ZEROES_SECTORS: u32 = 1 << 17;
/// Discards are most use in clusters of an overlay, 64 KiB, in sectors.
const DISCARD_ALIGNMENT: u32 = 128;

/// Length of the configuration space in bytes.
pub(super) const LEN: usize = 60;

/// The configuration space of a disk of `size` bytes with so many queues.
pub(super) fn encode(size: u64, queues: usize) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    let mut put = |offset: usize, value: &[u8]| {
        if let Some(field) = bytes.get_mut(offset..offset.saturating_add(value.len())) {
            field.copy_from_slice(value);
        }
    };
    let small = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
    put(0, &size.checked_div(SECTOR).unwrap_or(0).to_le_bytes());
    put(8, &small(SEGMENT_BYTES));
    put(12, &small(MAX_DATA_SEGMENTS));
    put(20, &512_u32.to_le_bytes()); // blk_size
    put(34, &u16::try_from(queues).unwrap_or(1).to_le_bytes()); // num_queues
    put(36, &DISCARD_SECTORS.to_le_bytes());
    put(40, &small(MAX_RANGES));
    put(44, &DISCARD_ALIGNMENT.to_le_bytes());
    put(48, &WRITE_ZEROES_SECTORS.to_le_bytes());
    put(52, &small(MAX_RANGES));
    put(56, &[1]); // write zeroes may unmap
    bytes
}
