//! bzImage: a good one, and one change a row.

use super::*;

/// Bytes after the setup sectors.
const CODE: usize = 0x1000;

/// Three setup sectors, 4 KiB of code, 32 MiB to unpack itself in.
fn good() -> Vec<u8> {
    let mut image = vec![0xcc; 4 * 512];
    for (at, value, len) in [
        (0x1f1, 3, 1),            // setup_sects
        (0x1f4, CODE / 16, 4),    // syssize
        (0x200, 0x6aeb, 2),       // jump
        (0x202, 0x5372_6448, 4),  // HdrS
        (0x206, 0x020f, 2),       // version
        (0x211, 1, 1),            // loadflags
        (0x22c, 0x7fff_ffff, 4),  // initrd_addr_max
        (0x230, 0x20_0000, 4),    // kernel_alignment
        (0x234, 1, 1),            // relocatable_kernel
        (0x236, 0x3, 2),          // xloadflags
        (0x238, 2047, 4),         // cmdline_size
        (0x248, 0x300, 4),        // payload_offset
        (0x24c, CODE - 0x300, 4), // payload_length
        (0x250, 0x1234, 8),       // setup_data
        (0x258, 0x100_0000, 8),   // pref_address
        (0x260, 0x200_0000, 4),   // init_size
    ] {
        put(&mut image, at, &value.to_le_bytes()[..len]);
    }
    image.resize(4 * 512 + CODE, 0x90);
    image
}

fn setup(plan: &Plan) -> SetupHeader {
    match plan.entry {
        Entry::Long { setup, .. } => setup,
        Entry::Pvh { .. } => panic!("a bzImage has no PVH entry"),
    }
}

#[test]
fn a_good_image_is_planned() {
    let plan = outcome(Format::BzImage, &good()).expect("it is good");
    let expected = Segment {
        file: 2048..6144,
        memory: 0x100_0000..0x300_0000,
    };
    assert_eq!(plan.segments, [expected]);
    assert_eq!(plan.end, 0x300_0000);
    assert!(matches!(
        plan.entry,
        Entry::Long {
            address: 0x100_0200,
            ..
        }
    ));
}

#[test]
fn a_signature_is_not_loaded_and_a_last_paragraph_need_not_be_full() {
    let mut signed = good();
    signed.extend([0xee; 1000]);
    let plan = outcome(Format::BzImage, &signed).expect("it is good");
    assert_eq!(plan.segments[0].file, 2048..6144);
    let short = &good()[..6144 - 15];
    let mut short = short.to_vec();
    put(&mut short, 0x24c, &0x100_u32.to_le_bytes());
    let plan = outcome(Format::BzImage, &short).expect("it is good");
    assert_eq!(plan.segments[0].file, 2048..6129);
}

#[test]
fn the_zero_page_gets_the_header_with_our_places_and_nothing_after_it() {
    let plan = outcome(Format::BzImage, &good()).expect("it is good");
    let filled = setup(&plan)
        .fill(0x2_0000, 0x3ff_0000..0x3ff_1000)
        .expect("it fits");
    let field = |at: usize| {
        let bytes = &filled[at - 0x1f1..];
        u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"))
    };
    assert_eq!(field(0x202), 0x5372_6448);
    assert_eq!(field(0x210) & 0xffff, 0x01ff, "loader and flags");
    assert_eq!(field(0x218), 0x3ff_0000);
    assert_eq!(field(0x21c), 0x1000);
    assert_eq!(field(0x228), 0x2_0000);
    assert_eq!((field(0x250), field(0x254)), (0, 0), "no setup data");
    assert_eq!(field(0x260), 0x200_0000);
    // The jump says that the header goes to 0x26c; ours ends there too. A shorter one ends earlier.
    assert_eq!(SetupHeader::OFFSET + filled.len(), 0x26c);
    let mut shorter = good();
    put(&mut shorter, 0x201, &[0x62]);
    let plan = outcome(Format::BzImage, &shorter).expect("it is good");
    let filled = setup(&plan).fill(0, 0..0).expect("it fits");
    assert_eq!(filled[0x264 - 0x1f1..], [0; 8], "code is not copied");
    assert_eq!(filled[0x260 - 0x1f1..][..4], 0x200_0000_u32.to_le_bytes());
}

