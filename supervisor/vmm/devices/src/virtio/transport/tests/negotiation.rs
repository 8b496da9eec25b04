//! Status, features, queues, interrupts: what a driver may do, in order and out of it.

use super::*;

#[test]
fn a_driver_finds_the_structures_by_their_capabilities() {
    let guest = Guest::new();
    assert_eq!(guest.config(0x00, 4), 0x1044_1af4);
    assert_eq!(guest.config(0x08, 1), 1, "revision of a modern device");
    // Type, BAR, and what the capability says of offset and length in it.
    for (kind, bar, offset, len, own_len) in [
        (1, 0, 0x0000, 0x38, 16),
        (2, 2, 0, 8, 20),
        (3, 0, 0x1000, 1, 16),
        (4, 0, 0x2000, 0x1000, 16),
        (5, 0, 0, 0, 20),
    ] {
        let at = guest.capability(9, Some(kind));
        let found = (guest.config(at + 8, 4), guest.config(at + 12, 4));
        assert_eq!(found, (offset, len), "type {kind}");
        assert_eq!(guest.config(at + 4, 1), bar, "type {kind}");
        assert_eq!(guest.config(at + 2, 1), own_len, "type {kind}");
    }
    let notify = guest.capability(9, Some(2));
    assert_eq!(guest.config(notify + 16, 4), 4, "multiplier");
    let msix = guest.capability(0x11, None);
    assert_eq!(guest.config(msix + 2, 2), 2, "three vectors");
    assert_eq!(guest.config(msix + 4, 4), 0x4000, "table");
    assert_eq!(guest.config(msix + 8, 4), 0x5000, "pending bits");
}

#[test]
fn a_good_driver_gets_a_working_device() {
    let guest = Guest::new();
    assert_eq!(guest.get(QUEUES), 2);
    guest.start();
    assert_eq!(guest.get(STATUS), 15);
    let device = lock(&guest.device);
    let active = device.active.as_ref().expect("active");
    assert_eq!(active.features, FEATURES | VERSION_1);
    let sizes: Vec<_> = active
        .queues
        .iter()
        .map(|queue| (queue.queue.size(), queue.queue.desc_table()))
        .collect();
    assert_eq!(sizes, [(64, 0x1000), (16, 0x5000)]);
}

#[test]
fn features_are_those_offered_or_nothing() {
    let guest = Guest::new();
    for (select, expected) in [
        (0, FEATURES & 0xffff_ffff),
        (1, (FEATURES | VERSION_1) >> 32),
        (2, 0),
        (0xffff_ffff, 0),
    ] {
        guest.set(OFFERED_SELECT, select);
        assert_eq!(guest.get(OFFERED), expected, "select {select:#x}");
    }
    for (features, good) in [
        (VERSION_1, true),
        (VERSION_1 | FEATURES, true),
        (VERSION_1 | 1, true),
        (FEATURES, false),
        (0, false),
        (VERSION_1 | 2, false),
        (VERSION_1 | 1 << 29, false),
        (VERSION_1 | 1 << 63, false),
        (u64::MAX, false),
    ] {
        guest.negotiate(features);
        let status = if good { 11 } else { 3 };
        assert_eq!(guest.get(STATUS), status, "{features:#x}");
        // Frozen from FEATURES_OK; still open when it was refused.
        guest.accept(VERSION_1);
        guest.set(ACCEPTED_SELECT, 0);
        let now = guest.get(ACCEPTED);
        let expected = if good { features & 0xffff_ffff } else { 0 };
        assert_eq!(now, expected, "{features:#x}");
    }
    // Past the 64 bits there is nothing to accept.
    guest.negotiate(VERSION_1);
    guest.set(STATUS, 0);
    guest.set(ACCEPTED_SELECT, 7);
    guest.set(ACCEPTED, 0xffff_ffff);
    assert_eq!(guest.get(ACCEPTED), 0);
    guest.assert_still_works("after all that");
}

