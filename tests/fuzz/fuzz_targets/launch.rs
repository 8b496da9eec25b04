//! The description that a vmm is started with.
#![no_main]

use casemate_fuzz::wires;
use casemate_vmm_control::{Launch, MAX_LAUNCH};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| wires::json::<Launch>(input, MAX_LAUNCH));
