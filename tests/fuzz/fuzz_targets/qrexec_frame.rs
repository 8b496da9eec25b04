//! Every frame of qrexec, in pieces. The first byte says of which stream: control from the agent, control from the
//! broker, data.
#![no_main]

use casemate_fuzz::wires;
use casemate_qrexec_wire::{ToAgent, ToBroker};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match input.split_first() {
        Some((stream, input)) => match stream % 3 {
            0 => wires::qrexec_control::<ToBroker>(input),
            1 => wires::qrexec_control::<ToAgent>(input),
            _ => wires::qrexec_data(input),
        },
        None => {}
    }
});