#[test]
fn queues_outside_memory_are_not_used() {
    let end = 0x10_0000;
    let guest = Guest::new();
    // Register of queue 1 (16 entries: 256, 38 and 134 bytes), address, and whether that works.
    for (register, address, good) in [
        (QUEUE_DESCRIPTORS, 0, true),
        (QUEUE_DESCRIPTORS, end - 256, true),
        (QUEUE_DESCRIPTORS, end - 240, false),
        (QUEUE_DESCRIPTORS, end, false),
        (QUEUE_DESCRIPTORS, 0x1008, false),
        (QUEUE_DESCRIPTORS, 0xffff_ffff_ffff_ff00, false),
        (QUEUE_DESCRIPTORS, 0xffff_ffff_ffff_fff0, false),
        (QUEUE_DRIVER, 0, false),
        (QUEUE_DRIVER, end - 38, true),
        (QUEUE_DRIVER, end - 36, false),
        (QUEUE_DRIVER, 0x1001, false),
        (QUEUE_DRIVER, WINDOW, false),
        (QUEUE_DEVICE, end - 136, true),
        (QUEUE_DEVICE, end - 132, false),
        (QUEUE_DEVICE, 0x1002, false),
        (QUEUE_DEVICE, 0xffff_ffff_ffff_fffc, false),
        (QUEUE_DEVICE, 0x1000, true),
    ] {
        guest.negotiate(VERSION_1);
        guest.set_up_queues();
        guest.set(QUEUE_SELECT, 1);
        guest.set(register, address);
        guest.enable_queues();
        guest.set(STATUS, 15);
        assert_eq!(guest.is_active(), good, "{register:?} {address:#x}");
        let status = if good { 15 } else { 15 | 64 };
        assert_eq!(guest.get(STATUS), status, "{register:?} {address:#x}");
    }
    guest.assert_still_works("after bad queues");
}

#[test]
fn a_device_needs_all_its_queues_and_may_refuse() {
    let guest = Guest::new();
    for enabled in [&[][..], &[0], &[1], &[2, 3]] {
        guest.negotiate(VERSION_1);
        guest.set_up_queues();
        for queue in enabled {
            guest.set(QUEUE_SELECT, *queue);
            guest.set(QUEUE_ENABLE, 1);
        }
        guest.set(STATUS, 15);
        assert_eq!(guest.get(STATUS), 15 | 64, "{enabled:?}");
        assert!(!guest.is_active(), "{enabled:?}");
        for queue in 0..2 {
            guest.set(QUEUE_SELECT, queue);
            guest.set(QUEUE_DEVICE, 0x9000);
            assert_ne!(guest.get(QUEUE_DEVICE), 0x9000, "too late: {enabled:?}");
        }
    }
    lock(&guest.device).refuse = true;
    guest.start();
    assert_eq!(guest.get(STATUS), 15 | 64);
    assert_eq!(lock(&guest.device).resets, 1, "after a refusal");
    lock(&guest.device).refuse = false;
    guest.assert_still_works("after a refusal");
}

#[test]
fn queue_sizes_are_powers_of_two_up_to_the_devices() {
    let guest = Guest::new();
    guest.negotiate(VERSION_1);
    // What queue 1 has after each write.
    for (written, size) in [
        (0, 16),
        (3, 16),
        (32, 16),
        (0xffff, 16),
        (0x8000, 16),
        (8, 8),
        (9, 8),
        (1, 1),
        (16, 16),
        (2, 2),
    ] {
        guest.set(QUEUE_SELECT, 1);
        guest.set(QUEUE_SIZE, written);
        assert_eq!(guest.get(QUEUE_SIZE), size, "{written}");
    }
    guest.set_up_queues();
    guest.enable_queues();
    guest.set(STATUS, 15);
    let device = lock(&guest.device);
    let active = device.active.as_ref().expect("active");
    assert_eq!(active.queues[1].queue.size(), 2);
}

