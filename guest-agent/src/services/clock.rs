//! `qubes.SetDateTime`: sets this VM's clock to what the host says. `qubes.GetDate` is a script around `date`.

use std::io::Read;

use anyhow::{Context, bail, ensure};
use rustix::time::{ClockId, Timespec, clock_settime};

/// Length of `YYYY-MM-DDTHH:MM:SS+00:00` and a line end; more is no date.
const MAX_DATE: u64 = 32;

/// Years that a clock may be set to: outside of them certificates and timers misbehave, whoever asks.
const YEARS: std::ops::RangeInclusive<i64> = 2024..=2099;

/// Reads one date in UTC from stdin and sets the clock.
pub(crate) fn set() -> anyhow::Result<u8> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(MAX_DATE)
        .read_to_string(&mut text)
        .context("no date came")?;
    set_to(parse(text.trim_end_matches('\n'))?)?;
    Ok(0)
}

/// Sets the clock to a number of seconds since 1970.
pub(super) fn set_to(seconds: i64) -> anyhow::Result<()> {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    clock_settime(ClockId::Realtime, time).context("cannot set the clock")
}

/// Seconds since 1970 of `YYYY-MM-DDTHH:MM:SS+00:00` or `...+0000`.
pub(super) fn parse(text: &str) -> anyhow::Result<i64> {
    let bytes = text.as_bytes();
    ensure!(
        matches!(bytes.get(19..), Some(b"+00:00" | b"+0000")),
        "the date is not YYYY-MM-DDTHH:MM:SS+00:00"
    );
    for (at, mark) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')] {
        ensure!(
            bytes.get(at) == Some(&mark),
            "the date has no '{}' where one belongs",
            char::from(mark)
        );
    }
    let number = |range: std::ops::Range<usize>| -> anyhow::Result<i64> {
        let digits = text.get(range).unwrap_or_default();
        ensure!(
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()),
            "the date holds something that is no number"
        );
        Ok(digits.parse()?)
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    ensure!(
        YEARS.contains(&year),
        "the year is not one that a clock may be set to"
    );
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let months = [
        31,
        if leap { 29 } else { 28 },
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let Some(length) = usize::try_from(month - 1)
        .ok()
        .and_then(|at| months.get(at))
    else {
        bail!("there is no such month");
    };
    ensure!((1..=*length).contains(&day), "there is no such day");
    ensure!(
        hour < 24 && minute < 60 && second < 60,
        "there is no such time of day"
    );
    let before: i64 = months.iter().take(usize::try_from(month - 1)?).sum();
    let leaps = |year: i64| year / 4 - year / 100 + year / 400;
    let days = (year - 1970) * 365 + leaps(year - 1) - leaps(1969) + before + day - 1;
    Ok(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (text, seconds) in [
            ("2024-01-01T00:00:00+00:00", Some(1_704_067_200)),
            ("2024-02-29T12:34:56+0000", Some(1_709_210_096)),
            ("2026-11-25T06:40:00+00:00", Some(1_795_588_800)),
            ("2099-12-31T23:59:59+00:00", Some(4_102_444_799)),
            ("2023-12-31T23:59:59+00:00", None),
            ("2100-01-01T00:00:00+00:00", None),
            ("2025-02-29T00:00:00+00:00", None),
            ("2025-13-01T00:00:00+00:00", None),
            ("2025-00-01T00:00:00+00:00", None),
            ("2025-01-00T00:00:00+00:00", None),
            ("2025-01-01T24:00:00+00:00", None),
            ("2025-01-01T00:00:60+00:00", None),
            ("2025-01-01T00:00:00+01:00", None),
            ("2025-01-01T00:00:00Z", None),
            ("2025-01-01 00:00:00+00:00", None),
            ("+025-01-01T00:00:00+00:00", None),
            ("2025-01-01T00:00:00+00:00;reboot", None),
            ("", None),
            ("ü025-01-01T00:00:00+00:00", None),
        ] {
            assert_eq!(parse(text).ok(), seconds, "{text}");
        }
    }
}
