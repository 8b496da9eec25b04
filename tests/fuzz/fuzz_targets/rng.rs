//! The random number device under hostile queues. Its clock stands still: a full bucket and no more.
#![no_main]

use std::time::Duration;

use casemate_devices::rng::{Clock, Rng};
use casemate_fuzz::driver;
use libfuzzer_sys::fuzz_target;

#[derive(Debug)]
struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

fuzz_target!(|input: &[u8]| {
    let device = Rng::new(Box::new(Stopped)).expect("timer");
    driver::play(device, input, || {});
});
