//! The broker's side of two VMs' control streams: frames of both agents, answers of policy, lost streams, time.
#![no_main]

use casemate_fuzz::session;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| session::run(input));
