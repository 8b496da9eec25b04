//! The balloon under hostile queues, while the host asks for pages and for a round of hinting.
#![no_main]

use casemate_devices::balloon::Balloon;
use casemate_devices::scatter::MAX_SEGMENTS;
use casemate_fuzz::driver;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let device = Balloon::new().expect("eventfd");
    let handle = device.handle();
    let hints = input.first().is_some_and(|flags| flags & driver::OWN != 0);
    driver::play(device, input, || {
        handle.set_target(16);
        if hints {
            handle.start_hinting();
        }
    });
    // At most this often: chains of four queues in two rounds, each of all memory in every buffer of a chain.
    let chains = 4 * 2 * u64::from(driver::ENTRIES);
    let buffers = u64::try_from(MAX_SEGMENTS * driver::MEMORY).expect("small");
    assert!(handle.given() <= chains * buffers, "{}", handle.given());
});
