//! What is recorded: three parts that follow each other.
#![expect(clippy::print_stdout, reason = "the console is how a guest is heard")]

use std::io::{Error, Result};

use super::signal;

/// Words without a break until a part is believed: a quarter of a second.
const ENOUGH: u32 = 12_000;
/// Silence after the last part, where nothing may be heard any more.
const AFTER: u32 = 48_000;
/// A place further on than this is no loss but a wrong word: ten seconds.
const FAR: u32 = 480_000;

/// Hears words until silence, signal and silence were there, and tells of each. Words of the signal may be lost, because
/// a recording that is not read in time has gaps; how many times is told. A word that is not of the signal, or comes after
/// a later one, is an error.
pub(super) fn run(mut read: impl FnMut(&mut [u8]) -> Result<()>) -> Result<()> {
    let mut heard = Heard::default();
    let mut samples = [0; 960 * 4];
    let mut next = move || -> Result<Vec<Option<u32>>> {
        read(&mut samples)?;
        let words = samples.as_chunks().0;
        Ok(words.iter().map(|word| signal::place(*word)).collect())
    };
    while heard.silent < ENOUGH {
        heard.take(&next()?)?;
        if heard.last.is_some() {
            return Err(Error::other("sound without a grant"));
        }
    }
    println!("stock: sound recorded silence");
    while heard.longest < ENOUGH {
        heard.take(&next()?)?;
    }
    println!("stock: sound recorded the signal, {} gaps", heard.gaps);
    heard.silent = 0;
    while heard.silent < ENOUGH {
        heard.take(&next()?)?;
    }
    println!("stock: sound recorded silence again");
    let before = heard.last;
    while heard.silent < AFTER {
        heard.take(&next()?)?;
        if heard.last != before {
            return Err(Error::other("sound after the grant was taken back"));
        }
    }
    println!("stock: sound has ended");
    Ok(())
}

#[derive(Default)]
struct Heard {
    /// Place of the last word of the signal.
    last: Option<u32>,
    /// Words of the signal, and of silence, without a break.
    row: u32,
    silent: u32,
    /// The longest row of the signal.
    longest: u32,
    gaps: u32,
}

impl Heard {
    fn take(&mut self, places: &[Option<u32>]) -> Result<()> {
        for place in places {
            let Some(place) = *place else {
                self.row = 0;
                self.silent += 1;
                continue;
            };
            let step = self.last.map_or(1, |last| place.wrapping_sub(last));
            if place > FAR * 10 || step == 0 || step > FAR {
                let last = self.last;
                return Err(Error::other(format!("place {place} after {last:?}")));
            }
            if step > 1 || self.silent > 0 {
                self.gaps += u32::from(self.last.is_some());
                self.row = 0;
            }
            self.silent = 0;
            self.row += 1;
            self.longest = self.longest.max(self.row);
            self.last = Some(place);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hears parts, each words from a place on, or silence; whether that is as it should be.
    fn hears(parts: &[(Option<u32>, u32)]) -> Result<()> {
        let mut words = parts.iter().flat_map(|&(first, count)| {
            (0..count).map(move |at| first.map_or([0; 4], |first| signal::word(first + at)))
        });
        run(move |samples| {
            for sample in samples.chunks_mut(4) {
                let word = words.next().ok_or_else(|| Error::other("over"))?;
                sample.copy_from_slice(&word);
            }
            Ok(())
        })
    }

    #[test]
    fn a_grant_between_two_silences_is_heard_with_its_gaps() {
        let silence = (None, 2 * AFTER);
        assert!(hears(&[silence, (Some(0), ENOUGH), silence]).is_ok());
        let gap = [silence, (Some(0), 99), (Some(200), 2 * ENOUGH), silence];
        assert!(hears(&gap).is_ok());
    }

    #[test]
    fn what_is_wrong_is_an_error() {
        let silence = (None, 2 * AFTER);
        let signal = (Some(0), 2 * ENOUGH);
        for parts in [
            &[(Some(0), 1), silence, signal, silence][..],
            &[silence, silence],
            // Again, backwards, and a word of nobody.
            &[
                silence,
                (Some(5), 2 * ENOUGH),
                (Some(6), 2 * ENOUGH),
                silence,
            ],
            &[silence, signal, (Some(u32::MAX / 2), 960), silence],
            // A rest of it, after it was over.
            &[
                silence,
                signal,
                (None, 3 * ENOUGH),
                (Some(3 * ENOUGH), 960),
                silence,
            ],
        ] {
            assert!(hears(parts).is_err(), "{parts:?}");
        }
    }
}
