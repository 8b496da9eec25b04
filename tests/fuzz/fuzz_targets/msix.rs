//! MSI-X of one function under any order of programming, masking and signals.
#![no_main]

use casemate_fuzz::vectors;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| vectors::play(input));