#[test]
fn what_is_enabled_is_frozen_until_reset() {
    let guest = Guest::new();
    let registers = [
        (QUEUE_SIZE, 2),
        (QUEUE_ENABLE, 0),
        (QUEUE_DESCRIPTORS, 0x9000),
        (QUEUE_DRIVER, 0x9000),
        (QUEUE_DEVICE, 0x9000),
        ((0x20, 4), 0x9000),
        ((0x34, 4), 0x9000),
        (QUEUES, 7),
        (QUEUE_NOTIFY, 7),
        (GENERATION, 7),
        (ACCEPTED, 2),
        (STATUS, 1),
        (STATUS, 14),
    ];
    guest.negotiate(VERSION_1);
    guest.set_up_queues();
    guest.enable_queues();
    // Before and after DRIVER_OK.
    for status in [11, 15] {
        guest.set(STATUS, status);
        guest.set(QUEUE_SELECT, 0);
        for (register, value) in registers {
            let before = guest.get(register);
            guest.set(register, value);
            assert_eq!(guest.get(register), before, "{register:?} {status}");
        }
    }
    assert_eq!(lock(&guest.device).activations, 1);
    guest.set(STATUS, 0);
    guest.set(QUEUE_SELECT, 0);
    for (register, value) in [
        (QUEUE_SIZE, 64),
        (QUEUE_ENABLE, 0),
        (QUEUE_DESCRIPTORS, 0),
        (QUEUE_DRIVER, 0),
        (QUEUE_DEVICE, 0),
        (QUEUE_VECTOR, 0xffff),
        (CONFIG_VECTOR, 0xffff),
    ] {
        assert_eq!(guest.get(register), value, "{register:?} after reset");
    }
    assert!(!guest.is_active());
}

#[test]
fn interrupts_arrive_at_the_vectors_that_the_driver_chose() {
    let guest = Guest::new();
    guest.enable_interrupts();
    guest.start();
    let interrupts: Vec<_> = {
        let device = lock(&guest.device);
        let active = device.active.as_ref().expect("active");
        active
            .queues
            .iter()
            .map(|queue| queue.interrupt.clone())
            .collect()
    };
    let arrived = || {
        guest
            .router
            .sent()
            .iter()
            .map(|(_, message)| message.data)
            .collect::<Vec<_>>()
    };
    interrupts[0].signal();
    interrupts[1].signal();
    assert_eq!(arrived(), [0x41, 0x42]);
    assert_eq!(guest.get((0x1000, 1)), 1, "status says queue");
    let before = guest.get(GENERATION);
    interrupts[1].config_changed();
    assert_eq!(arrived(), [0x41, 0x42, 0x40]);
    assert_eq!(guest.get((0x1000, 1)), 2, "status says configuration");
    assert_eq!(guest.get((0x1000, 1)), 0, "and forgets");
    assert_ne!(guest.get(GENERATION), before);
    // A vector that does not exist is refused by reading back as none.
    for (vector, read_back) in [(3, 0xffff), (2, 2), (0xfffe, 0xffff), (0xffff, 0xffff)] {
        guest.set(QUEUE_SELECT, 0);
        guest.set(QUEUE_VECTOR, vector);
        assert_eq!(guest.get(QUEUE_VECTOR), read_back, "{vector:#x}");
    }
    interrupts[0].signal();
    assert_eq!(arrived().len(), 3, "no vector, no interrupt");
    interrupts[0].needs_reset();
    interrupts[0].needs_reset();
    assert_eq!(guest.get(STATUS), 15 | 64);
    assert_eq!(arrived(), [0x41, 0x42, 0x40, 0x40], "told once");
    guest.set(STATUS, 0);
    guest.start();
    for interrupt in interrupts {
        interrupt.signal();
        interrupt.config_changed();
        interrupt.needs_reset();
    }
    assert_eq!(guest.get(STATUS), 15, "those of before the reset are dead");
    assert_eq!(arrived().len(), 4);
}

#[test]
fn kicks_reach_the_device_while_it_is_active() {
    let guest = Guest::new();
    guest.start();
    // A guest gets here only where no doorbell is registered. Offset, width, and which queue hears it.
    for (offset, len, heard) in [
        (0, 2, &[0][..]),
        (4, 1, &[1]),
        (4, 4, &[1]),
        (8, 2, &[]),
        (62, 2, &[]),
        (63, 2, &[]),
        (64, 2, &[]),
    ] {
        lock(&guest.device).kicked.clear();
        guest.ports.write(PORTS + offset, &[0xff; 4][..len]);
        guest.run();
        assert_eq!(lock(&guest.device).kicked, heard, "port {offset:#x} {len}");
        assert_eq!(read(&guest.ports, PORTS + offset, len), ones(len));
    }
    guest.set(STATUS, 0);
    lock(&guest.device).kicked.clear();
    guest.ring(0);
    guest.run();
    assert!(lock(&guest.device).kicked.is_empty(), "not active");
    guest.start();
    guest.run();
    assert_eq!(
        lock(&guest.device).kicked,
        [0],
        "a kick before DRIVER_OK is not lost"
    );
}
