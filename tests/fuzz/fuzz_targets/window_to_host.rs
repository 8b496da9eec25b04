//! What a guest says on its window stream, in pieces.
#![no_main]

use casemate_fuzz::wires;
use casemate_window_wire::ToHost;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| wires::window::<ToHost>(input));
