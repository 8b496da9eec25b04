//! Samples as a guest makes them, and as the sound server gets them: floats from -1 to 1, whatever the guest wrote.

use casemate_sound_wire::Format;

/// Bytes of one float.
pub(crate) const FLOAT: usize = 4;

/// A guest's sample. What is no finite number is silence; what is louder than possible is as loud as possible.
pub(crate) fn from_guest(format: Format, bytes: [u8; 4]) -> f32 {
    let [low, high, ..] = bytes;
    let sample = match format {
        Format::S16 => f32::from(i16::from_le_bytes([low, high])) / 32_768.0,
        Format::S32 => {
            // The low bits are beyond what the float holds.
            #[expect(clippy::cast_precision_loss)]
            let whole = i32::from_le_bytes(bytes) as f32;
            whole / 2_147_483_648.0
        }
        Format::F32 => f32::from_le_bytes(bytes),
    };
    tame(sample)
}

/// Appends a recorded sample as the guest wants it.
pub(crate) fn to_guest(format: Format, sample: f32, into: &mut Vec<u8>) {
    let sample = tame(sample);
    // Tamed, so it fits; a conversion of a float saturates in any case.
    #[expect(clippy::cast_possible_truncation)]
    match format {
        Format::S16 => into.extend(((sample * 32_767.0).round() as i16).to_le_bytes()),
        Format::S32 => into.extend(((f64::from(sample) * 2_147_483_647.0) as i32).to_le_bytes()),
        Format::F32 => into.extend(sample.to_le_bytes()),
    }
}

fn tame(sample: f32) -> f32 {
    if sample.is_finite() {
        sample.clamp(-1.0, 1.0)
    } else {
        0.0
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp)]
mod tests {
    use super::*;

    #[test]
    fn no_bits_of_a_guest_are_anything_but_a_sample() {
        for (bits, sample) in [
            (f32::NAN.to_bits(), 0.0),
            (0xFFFF_FFFF, 0.0),
            (f32::INFINITY.to_bits(), 0.0),
            (f32::NEG_INFINITY.to_bits(), 0.0),
            (f32::MAX.to_bits(), 1.0),
            ((-7.0_f32).to_bits(), -1.0),
            (0.25_f32.to_bits(), 0.25),
        ] {
            assert_eq!(from_guest(Format::F32, bits.to_le_bytes()), sample);
        }
        assert_eq!(from_guest(Format::S16, [0, 0x80, 9, 9]), -1.0);
        assert_eq!(from_guest(Format::S16, [0, 0x40, 9, 9]), 0.5);
        assert_eq!(from_guest(Format::S32, [0, 0, 0, 0x80]), -1.0);
        assert_eq!(from_guest(Format::S32, [0, 0, 0, 0x40]), 0.5);
    }

    #[test]
    fn what_is_recorded_comes_back() {
        for format in Format::ALL {
            for sample in [-1.0, -0.5, 0.0, 0.25, 1.0] {
                let mut bytes = Vec::new();
                to_guest(format, sample, &mut bytes);
                assert_eq!(bytes.len(), usize::try_from(format.bytes()).unwrap());
                bytes.resize(4, 0);
                let back = from_guest(format, bytes.try_into().unwrap());
                assert!((back - sample).abs() < 0.0001, "{format:?} {sample} {back}");
            }
            let mut bytes = Vec::new();
            to_guest(format, f32::NAN, &mut bytes);
            assert!(bytes.iter().all(|byte| *byte == 0));
        }
    }
}
