//! Takes numbers off an input, little endian, until it is used up.

/// The rest of an input.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next `N` bytes; `None`, and nothing taken, when there are fewer.
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    /// The next byte, or zero at the end.
    pub fn byte(&mut self) -> u8 {
        self.take().map_or(0, |[byte]| byte)
    }
}
