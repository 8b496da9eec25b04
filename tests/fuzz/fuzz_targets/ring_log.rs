//! The console log of a vmm, read by others and gone on with after a restart.
#![no_main]

use casemate_vmm_control::ring_log::{HEADER_LEN, RING_LEN, RingLog};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(content) = RingLog::read_all(input) {
        assert!(content.len() <= RING_LEN.min(input.len()));
    }
    if let Ok(mut log) = RingLog::decode(input) {
        assert!(input.starts_with(&log.encode()));
        let before = log.position();
        let mut taken = 0;
        for (offset, bytes) in log.append(input) {
            let start = usize::try_from(offset).expect("inside the file");
            assert!(start >= HEADER_LEN && start + bytes.len() <= HEADER_LEN + RING_LEN);
            taken += bytes.len();
        }
        assert_eq!(taken, RING_LEN.min(input.len()));
        let moved = log.position().wrapping_sub(before);
        assert_eq!(usize::try_from(moved), Ok(input.len()));
    }
});
