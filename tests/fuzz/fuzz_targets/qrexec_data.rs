//! A qrexec data stream, in pieces.
#![no_main]

use casemate_fuzz::wires;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| wires::qrexec_data(input));
