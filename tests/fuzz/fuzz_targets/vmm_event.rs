//! What a vmm reports to its supervisor: the jailed side may be anyone's by now.
#![no_main]

use casemate_fuzz::wires;
use casemate_vmm_control::{Event, MAX_CONTROL};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| wires::json::<Event>(input, MAX_CONTROL));
