//! Views of cut-up bytes, and moving them over the seam of two regions of memory.

mod model;

use std::io::{Seek as _, Write as _};
use std::os::unix::net::UnixStream;

use vm_memory::GuestMemoryMmap;

use super::*;

fn segments(list: &[(u64, usize)]) -> Segments {
    let mut segments = Segments::new();
    for (address, len) in list {
        let address = GuestAddress(*address);
        segments
            .push(Segment { address, len: *len })
            .expect("there is room");
    }
    segments
}

#[test]
fn a_view_is_split_at_any_byte() {
    let all = segments(&[(100, 3), (200, 1), (300, 4)]);
    let flat = [100_u64, 101, 102, 200, 300, 301, 302, 303];
    let bytes = |view: View<'_>| -> Vec<u64> {
        let ranges = view.ranges();
        ranges
            .flat_map(|(address, len)| address.0..address.0 + u64::try_from(len).expect("small"))
            .collect()
    };
    for at in 0..=flat.len() + 1 {
        let (front, back) = all.view().split_at(at);
        let cut = at.min(flat.len());
        assert_eq!(bytes(front), flat[..cut], "front of {at}");
        assert_eq!(bytes(back), flat[cut..], "back of {at}");
        assert_eq!(front.len() + back.len(), flat.len());
        for again in 0..=back.len() {
            assert_eq!(
                bytes(back.after(again)),
                flat[cut + again..],
                "{at} {again}"
            );
            assert_eq!(
                bytes(back.split_at(again).0),
                flat[cut..][..again],
                "{at} {again}"
            );
        }
    }
}

#[test]
fn the_list_is_bounded() {
    let mut segments = Segments::new();
    let one = Segment {
        address: GuestAddress(0),
        len: 1,
    };
    for _ in 0..MAX_SEGMENTS {
        assert_eq!(segments.push(one), Ok(()));
    }
    assert_eq!(segments.push(one), Err(BadChain::TooLong));
    assert_eq!(segments.view().len(), MAX_SEGMENTS);
}

#[test]
fn bytes_move_over_the_seam_of_two_regions() {
    let seam = 0x1000;
    let memory = GuestMemoryMmap::<()>::from_ranges(&[
        (GuestAddress(0), 0x1000),
        (GuestAddress(seam), 0x1000),
    ])
    .expect("memory");
    let list = segments(&[(seam - 10, 20), (0, 5), (seam - 1, 2)]);
    let view = list.view();
    let bytes: Vec<u8> = (1..=27).collect();

    assert_eq!(view.write(&memory, &bytes), 27);
    // The last range overlaps the first: what was written last stays.
    let mut expected = bytes.clone();
    expected[9..11].copy_from_slice(&[26, 27]);
    let mut back = [0; 30];
    assert_eq!(view.read(&memory, &mut back), 27);
    assert_eq!(back[..27], expected);
    assert_eq!(view.read_array::<28>(&memory), None);

    let mut file = tempfile::tempfile().expect("a file");
    assert_eq!(
        io::write_at(&file, &memory, view, 100).expect("written"),
        27
    );
    file.rewind().expect("a file");
    file.write_all(&[0xaa; 7]).expect("written");
    assert_eq!(
        io::read_at(&file, &memory, view.split_at(7).0, 0).expect("read"),
        7
    );
    assert_eq!(view.read_array::<7>(&memory), Some([0xaa; 7]));
    assert_eq!(
        io::read_at(&file, &memory, view, 110).expect("read"),
        17,
        "its end"
    );
    assert_eq!(
        io::read_at(&file, &memory, view, 127).expect("read"),
        0,
        "beyond it"
    );
    io::read_at(&file, &memory, view, u64::MAX).expect_err("no such offset");

    let (one, other) = UnixStream::pair().expect("a pair");
    let wait = |result: std::io::Result<usize>| result.map_err(|error| error.kind());
    let would_block = Err(std::io::ErrorKind::WouldBlock);
    assert_eq!(wait(io::receive(&one, &memory, view)), would_block);
    assert_eq!(wait(io::send(&one, &memory, view)), Ok(27));
    assert_eq!(wait(io::receive(&other, &memory, view)), Ok(27));
    drop(other);
    assert_eq!(wait(io::receive(&one, &memory, view)), Ok(0));
    let broken = Err(std::io::ErrorKind::BrokenPipe);
    assert_eq!(wait(io::send(&one, &memory, view)), broken);
}
