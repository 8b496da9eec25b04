//! Times and sizes between people and programs.

use casemate_vm::Mebibytes;
use jiff::Timestamp;

/// Seconds since 1970 as `YYYY-MM-DD HH:MM:SS`, in UTC; the number itself where there is no such date.
pub(crate) fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().map(Timestamp::from_second);
    match time {
        Some(Ok(time)) => time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        _ => seconds.to_string(),
    }
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
            (u64::MAX, "18446744073709551615"),
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
