//! The name that an agent gives to a pending call, to find it again in the answer.

use std::fmt;

use crate::{
    frame::{Malformed, padded},
    limits::IDENT_FIELD,
};

/// At most 31 characters of `[0-9A-Za-z_. -]`. It comes from a VM and means something only to that VM.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ident([u8; IDENT_FIELD]);

impl Ident {
    /// Checks a text.
    ///
    /// # Errors
    /// [`Malformed::Ident`] when it is too long or has another character.
    pub fn new(text: &str) -> Result<Self, Malformed> {
        let mut field = [0; IDENT_FIELD];
        let (place, _) = field
            .split_at_mut_checked(text.len())
            .filter(|_| text.len() < IDENT_FIELD)
            .ok_or(Malformed::Ident)?;
        place.copy_from_slice(text.as_bytes());
        Self::from_field(field)
    }

    /// Reads a field of the wire.
    ///
    /// # Errors
    /// [`Malformed::Ident`] for another character, [`Malformed::Text`] when the padding is not NULs.
    pub fn from_field(field: [u8; IDENT_FIELD]) -> Result<Self, Malformed> {
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"_. -".contains(byte);
        if !padded(&field)?.iter().all(allowed) {
            return Err(Malformed::Ident);
        }
        Ok(Self(field))
    }

    /// The field of the wire.
    pub fn field(&self) -> &[u8; IDENT_FIELD] {
        &self.0
    }
}

impl fmt::Display for Ident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.iter().take_while(|byte| **byte != 0) {
            write!(f, "{}", char::from(*byte))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Ident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ident({self})")
    }
}
