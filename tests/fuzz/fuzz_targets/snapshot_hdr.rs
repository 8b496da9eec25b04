//! A file that should be a sealed state.
#![no_main]

use casemate_fuzz::snapshot;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| snapshot::open(input));
