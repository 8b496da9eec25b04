//! What of a kernel image is loaded where.
#![no_main]

use casemate_fuzz::kernel;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| kernel::play(input));
