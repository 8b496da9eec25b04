//! What is made of recorded devices, which parts of BARs are mapped, and who is refused.

use super::recorded::{e1000e, nvme, without_msix, xhci};
use super::*;

fn piece(bar: BarIndex, range: std::ops::Range<u64>) -> Piece {
    Piece { bar, range }
}

#[test]
fn pages_of_msix_are_never_mapped() {
    let cases: [(DeviceInfo, MsixPlace, Vec<Piece>); 3] = [
        (
            e1000e(),
            MsixPlace {
                vectors: 5,
                table_bar: BarIndex::Bar3,
                table: 0..0x50,
                pending_bar: BarIndex::Bar3,
                pending: 0x2000..0x2008,
            },
            vec![
                piece(BarIndex::Bar0, 0..0x2_0000),
                piece(BarIndex::Bar1, 0..0x2_0000),
                piece(BarIndex::Bar3, 0x1000..0x2000),
                piece(BarIndex::Bar3, 0x3000..0x4000),
            ],
        ),
        (
            nvme(),
            MsixPlace {
                vectors: 65,
                table_bar: BarIndex::Bar0,
                table: 0x2000..0x2410,
                pending_bar: BarIndex::Bar0,
                pending: 0x3000..0x3010,
            },
            vec![piece(BarIndex::Bar0, 0..0x2000)],
        ),
        (
            xhci(),
            MsixPlace {
                vectors: 16,
                table_bar: BarIndex::Bar0,
                table: 0x3000..0x3100,
                pending_bar: BarIndex::Bar0,
                pending: 0x3800..0x3808,
            },
            vec![piece(BarIndex::Bar0, 0..0x3000)],
        ),
    ];
    for (device, msix, pieces) in cases {
        let layout = plan(&device).expect("it fits");
        assert_eq!((layout.msix, layout.pieces), (Some(msix), pieces));
    }
}

#[test]
fn a_device_without_msix_has_its_line_and_all_of_its_pages() {
    for pin in 1..=4 {
        let mut device = without_msix();
        device.config[0x3d] = pin;
        let layout = plan(&device).expect("it fits");
        assert_eq!(layout.msix, None);
        assert_eq!(layout.pieces, [piece(BarIndex::Bar0, 0..0x4000)]);
        // Whichever it is on the hardware, the guest has INTA.
        assert_eq!(layout.configuration.word(0x3c), 0x0100);
    }
}

#[test]
#[expect(
    clippy::single_range_in_vec_init,
    reason = "one range of bytes is meant, not a list of numbers"
)]
fn pieces_are_whole_pages_beside_walls() {
    let kib = |pages: std::ops::Range<u64>| pages.start * 0x1000..pages.end * 0x1000;
    let all = [kib(0..16)];
    for (len, mappable, trapped, expected) in [
        (0x1_0000, &all[..], &[][..], vec![kib(0..16)]),
        (0x1_0000, &[], &[], vec![]),
        (0x1_0000, &all, &[kib(0..1)], vec![kib(1..16)]),
        (0x1_0000, &all, &[kib(15..16)], vec![kib(0..15)]),
        (
            0x1_0000,
            &all,
            &[0x4fff..0x5001],
            vec![kib(0..4), kib(6..16)],
        ),
        (
            0x1_0000,
            &all,
            &[kib(8..9), 0x3010..0x3020],
            vec![kib(0..3), kib(4..8), kib(9..16)],
        ),
        (
            0x1_0000,
            &all,
            &[0x3000..0x3800, 0x3800..0x4000],
            vec![kib(0..3), kib(4..16)],
        ),
        (0x1_0000, &all, &[0x3000..0x3000], vec![kib(0..16)]),
        (0x1_0000, &all, &[0..u64::MAX], vec![]),
        // Half pages at the edges of what may be mapped, and what is said twice.
        (0x1_0000, &[0x800..0x2800], &[], vec![kib(1..2)]),
        (0x1_0000, &[0x800..0x1800], &[], vec![]),
        (
            0x1_0000,
            &[kib(0..4), kib(2..6)],
            &[],
            vec![kib(0..4), kib(4..6)],
        ),
        (
            0x1_0000,
            &[kib(4..6), kib(0..2)],
            &[],
            vec![kib(0..2), kib(4..6)],
        ),
        (0x1_0000, &[0..u64::MAX], &[], vec![kib(0..16)]),
        (0x1_0000, &[kib(20..22)], &[], vec![]),
        // Smaller than a page, and not of whole pages.
        (0x800, &[0..0x800], &[], vec![]),
        (0x1800, &[0..0x1800], &[], vec![kib(0..1)]),
    ] {
        let found = pieces(len, mappable, trapped);
        assert_eq!(found, expected, "{len:#x} {mappable:x?} {trapped:x?}");
    }
}

#[test]
fn unfit_devices_are_named_and_refused() {
    type Change = fn(&mut DeviceInfo);
    let rows: &[(Change, &str)] = &[
        (|d| d.resets = false, "cannot reset it"),
        (|d| d.config[0x0e] = 1, "bridge"),
        (|d| d.config[0x0e] = 0x82, "bridge"),
        (
            |d| {
                d.config[0x06] = 0;
                d.line = false;
            },
            "neither MSI-X nor",
        ),
        (
            |d| {
                d.config[0x40] = 0x05;
                d.config[0x3d] = 0;
            },
            "neither MSI-X nor",
        ),
        (
            |d| {
                d.config[0x40] = 0x05;
                d.config[0x3d] = 5;
            },
            "neither MSI-X nor",
        ),
        (|d| d.config[0x34] = 0x20, "does not end"),
        (|d| d.config[0x41] = 0x40, "does not end"),
        (|d| d.config[0x61] = 0x80, "does not end"),
        (|d| d.config[0x10] = 0x02, "no known kind"),
        (|d| d.config[0x10] = 0x06, "no known kind"),
        (|d| d.config[0x10] = 0x01, "outside of its BAR"),
        (|d| d.bars.clear(), "outside of its BAR"),
        (|d| d.config[0x44] = 0x01, "outside of its BAR"),
        (|d| d.config[0x44] = 0x07, "outside of its BAR"),
        (|d| d.config[0x45] = 0x3c, "outside of its BAR"),
        (|d| d.config[0x4b] = 0xff, "outside of its BAR"),
        (|d| d.config[0x49] = 0x24, "overlap"),
        (
            |d| {
                d.config[0x43] = 0x81;
                d.config[0x49] = 0x3f;
            },
            "321 MSI-X vectors",
        ),
        (|d| d.vectors = 64, "65 MSI-X vectors"),
        (|d| d.bars[0].len = 0x5000, "cannot be shown"),
        (|d| d.bars[0].bar = BarIndex::Bar5, "outside of its BAR"),
    ];
    for (index, (change, words)) in rows.iter().enumerate() {
        let mut device = nvme();
        change(&mut device);
        let said = match plan(&device) {
            Ok(_) => "it fits".to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(said.contains(words), "row {index}: {said}");
    }
}
