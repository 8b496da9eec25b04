//! The devices of a snapshot whose seal is right, as if its key were known to an enemy.
#![no_main]

use casemate_fuzz::machine;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| machine::restore(input));
