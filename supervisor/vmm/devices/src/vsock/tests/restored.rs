//! What a restored guest is told.

use super::*;
use crate::fake::{Activated, WRITE};

/// The event queue, and where its buffers are.
const EVENTS: usize = 2;
const BUFFER: u64 = 0x8000;

fn device() -> Vsock {
    Vsock::new(GuestCid::new(9).expect("a guest"), Vec::new()).expect("eventfd")
}

fn activated(device: Vsock) -> Activated {
    let guest = Activated::new(Arc::new(Mutex::new(device)));
    let noise = [0xff; 16];
    guest
        .memory
        .write_slice(&noise, GuestAddress(BUFFER))
        .expect("in memory");
    guest
}

#[test]
fn connections_are_over_once_and_as_soon_as_there_is_a_buffer() {
    let mut restored = device();
    let state = VirtioDevice::save(&device());
    VirtioDevice::restore(&mut restored, &state).expect("its own state");
    let guest = activated(restored);
    guest.kick(EVENTS);
    assert_eq!(guest.used(EVENTS), []);
    // One that is too small, and one that is not.
    let descriptors = [(BUFFER, 2, WRITE, 0), (BUFFER + 4, 8, WRITE, 0)];
    guest.offer(EVENTS, &descriptors, &[0, 1]);
    guest.kick(EVENTS);
    assert_eq!(guest.used(EVENTS), [(0, 2), (1, 4)]);
    assert!(guest.interrupt.signals() >= 2);
    let mut event = [0; 12];
    guest
        .memory
        .read_slice(&mut event, GuestAddress(BUFFER))
        .expect("in memory");
    assert_eq!(event[4..], [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    guest.offer(EVENTS, &descriptors, &[1]);
    guest.kick(EVENTS);
    assert_eq!(guest.used(EVENTS).len(), 2, "said once");
}

#[test]
fn a_guest_that_was_not_restored_hears_nothing() {
    let guest = activated(device());
    guest.offer(EVENTS, &[(BUFFER, 8, WRITE, 0)], &[0]);
    guest.kick(EVENTS);
    assert_eq!(guest.used(EVENTS), []);
}

#[test]
fn a_state_of_something_else_is_refused() {
    for state in [&[][..], &[0], &[1, 1], &[2]] {
        assert!(VirtioDevice::restore(&mut device(), state).is_err());
    }
}
