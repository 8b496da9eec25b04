//! The network device under hostile queues, on a cable whose other end answers. Whatever the guest queues, only whole
//! frames from its own address go out.
#![no_main]

use std::os::fd::OwnedFd;

use casemate_devices::net::{Net, Wire};
use casemate_fuzz::driver;
use casemate_vmm_control::MacAddress;
use libfuzzer_sys::fuzz_target;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 7];
const HEADER: usize = 12;
/// The longest frame, and the header before it.
const LONGEST: usize = HEADER + 14 + 65_535;

fn check(packet: &[u8]) {
    assert!((HEADER + 14..=LONGEST).contains(&packet.len()));
    let (header, frame) = packet.split_at(HEADER);
    assert_eq!(frame[6..12], OWN, "a foreign address left");
    assert!(!matches!(frame[12..14], [0x81, 0] | [0x88, 0xa8] | [0x91, 0]));
    assert_eq!(header[0] & !1, 0, "flags");
    if header[0] & 1 != 0 {
        let word = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
        assert!(word(6) + word(8) + 2 <= frame.len(), "a checksum outside");
    }
}

fn drain(far: &OwnedFd) {
    let mut packet = vec![0; LONGEST + 1];
    while let Ok((len, _)) = rustix::net::recv(far, &mut packet[..], RecvFlags::DONTWAIT) {
        if len == 0 {
            return;
        }
        check(&packet[..len]);
    }
}

fuzz_target!(|input: &[u8]| {
    let (near, far) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::NONBLOCK,
        None,
    )
    .expect("sockets");
    let device = Net::new(MacAddress::new(OWN).expect("unicast"), Wire::cable(near));
    let mut answer = vec![0; HEADER];
    answer.extend(OWN);
    answer.extend([2, 0, 0, 0, 0, 8, 8, 0]);
    answer.resize(HEADER + 600, 1);
    driver::play(device, input, || {
        drain(&far);
        let _ = rustix::net::send(&far, &answer, SendFlags::DONTWAIT);
    });
    drain(&far);
});
