//! Both directions of the mixer's wire, its orders and its reports: what is read is within its bounds and is written as it was.
#![no_main]

use casemate_sound_wire::{MAX_FRAMES, Order, Report, ToMixer, ToVmm};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|packet: &[u8]| {
    let mut bytes = Vec::new();
    if let Ok(message) = ToMixer::decode(packet) {
        match message {
            ToMixer::Begin { shape, period, .. } => {
                assert!(period > 0 && period % shape.frame_bytes() == 0);
            }
            ToMixer::Frames { samples, .. } => {
                assert!((1..=MAX_FRAMES).contains(&samples.len()));
            }
            ToMixer::End { .. } => {}
        }
        message.encode(&mut bytes);
        assert_eq!(bytes, packet);
        bytes.clear();
    }
    if let Ok(message) = ToVmm::decode(packet) {
        message.encode(&mut bytes);
        assert_eq!(bytes, packet);
    }
    if let Some(report) = Report::decode(packet) {
        assert_eq!(report.encode(), packet);
    }
    if let Some(order) = Order::decode(packet) {
        assert_eq!(order.encode(), packet);
    }
});
