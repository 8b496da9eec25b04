//! What the compositor says on a window stream, read by the program in the guest.
#![no_main]

use casemate_fuzz::wires;
use casemate_window_wire::ToGuest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| wires::window::<ToGuest>(input));
