//! Times and sizes between people and programs.

use casemate_vm::Mebibytes;

/// Seconds since 1970 as `YYYY-MM-DD HH:MM:SS`, in UTC.
pub(crate) fn time(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// The Gregorian date of a day counted from 1970-01-01: eras of 400 years that begin on the first of March, so that
/// the leap day is the last of a year.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_BEFORE_1970: u64 = 719_468;
    const ERA: u64 = 146_097;
    let days = days + DAYS_BEFORE_1970;
    let (era, of_era) = (days / ERA, days % ERA);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// An amount as a person types it: `512`, `512M`, `2G`; a bare number is MiB.
pub(crate) fn parse_size(text: &str) -> Result<Mebibytes, String> {
    let text = text.trim();
    let (number, factor) = match text.strip_suffix(['G', 'g']) {
        Some(number) => (number, 1024),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 1),
    };
    number
        .parse::<u32>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .filter(|size| *size > 0)
        .map(Mebibytes)
        .ok_or_else(|| "an amount is a whole number with M or G behind it, such as 2G".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_868_799, "2000-02-29 23:59:59"),
            (1_704_067_200, "2024-01-01 00:00:00"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(time(seconds), text);
        }
    }

    #[test]
    fn sizes() {
        for (text, size) in [("512", 512), ("512M", 512), ("2G", 2048), ("1g", 1024)] {
            assert_eq!(parse_size(text), Ok(Mebibytes(size)));
        }
        for text in ["", "G", "0", "-1", "1.5G", "99999999G", "2T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
