//! The receiver of file copies against any stream.
#![no_main]

use casemate_fuzz::filecopy;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| filecopy::stream(input));
