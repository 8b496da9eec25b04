//! States of the bus: what is saved is taken back, and nothing else.

use super::*;
use crate::pci::{BarIndex, Configuration, Identity, PciFunction};
use crate::state::{FunctionState, StateError, VirtioState};

/// The state of the bus with one virtio function, which is the second.
fn virtio(saved: &mut [FunctionState]) -> &mut VirtioState {
    saved[1].virtio.as_mut().expect("a virtio function")
}

/// A guest in the middle of things: a moved BAR, a vector masked and pending, positions far along.
fn busy() -> (Guest, Vec<FunctionState>) {
    let mut guest = Guest::new();
    guest.enable_interrupts();
    guest.start();
    guest.bar = WINDOW + 0x8000;
    guest.write_config(0x10, &(guest.bar & 0xffff_ffff).to_le_bytes()[..4]);
    guest.write_config(0x18, &[0x40, 0xd0, 0, 0]);
    for vector in [1_u64, 2] {
        guest.set((0x4000 + 16 * vector + 12, 4), vector - 1);
    }
    // Vector 2 is masked, and was raised.
    for queue in &mut lock(&guest.device).active.as_mut().expect("started").queues {
        queue.queue.set_next_avail(5);
        queue.queue.set_next_used(0xfffe);
        queue.interrupt.signal();
    }
    let saved = guest.root.save().expect("all can be saved");
    (guest, saved)
}

#[test]
fn a_restored_bus_is_as_it_was_saved() {
    let (_guest, mut saved) = busy();
    let there = Guest::new();
    there.root.restore(&saved).expect("its own state");
    assert!(there.is_active());
    assert_eq!(read(&there.bus, WINDOW + 0x8000 + 0x14, 1), 15);
    assert_eq!(there.notify.watched(), [0xd040, 0xd044]);
    let positions: Vec<_> = lock(&there.device)
        .positions()
        .iter()
        .map(|position| (position.next_available, position.next_used))
        .collect();
    assert_eq!(positions, [(5, 0xfffe), (5, 0xfffe)]);
    // Each queue is looked at once, and its interrupt sent once more or kept pending.
    there.run();
    assert_eq!(lock(&there.device).kicked, [0, 1]);
    assert_eq!(there.router.sent().len(), 1, "vector 1");
    assert!(virtio(&mut saved).vectors[2].pending);
    let mut again = there.root.save().expect("all can be saved");
    assert_eq!(again, saved);
    assert_eq!(virtio(&mut again).positions.len(), 2);
    // Unmasking sends what was pending.
    there
        .bus
        .write(WINDOW + 0x8000 + 0x4000 + 16 * 2 + 12, &[0; 4]);
    assert_eq!(there.router.sent().len(), 2);
}

#[test]
fn a_restored_device_is_reset_and_used_like_any_other() {
    let (guest, saved) = busy();
    let mut there = Guest::new();
    there.root.restore(&saved).expect("its own state");
    there.bar = guest.bar;
    there.set(STATUS, 0);
    assert!(!there.is_active());
    there.assert_still_works("after a restore");
}

#[test]
fn devices_that_were_never_started_stay_so() {
    for steps in 0..4 {
        let guest = Guest::new();
        match steps {
            0 => {}
            1 => guest.set(STATUS, 3),
            2 => guest.negotiate(FEATURES | VERSION_1),
            _ => {
                guest.negotiate(FEATURES | VERSION_1);
                guest.set_up_queues();
                guest.set((0x1c, 2), 1);
            }
        }
        let saved = guest.root.save().expect("all can be saved");
        let there = Guest::new();
        there.root.restore(&saved).expect("its own state");
        assert!(!there.is_active(), "{steps}");
        assert_eq!(there.root.save().expect("again"), saved, "{steps}");
        there.assert_still_works("from where it was");
    }
}

#[test]
fn a_broken_device_stays_broken_until_its_driver_resets_it() {
    let guest = Guest::new();
    guest.start();
    let queue = lock(&guest.device).active.as_ref().expect("started").queues[0]
        .interrupt
        .clone();
    queue.needs_reset();
    let saved = guest.root.save().expect("all can be saved");
    let there = Guest::new();
    there.root.restore(&saved).expect("its own state");
    assert!(!there.is_active());
    assert_eq!(there.get(STATUS), 15 | 64);
    there.assert_still_works("after its reset");
}

#[test]
fn a_failed_driver_stays_failed() {
    let guest = Guest::new();
    guest.start();
    guest.set(STATUS, 143);
    let saved = guest.root.save().expect("all can be saved");
    let there = Guest::new();
    there.root.restore(&saved).expect("its own state");
    assert_eq!(there.get(STATUS), 143);
}

