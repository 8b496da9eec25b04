//! The header in front of every frame (virtio 1.2, 5.1.6): which work was left to the receiver.
//!
//! A header is decoded into [`Offload`], which cannot contradict its frame, and is encoded anew from that: no
//! field of a sender reaches a receiver unchecked.

use super::Loss;
use super::config::feature;
use super::frame::{IPV4, IPV6, MIN_FRAME};

/// Length of a header, `num_buffers` included.
pub(super) const HEADER: usize = 12;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

/// Where the checksum is in a TCP header, and the shortest such header.
const TCP_CHECKSUM: u16 = 16;
const TCP_HEADER: usize = 20;

/// Which offloads a sender may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    pub(super) checksum: bool,
    pub(super) tso4: bool,
    pub(super) tso6: bool,
}

impl Allowed {
    /// Everything that a wire can carry.
    pub(super) const ALL: Self = Self {
        checksum: true,
        tso4: true,
        tso6: true,
    };

    /// What a guest may send; segmentation is nothing without checksums.
    pub(super) fn to_host(features: u64) -> Self {
        let checksum = features & feature::CSUM != 0;
        Self {
            checksum,
            tso4: checksum && features & feature::HOST_TSO4 != 0,
            tso6: checksum && features & feature::HOST_TSO6 != 0,
        }
    }

    /// What a guest can take.
    pub(super) fn to_guest(features: u64) -> Self {
        let checksum = features & feature::GUEST_CSUM != 0;
        Self {
            checksum,
            tso4: checksum && features & feature::GUEST_TSO4 != 0,
            tso6: checksum && features & feature::GUEST_TSO6 != 0,
        }
    }
}

/// A checksum that is left to the receiver: it covers everything from `start`, and its field is inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checksum {
    pub(super) start: u16,
    pub(super) offset: u16,
}

/// TCP over which version of IP, in one frame that is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Segments {
    V4,
    V6,
}

/// Work left to the receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offload {
    pub(super) checksum: Option<Checksum>,
    /// Kind, payload of a segment, and the length of all headers as the frame itself says.
    pub(super) segments: Option<(Segments, u16, u16)>,
    /// The sender has verified the checksums: only believed from a kernel's tap device.
    pub(super) valid: bool,
}

impl Offload {
    /// Decodes the header of a frame of `len` bytes that begins with `head`, in which every protocol header must lie.
    ///
    /// # Errors
    /// [`Loss::Header`] when the header says what the frame or `allowed` contradicts.
    pub(super) fn decode(
        header: &[u8; HEADER],
        head: &[u8],
        len: usize,
        kind: u16,
        allowed: Allowed,
    ) -> Result<Self, Loss> {
        let [flags, gso, h0, h1, g0, g1, s0, s1, o0, o1, _, _] = *header;
        let hdr_len = usize::from(u16::from_le_bytes([h0, h1]));
        let gso_size = u16::from_le_bytes([g0, g1]);
        let sum = Checksum {
            start: u16::from_le_bytes([s0, s1]),
            offset: u16::from_le_bytes([o0, o1]),
        };
        if flags & !(NEEDS_CSUM | DATA_VALID) != 0 || hdr_len > len {
            return Err(Loss::Header);
        }
        let mut offload = Self {
            valid: flags & DATA_VALID != 0,
            ..Self::default()
        };
        if flags & NEEDS_CSUM != 0 {
            let end = usize::from(sum.start)
                .saturating_add(usize::from(sum.offset))
                .saturating_add(2);
            if !allowed.checksum || usize::from(sum.start) < MIN_FRAME || end > len {
                return Err(Loss::Header);
            }
            offload.checksum = Some(sum);
        }
        let segments = match gso {
            GSO_NONE => return Ok(offload),
            GSO_TCPV4 if allowed.tso4 && kind == IPV4 => Segments::V4,
            GSO_TCPV6 if allowed.tso6 && kind == IPV6 => Segments::V6,
            _ => return Err(Loss::Header),
        };
        let headers = offload
            .checksum
            .filter(|sum| sum.offset == TCP_CHECKSUM)
            .and_then(|sum| tcp_end(head, sum.start))
            .ok_or(Loss::Header)?;
        // Its own idea of the length is a hint; one that cuts through the headers is a lie.
        if gso_size == 0 || hdr_len < usize::from(headers) {
            return Err(Loss::Header);
        }
        offload.segments = Some((segments, gso_size, headers));
        Ok(offload)
    }

    /// The header for the receiver, in one buffer.
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut flags = if self.valid { DATA_VALID } else { 0 };
        let mut sum = [0; 4];
        if let Some(Checksum { start, offset }) = self.checksum {
            flags = NEEDS_CSUM;
            let ([s0, s1], [o0, o1]) = (start.to_le_bytes(), offset.to_le_bytes());
            sum = [s0, s1, o0, o1];
        }
        let (gso, size, headers) = match self.segments {
            None => (GSO_NONE, 0, 0),
            Some((Segments::V4, size, headers)) => (GSO_TCPV4, size, headers),
            Some((Segments::V6, size, headers)) => (GSO_TCPV6, size, headers),
        };
        let ([h0, h1], [g0, g1], [s0, s1, o0, o1]) =
            (headers.to_le_bytes(), size.to_le_bytes(), sum);
        [flags, gso, h0, h1, g0, g1, s0, s1, o0, o1, 1, 0]
    }

    /// Makes the frame one that a receiver with `allowed` can take, completing a checksum if need be.
    ///
    /// # Errors
    /// [`Loss::Undeliverable`] when it is to be cut and the receiver cannot.
    pub(super) fn adapt(&mut self, frame: &mut [u8], allowed: Allowed) -> Result<(), Loss> {
        match self.segments {
            Some((Segments::V4, ..)) if !allowed.tso4 => return Err(Loss::Undeliverable),
            Some((Segments::V6, ..)) if !allowed.tso6 => return Err(Loss::Undeliverable),
            _ => {}
        }
        if !allowed.checksum {
            self.valid = false;
            if let Some(sum) = self.checksum.take() {
                complete(frame, sum);
            }
        }
        Ok(())
    }
}

/// Where the TCP header that begins at `start` ends, by its own data offset.
fn tcp_end(head: &[u8], start: u16) -> Option<u16> {
    let header = head.get(usize::from(start)..)?;
    let words = header.get(12)? >> 4;
    let len = usize::from(words).checked_mul(4)?;
    if len < TCP_HEADER || len > header.len() {
        return None;
    }
    start.checked_add(u16::try_from(len).ok()?)
}

/// Completes a checksum whose field holds the sum of the pseudo header (RFC 1071).
fn complete(frame: &mut [u8], sum: Checksum) {
    let Some(covered) = frame.get_mut(usize::from(sum.start)..) else {
        return;
    };
    let (pairs, last) = covered.as_chunks::<2>();
    let odd = last.first().map_or(0, |byte| u64::from(*byte) << 8);
    // At most 32768 pairs: far from 2^64.
    let mut total = pairs.iter().fold(odd, |total, pair| {
        total.wrapping_add(u16::from_be_bytes(*pair).into())
    });
    while total > 0xffff {
        total = (total & 0xffff).wrapping_add(total >> 16);
    }
    let folded = u16::try_from(total).unwrap_or(0);
    // Zero would say "no checksum" in UDP; the other zero means the same sum.
    let value = if folded == 0xffff { 0xffff } else { !folded };
    let offset = usize::from(sum.offset);
    if let Some(field) = covered.get_mut(offset..offset.saturating_add(2)) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}
