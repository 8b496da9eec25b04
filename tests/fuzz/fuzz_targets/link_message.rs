//! What a service says to a vmm over its link.
#![no_main]

use casemate_vmm_control::LinkMessage;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(message) = LinkMessage::decode(input) {
        assert_eq!(message.encode(), *input);
    }
});
