//! A file that should name the pages of a clone.
#![no_main]

use casemate_fuzz::working_set;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| working_set::parse(input));
