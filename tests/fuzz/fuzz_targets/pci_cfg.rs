//! A guest that reads and writes configuration space, BARs and ports where it likes.
#![no_main]

use casemate_fuzz::machine;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| machine::play(input));