#[test]
fn a_state_that_no_guest_can_write_is_refused() {
    type Change = fn(&mut VirtioState);
    let changes: [(&str, Change); 22] = [
        ("another device", |state| state.device_type = 2),
        ("other features offered", |state| state.offered ^= 2),
        ("a feature that was not offered", |state| {
            state.accepted |= 2;
        }),
        ("no VERSION_1", |state| state.accepted &= !VERSION_1),
        ("a step left out", |state| state.status = 4 | 1),
        ("an unknown status bit", |state| state.status |= 16),
        ("a queue less", |state| {
            state.queues.pop();
        }),
        ("a queue more", |state| {
            state.queues.push(state.queues[0]);
        }),
        ("no size", |state| state.queues[0].size = 0),
        ("an odd size", |state| state.queues[0].size = 3),
        ("too large", |state| state.queues[1].size = 32),
        ("a queue that is not enabled", |state| {
            state.queues[1].enabled = false;
        }),
        ("a table outside of memory", |state| {
            state.queues[0].descriptors = 0x10_0000;
        }),
        ("a ring at the end of memory", |state| {
            state.queues[0].device = 0xf_fffc;
        }),
        ("an odd ring", |state| state.queues[0].driver = 0x2001),
        ("a vector that is not there", |state| {
            state.queues[0].vector = 3;
        }),
        ("a vector for changes that is not there", |state| {
            state.config_vector = 3;
        }),
        ("an interrupt status", |state| state.interrupt_status = 4),
        ("a vector less", |state| {
            state.vectors.pop();
        }),
        ("an odd message", |state| state.vectors[0].address |= 1),
        ("a position less", |state| {
            state.positions.pop();
        }),
        ("something of its own", |state| state.own.push(1)),
    ];
    let (_guest, saved) = busy();
    for (what, change) in changes {
        let mut changed = saved.clone();
        change(virtio(&mut changed));
        assert!(changed != saved, "{what}");
        let there = Guest::new();
        assert!(there.root.restore(&changed).is_err(), "{what}");
    }
}

/// A device of the host's: it has a state that is not in this process.
struct Assigned(Configuration);

impl PciFunction for Assigned {
    fn configuration(&mut self) -> &mut Configuration {
        &mut self.0
    }
    fn bar_read(&mut self, _bar: BarIndex, _offset: u64, _data: &mut [u8]) {}
    fn bar_write(&mut self, _bar: BarIndex, _offset: u64, _data: &[u8]) {}
    fn save(&mut self) -> Option<FunctionState> {
        None
    }
    fn restore(&mut self, _saved: &FunctionState) -> Result<(), StateError> {
        Err(StateError::Unfit("it is a device of the host's"))
    }
    fn bar_moved(&mut self, _bar: BarIndex, _address: Option<u64>) {}
}

#[test]
fn a_vm_with_an_assigned_device_is_not_saved() {
    let guest = Guest::new();
    let configuration = Configuration::new(Identity {
        vendor: 0x8086,
        device: 0x100e,
        class: 0x02_00_00,
        revision: 0,
        subsystem: (0, 0),
    });
    let function = Arc::new(Mutex::new(Assigned(configuration)));
    guest.root.add(function).expect("a free slot");
    assert_eq!(guest.root.save(), Err(StateError::NotSaveable(2)));
}

#[test]
fn another_bus_or_configuration_space_is_refused() {
    let (_guest, saved) = busy();
    let check = |saved: &[FunctionState], expected: Option<StateError>| {
        let there = Guest::new();
        let result = there.root.restore(saved);
        match expected {
            Some(expected) => assert_eq!(result, Err(expected)),
            None => assert!(result.is_err(), "{result:?}"),
        }
    };
    check(
        &saved[..1],
        Some(StateError::Functions { saved: 1, here: 2 }),
    );
    check(&[], Some(StateError::Functions { saved: 0, here: 2 }));
    let swapped: Vec<_> = saved.iter().rev().cloned().collect();
    check(&swapped, None);
    // Every byte of both: those that a guest can write may have other values, all others must not.
    for function in 0..2 {
        for offset in 0..256 {
            for flip in [0x01, 0xff] {
                let mut changed = saved.clone();
                changed[function].configuration[offset] ^= flip;
                let there = Guest::new();
                if there.root.restore(&changed).is_ok() {
                    let mut again = there.root.save().expect("all can be saved");
                    again[function].configuration[offset] ^= flip;
                    assert_eq!(
                        again[function].configuration, saved[function].configuration,
                        "{offset:#x}"
                    );
                }
            }
        }
        for len in [0, 255, 257] {
            let mut changed = saved.clone();
            changed[function].configuration.resize(len, 0);
            check(&changed, None);
        }
    }
}
