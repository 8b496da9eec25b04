//! A queue's rings and chains in any order of driver and device.
#![no_main]

use casemate_fuzz::queue;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| queue::play(input));
