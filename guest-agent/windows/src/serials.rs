//! Which serial of the host stands behind a serial that an app was given: an app that wants to be moved names the
//! press that it saw, and the host must recognise that press.

use std::collections::VecDeque;

use smithay::utils::Serial;

/// Presses remembered; apps answer within a few.
const REMEMBERED: usize = 64;

/// The latest presses and releases.
#[derive(Debug, Default)]
pub(crate) struct Serials {
    pairs: VecDeque<(Serial, u32)>,
    last_press: Option<u32>,
}

impl Serials {
    /// An app got `guest` for the host's `host`.
    pub(crate) fn record(&mut self, guest: Serial, host: u32, pressed: bool) {
        if self.pairs.len() == REMEMBERED {
            self.pairs.pop_front();
        }
        self.pairs.push_back((guest, host));
        if pressed {
            self.last_press = Some(host);
        }
    }

    /// The host's serial for an app's.
    pub(crate) fn host(&self, guest: Serial) -> Option<u32> {
        let (_, host) = self.pairs.iter().rev().find(|(known, _)| *known == guest)?;
        Some(*host)
    }

    /// The host's serial of the latest press, for wishes that name none.
    pub(crate) fn last_press(&self) -> Option<u32> {
        self.last_press
    }

    /// The host that made the serials is gone.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_recent_serials_are_known() {
        let mut serials = Serials::default();
        for number in 0..100_u32 {
            serials.record(Serial::from(number), 1000 + number, number % 2 == 0);
        }
        assert_eq!(serials.host(Serial::from(99)), Some(1099));
        assert_eq!(serials.host(Serial::from(36)), Some(1036));
        assert_eq!(serials.host(Serial::from(35)), None);
        assert_eq!(serials.last_press(), Some(1098));
        serials.clear();
        assert_eq!(serials.host(Serial::from(99)), None);
        assert_eq!(serials.last_press(), None);
    }
}
