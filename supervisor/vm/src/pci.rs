//! Names of PCI devices of the host.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Domain, bus, device and function, written `0000:03:1f.7`. Only this form: it becomes part of requests to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciAddress {
    domain: u16,
    bus: u8,
    device: u8,
    function: u8,
}

/// Not a PCI address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a PCI address; one looks like 0000:03:1f.7")]
pub struct InvalidPciAddress;

impl FromStr for PciAddress {
    type Err = InvalidPciAddress;

    fn from_str(text: &str) -> Result<Self, InvalidPciAddress> {
        let parse = || {
            let (domain, rest) = text.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (device, function) = rest.split_once('.')?;
            let hex = |part: &str, digits: usize| {
                let plain = part
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
                let value = u16::from_str_radix(part, 16).ok();
                value.filter(|_| plain && part.len() == digits)
            };
            let byte = |part, digits| u8::try_from(hex(part, digits)?).ok();
            Some(Self {
                domain: hex(domain, 4)?,
                bus: byte(bus, 2)?,
                device: byte(device, 2).filter(|device| *device < 32)?,
                function: byte(function, 1).filter(|function| *function < 8)?,
            })
        };
        parse().ok_or(InvalidPciAddress)
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{:04x}:{:02x}:{:02x}.{:x}",
            self.domain, self.bus, self.device, self.function
        )
    }
}

impl TryFrom<String> for PciAddress {
    type Error = InvalidPciAddress;

    fn try_from(text: String) -> Result<Self, InvalidPciAddress> {
        text.parse()
    }
}

impl From<PciAddress> for String {
    fn from(address: PciAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_form() {
        for text in ["0000:00:04.0", "ffff:ff:1f.7", "0000:03:1f.7"] {
            assert_eq!(
                text.parse().map(|address: PciAddress| address.to_string()),
                Ok(text.to_owned())
            );
        }
        for text in [
            "",
            "00:04.0",
            "0000:00:04",
            "0000:00:20.0",
            "0000:00:04.8",
            "0000:00:4.0",
            "0000:00:04.00",
            "00000:00:04.0",
            "0000:00:0A.0",
            "0000:00:+4.0",
            " 0000:00:04.0",
            "0000:00:04.0\n",
            "../0:00:04.0",
            "0000:00:04.0:1",
        ] {
            assert_eq!(
                text.parse::<PciAddress>(),
                Err(InvalidPciAddress),
                "{text:?}"
            );
        }
    }
}
