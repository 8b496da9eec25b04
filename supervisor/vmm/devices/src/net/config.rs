//! Features and configuration space (virtio 1.2, 5.1.3 and 5.1.4).

use casemate_vmm_control::MacAddress;

/// Feature bits.
pub(super) mod feature {
    pub(crate) const CSUM: u64 = 1 << 0;
    pub(crate) const GUEST_CSUM: u64 = 1 << 1;
    pub(crate) const MAC: u64 = 1 << 5;
    pub(crate) const GUEST_TSO4: u64 = 1 << 7;
    pub(crate) const GUEST_TSO6: u64 = 1 << 8;
    pub(crate) const HOST_TSO4: u64 = 1 << 11;
    pub(crate) const HOST_TSO6: u64 = 1 << 12;
    pub(crate) const MRG_RXBUF: u64 = 1 << 15;
    pub(crate) const STATUS: u64 = 1 << 16;
    pub(crate) const RING_INDIRECT_DESC: u64 = 1 << 28;
    pub(crate) const RING_EVENT_IDX: u64 = 1 << 29;
}

/// What the device offers; offloads only over a wire whose other end hears of them.
pub(super) fn features(offloads: bool) -> u64 {
    let always = feature::MAC
        | feature::MRG_RXBUF
        | feature::STATUS
        | feature::RING_INDIRECT_DESC
        | feature::RING_EVENT_IDX;
    let offloading = feature::CSUM
        | feature::GUEST_CSUM
        | feature::GUEST_TSO4
        | feature::GUEST_TSO6
        | feature::HOST_TSO4
        | feature::HOST_TSO6;
    if offloads {
        always | offloading
    } else {
        always
    }
}

/// The configuration space: address, then status with bit 0 for "link up".
pub(super) fn encode(mac: MacAddress, up: bool) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac.bytes();
    [a, b, c, d, e, f, u8::from(up), 0]
}
