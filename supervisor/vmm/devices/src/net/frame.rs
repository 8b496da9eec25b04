//! Ethernet, as far as a wire must know it: lengths, the source address, and that there is no VLAN tag.

use super::Loss;

/// An Ethernet header: two addresses and the type.
pub const MIN_FRAME: usize = 14;

/// Longest frame: a header and the largest IP packet. A longer one is nobody's and is never buffered.
pub const MAX_FRAME: usize = MIN_FRAME + 65_535;

pub(super) const IPV4: u16 = 0x0800;
pub(super) const IPV6: u16 = 0x86dd;

/// Types of VLAN tags: 802.1Q, 802.1ad, and the old number of the latter.
const VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// Whether a frame of this length can be.
pub(super) fn length(len: usize) -> Result<(), Loss> {
    if (MIN_FRAME..=MAX_FRAME).contains(&len) {
        Ok(())
    } else {
        Err(Loss::Length)
    }
}

/// The type field of a frame, provided that it comes from `source` (any when absent) and has no VLAN tag.
pub(super) fn ethertype(head: &[u8], source: Option<[u8; 6]>) -> Result<u16, Loss> {
    let ([.., a, b, c, d, e, f, high, low], _) =
        head.split_first_chunk::<MIN_FRAME>().ok_or(Loss::Length)?;
    if source.is_some_and(|own| own != [*a, *b, *c, *d, *e, *f]) {
        return Err(Loss::ForeignSource);
    }
    let kind = u16::from_be_bytes([*high, *low]);
    if VLAN.contains(&kind) {
        return Err(Loss::Vlan);
    }
    Ok(kind)
}
