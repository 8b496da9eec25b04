//! The known signal: 32-bit words of which each says its own place, so that one that is lost, doubled, swapped or changed
//! is seen. A word is a stereo frame of 16 bits or one sample of 32. Both ends of a test count with it.

/// Odd, so that every word belongs to one place.
const FACTOR: u32 = 0x9e37_79b1;
/// `FACTOR * INVERSE` is one.
const INVERSE: u32 = inverse(FACTOR);

/// Newton's iteration: right bits double each time, and three are right at first.
const fn inverse(of: u32) -> u32 {
    let mut found = of;
    let mut round = 0;
    while round < 4 {
        found = found.wrapping_mul(2_u32.wrapping_sub(of.wrapping_mul(found)));
        round += 1;
    }
    found
}

/// The word at a place. It is never zero, which is silence, but at the last place.
pub(crate) fn word(place: u32) -> [u8; 4] {
    place.wrapping_add(1).wrapping_mul(FACTOR).to_le_bytes()
}

/// The place of a word; none for silence.
pub(crate) fn place(word: [u8; 4]) -> Option<u32> {
    let word = u32::from_le_bytes(word);
    (word != 0).then(|| word.wrapping_mul(INVERSE).wrapping_sub(1))
}
