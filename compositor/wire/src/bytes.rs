//! Fields to bytes and back: a cursor over a received body, and a growing body to send.
//!
//! The reader never allocates more than the body it was given, and never indexes.

use crate::frame::Malformed;

/// What is left of a received body.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(Malformed::Length)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.take::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.take().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_le_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Malformed> {
        self.take().map(i32::from_le_bytes)
    }

    pub(crate) fn pair(&mut self) -> Result<(u32, u32), Malformed> {
        Ok((self.u32()?, self.u32()?))
    }

    pub(crate) fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Value("truth value")),
        }
    }

    /// A text of at most `max` bytes.
    pub(crate) fn text(&mut self, max: usize) -> Result<String, Malformed> {
        let len = usize::from(self.u16()?);
        self.utf8(len, max)
    }

    /// A text with a `u32` length, for the keymap.
    pub(crate) fn long_text(&mut self, max: usize) -> Result<String, Malformed> {
        let len = usize::try_from(self.u32()?).map_err(|_| Malformed::Length)?;
        self.utf8(len, max)
    }

    fn utf8(&mut self, len: usize, max: usize) -> Result<String, Malformed> {
        if len > max {
            return Err(Malformed::Value("text length"));
        }
        let (text, rest) = self.0.split_at_checked(len).ok_or(Malformed::Length)?;
        self.0 = rest;
        let text = std::str::from_utf8(text).map_err(|_| Malformed::Value("text"))?;
        Ok(text.to_owned())
    }

    /// A list of at most `max` items.
    pub(crate) fn list<T>(
        &mut self,
        max: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = usize::from(self.u8()?);
        if count > max {
            return Err(Malformed::Value("list length"));
        }
        (0..count).map(|_| item(self)).collect()
    }

    /// One of a fixed list, by its place in it.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        all: &[T],
        what: &'static str,
    ) -> Result<T, Malformed> {
        let index = usize::from(self.u8()?);
        all.get(index).copied().ok_or(Malformed::Value(what))
    }

    /// Nothing may be left over.
    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed::Length)
        }
    }
}

/// A body being written.
#[derive(Debug)]
pub struct Writer<'a>(pub(crate) &'a mut Vec<u8>);

impl Writer<'_> {
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn pair(&mut self, (a, b): (u32, u32)) {
        self.u32(a);
        self.u32(b);
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    pub(crate) fn text(&mut self, text: &str) -> Result<(), Malformed> {
        let len = u16::try_from(text.len()).map_err(|_| Malformed::Value("text length"))?;
        self.u16(len);
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }

    pub(crate) fn long_text(&mut self, text: &str) -> Result<(), Malformed> {
        let len = u32::try_from(text.len()).map_err(|_| Malformed::Value("text length"))?;
        self.u32(len);
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }

    pub(crate) fn list<T>(
        &mut self,
        items: &[T],
        mut item: impl FnMut(&mut Self, &T),
    ) -> Result<(), Malformed> {
        let count = u8::try_from(items.len()).map_err(|_| Malformed::Value("list length"))?;
        self.u8(count);
        for each in items {
            item(self, each);
        }
        Ok(())
    }
}
