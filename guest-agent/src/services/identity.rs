//! `casemate.Identity`: makes a VM that went on from another one's memory a VM of its own. Only the host may ask.

use std::{
    env, fs,
    io::{Read, Write},
};

use anyhow::{Context, bail, ensure};

use super::clock;
use crate::boot;

/// Longest input, in bytes: four short lines.
const MAX_INPUT: u64 = 512;

/// Longest host name.
const MAX_NAME: usize = 64;

/// Hexadecimal digits of a machine id.
const MACHINE_ID: usize = 32;

/// Hexadecimal digits of a seed.
const SEED: usize = 64;

/// Who calls when the host does.
const HOST: &str = "dom0";

/// What makes a VM another one. Lines of `KEY=VALUE`, each key once.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    name: String,
    /// Of `machine-id(5)`.
    machine_id: String,
    /// Seconds since 1970.
    time: i64,
    /// For the kernel's random numbers.
    seed: Vec<u8>,
}

/// Reads an identity from stdin and takes it on. What fails is said after the rest was tried, so that a VM is never half
/// another without the host's knowing.
pub(crate) fn run() -> anyhow::Result<u8> {
    let caller = env::var("QREXEC_REMOTE_DOMAIN").unwrap_or_default();
    ensure!(caller == HOST, "only the host gives a VM its identity");
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(MAX_INPUT)
        .read_to_string(&mut text)
        .context("no identity came")?;
    let identity = Identity::parse(&text)?;
    // First of all, for whoever takes random numbers meanwhile. The kernel has been told by the generation of this VM that
    // its memory was copied, and reseeds itself; this is mixed in beside it.
    let seeded = fs::OpenOptions::new()
        .write(true)
        .open("/dev/urandom")
        .and_then(|mut pool| pool.write_all(&identity.seed))
        .context("cannot seed the random numbers");
    let timed = clock::set_to(identity.time);
    let named = boot::identity::take(&identity.name);
    // In place: it may be a mount of systemd's.
    let known = fs::write("/etc/machine-id", format!("{}\n", identity.machine_id))
        .context("cannot write /etc/machine-id");
    seeded.and(timed).and(named).and(known)?;
    Ok(0)
}

impl Identity {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let (mut name, mut machine_id, mut time, mut seed) = (None, None, None, None);
        for line in text.lines() {
            let (key, value) = line
                .split_once('=')
                .context("a line of the identity is not KEY=VALUE")?;
            let twice = match key {
                "name" => name.replace(parse_name(value)?).is_some(),
                "machine-id" => {
                    hexadecimal(value, MACHINE_ID)?;
                    machine_id.replace(value.to_owned()).is_some()
                }
                "date" => time.replace(clock::parse(value)?).is_some(),
                "seed" => seed.replace(hexadecimal(value, SEED)?).is_some(),
                _ => bail!("the identity has a key that there is not"),
            };
            ensure!(!twice, "the identity has a key twice");
        }
        Ok(Self {
            name: name.context("the identity has no name")?,
            machine_id: machine_id.context("the identity has no machine-id")?,
            time: time.context("the identity has no date")?,
            seed: seed.context("the identity has no seed")?,
        })
    }
}

/// What can be a host name and stand in a file of them.
fn parse_name(text: &str) -> anyhow::Result<String> {
    let fits = (1..=MAX_NAME).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    ensure!(fits, "the name is no name of a VM");
    Ok(text.to_owned())
}

/// The bytes of exactly so many lower-case digits.
fn hexadecimal(text: &str, digits: usize) -> anyhow::Result<Vec<u8>> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    ensure!(
        text.len() == digits,
        "a number has not {digits} hexadecimal digits"
    );
    let (pairs, _) = text.as_bytes().as_chunks::<2>();
    pairs
        .iter()
        .map(|[high, low]| Some(value(*high)? << 4 | value(*low)?))
        .collect::<Option<Vec<u8>>>()
        .context("a number has something else than lower-case hexadecimal digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> String {
        format!(
            "name=disp0042\nmachine-id={}\ndate=2024-01-01T00:00:00+00:00\nseed={}\n",
            "0a".repeat(16),
            "ff01".repeat(16)
        )
    }

    #[test]
    fn an_identity_has_four_lines_in_any_order() {
        let identity = Identity::parse(&text()).unwrap();
        assert_eq!(identity.name, "disp0042");
        assert_eq!(identity.machine_id, "0a".repeat(16));
        assert_eq!(identity.time, 1_704_067_200);
        assert_eq!(identity.seed, [0xff, 0x01].repeat(16));
        let turned: Vec<String> = text()
            .lines()
            .rev()
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(Identity::parse(&turned.concat()).unwrap(), identity);
        assert!(text().len() < usize::try_from(MAX_INPUT).unwrap());
    }

    #[test]
    fn anything_else_is_no_identity() {
        for (from, to) in [
            ("name=disp0042\n", ""),
            ("name=disp0042\n", "name=\n"),
            ("name=disp0042\n", "name=a b\n"),
            ("name=disp0042\n", "name=a/../b\n"),
            ("name=disp0042\n", "name=ü\n"),
            ("name=disp0042\n", "name=a\nname=a\n"),
            ("name=disp0042\n", "name\n"),
            ("name=disp0042\n", "name=a\nrun=reboot\n"),
            ("=0a0a", "=0A0a"),
            ("=0a0a", "=0a0"),
            ("=ff01", "=fg01"),
            ("=ff01", "=ff0101"),
            ("2024-01", "2023-01"),
            ("date=", "time="),
        ] {
            let changed = text().replacen(from, to, 1);
            assert_ne!(changed, text());
            assert!(Identity::parse(&changed).is_err(), "{changed}");
        }
        let long = format!("name={}\n", "a".repeat(MAX_NAME + 1));
        assert!(Identity::parse(&text().replace("name=disp0042\n", &long)).is_err());
        for cut in 0..text().len() - 1 {
            assert!(Identity::parse(&text()[..cut]).is_err(), "{cut}");
        }
    }
}
