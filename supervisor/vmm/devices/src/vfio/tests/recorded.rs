//! Three devices of an emulated machine as read from its configuration ports: what is not listed is zero.

use crate::pci::BarIndex;
use crate::vfio::{BarInfo, DeviceInfo};

fn config(double_words: &[(usize, u32)]) -> [u8; 256] {
    let mut bytes = [0; 256];
    for (offset, value) in double_words {
        bytes[*offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// All of it may be mapped.
fn bar(bar: BarIndex, len: u64) -> BarInfo {
    let all = 0..len;
    BarInfo {
        bar,
        len,
        mappable: vec![all],
    }
}

/// A network card: three memory BARs of 32 bits, one of ports, MSI-X in BAR3.
pub(super) fn e1000e() -> DeviceInfo {
    DeviceInfo {
        config: config(&[
            (0x00, 0x10d38086),
            (0x04, 0x00100000),
            (0x08, 0x02000000),
            (0x10, 0x00000000),
            (0x14, 0x00000000),
            (0x18, 0x00000001),
            (0x1c, 0x00000000),
            (0x2c, 0x00008086),
            (0x34, 0x000000c8),
            (0x3c, 0x00000100),
            (0xa0, 0x00040011),
            (0xa4, 0x00000003),
            (0xa8, 0x00002003),
            (0xc8, 0x0022d001),
            (0xd0, 0x0080e005),
            (0xe0, 0x0091a010),
            (0xe4, 0x00008000),
            (0xec, 0x00000411),
            (0xf0, 0x00110000),
        ]),
        bars: vec![
            bar(BarIndex::Bar0, 0x20000),
            bar(BarIndex::Bar1, 0x20000),
            bar(BarIndex::Bar2, 0x20),
            bar(BarIndex::Bar3, 0x4000),
        ],
        vectors: 5,
        line: true,
        resets: true,
    }
}

/// A disk: one BAR of 64 bits, 65 vectors in the middle of it.
pub(super) fn nvme() -> DeviceInfo {
    DeviceInfo {
        config: config(&[
            (0x00, 0x00101b36),
            (0x04, 0x00100000),
            (0x08, 0x01080202),
            (0x10, 0x00000004),
            (0x2c, 0x11001af4),
            (0x34, 0x00000040),
            (0x3c, 0x00000100),
            (0x40, 0x00408011),
            (0x44, 0x00002000),
            (0x48, 0x00003000),
            (0x60, 0x00030001),
            (0x64, 0x00000008),
            (0x80, 0x00926010),
            (0x84, 0x10008000),
            (0x8c, 0x00000411),
            (0x90, 0x00110000),
            (0xa4, 0x00300000),
        ]),
        bars: vec![bar(BarIndex::Bar0, 0x4000)],
        vectors: 65,
        line: true,
        resets: true,
    }
}

/// A USB controller: one BAR of 64 bits, table and pending bits in one page.
pub(super) fn xhci() -> DeviceInfo {
    DeviceInfo {
        config: config(&[
            (0x00, 0x000d1b36),
            (0x04, 0x00100000),
            (0x08, 0x0c033001),
            (0x10, 0x00000004),
            (0x2c, 0x11001af4),
            (0x34, 0x00000090),
            (0x3c, 0x00000100),
            (0x60, 0x00000030),
            (0x90, 0x000fa011),
            (0x94, 0x00003000),
            (0x98, 0x00003800),
            (0xa0, 0x00920010),
            (0xa4, 0x00008000),
            (0xac, 0x00000411),
            (0xb0, 0x00110000),
            (0xc4, 0x00300000),
        ]),
        bars: vec![bar(BarIndex::Bar0, 0x4000)],
        vectors: 16,
        line: true,
        resets: true,
    }
}

/// The USB controller as it is with its line only.
pub(super) fn without_msix() -> DeviceInfo {
    let mut device = xhci();
    // No capabilities at all.
    device.config[0x06] &= !0x10;
    device.config[0x3d] = 1;
    device.vectors = 0;
    device
}
