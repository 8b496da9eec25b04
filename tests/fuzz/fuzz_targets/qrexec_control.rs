//! Both directions of a qrexec control stream: agent to broker when the first byte is even, else broker to agent.
#![no_main]

use casemate_fuzz::wires;
use casemate_qrexec_wire::{ToAgent, ToBroker};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match input.split_first() {
        Some((direction, input)) if direction % 2 == 0 => wires::qrexec_control::<ToBroker>(input),
        Some((_, input)) => wires::qrexec_control::<ToAgent>(input),
        None => {}
    }
});