#[test]
fn an_initrd_that_it_cannot_reach_is_refused() {
    let mut image = good();
    put(&mut image, 0x236, &1_u16.to_le_bytes());
    put(&mut image, 0x22c, &0x3fe_ffff_u32.to_le_bytes());
    let plan = outcome(Format::BzImage, &image).expect("it is good");
    assert!(setup(&plan).fill(0, 0x3fd_0000..0x3ff_0000).is_ok());
    assert!(setup(&plan).fill(0, 0x3fd_0000..0x3ff_0001).is_err());
}

#[test]
fn every_cut_is_noticed() {
    let image = good();
    for len in 0..image.len() - 15 {
        assert!(
            outcome(Format::BzImage, &image[..len]).is_err(),
            "{len} bytes"
        );
    }
}

#[test]
fn bad_images_are_refused() {
    type Change = fn(&mut Vec<u8>);
    let rows: &[(&str, Change, &str)] = &[
        ("magic", |i| put(i, 0x202, b"X"), "not a bzImage"),
        ("old", |i| put(i, 0x206, &[0x0b]), "old boot protocol"),
        ("zImage", |i| put(i, 0x211, &[0]), "zImage"),
        ("32 bits", |i| put(i, 0x236, &[2]), "no 64-bit entry"),
        ("4 setup sectors", |i| put(i, 0x1f1, &[4]), "cut off"),
        ("0, so 4, setup sectors", |i| put(i, 0x1f1, &[0]), "cut off"),
        ("255 setup sectors", |i| put(i, 0x1f1, &[255]), "cut off"),
        (
            "more code than there is",
            |i| put(i, 0x1f4, &[1, 1]),
            "cut off",
        ),
        ("huge code", |i| put(i, 0x1f4, &[255; 4]), "cut off"),
        ("no code", |i| put(i, 0x1f4, &[0, 0]), "no code"),
        (
            "code without the entry",
            |i| put(i, 0x1f4, &[0x20, 0]),
            "no code",
        ),
        (
            "payload past the code",
            |i| put(i, 0x248, &[1]),
            "longer than the code",
        ),
        (
            "huge payload",
            |i| put(i, 0x24c, &[255; 4]),
            "longer than the code",
        ),
        ("alignment 0", |i| put(i, 0x230, &[0; 4]), "alignment"),
        ("alignment 3", |i| put(i, 0x230, &[3]), "alignment"),
        (
            "alignment 2 GiB",
            |i| put(i, 0x230, &(1_u32 << 31).to_le_bytes()),
            "alignment",
        ),
        ("not aligned", |i| put(i, 0x258, &[1]), "alignment"),
        (
            "address 0",
            |i| put(i, 0x258, &[0; 8]),
            "give it more memory",
        ),
        (
            "address past RAM",
            |i| put(i, 0x258, &0x400_0000_u64.to_le_bytes()),
            "give it more memory",
        ),
        (
            "address wraps",
            |i| put(i, 0x258, &(0_u64.wrapping_sub(0x20_0000)).to_le_bytes()),
            "give it more memory",
        ),
        (
            "unpacks past RAM",
            |i| put(i, 0x260, &0x300_0001_u32.to_le_bytes()),
            "give it more memory",
        ),
        (
            "unpacks 4 GiB",
            |i| put(i, 0x260, &[255; 4]),
            "give it more memory",
        ),
    ];
    for (what, change, words) in rows {
        let mut image = good();
        change(&mut image);
        refused(Format::BzImage, what, &image, words);
    }
    refused(
        Format::Elf,
        "a bzImage as ELF",
        &good(),
        "not a loadable ELF",
    );
    // Needs only what it loads when it says less than that.
    let mut image = good();
    put(&mut image, 0x260, &[0; 4]);
    let plan = outcome(Format::BzImage, &image).expect("it is good");
    assert_eq!(plan.end, 0x100_1000);
}
