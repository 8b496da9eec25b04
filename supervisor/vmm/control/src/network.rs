//! A network device at launch: its address, and what its wire is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One network device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The only address that the guest may send from.
    pub mac: MacAddress,
    /// What is at the other end.
    pub wire: WireFile,
}

/// The descriptor behind a network device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum WireFile {
    /// One end of a `SOCK_SEQPACKET` pair whose other end is another VM: a packet is 12 bytes of virtio-net header and
    /// one frame.
    Cable {
        /// Its descriptor.
        file: i32,
    },
    /// A stream socket of a user-mode network: each frame after its length, four bytes in network order.
    Stream {
        /// Its descriptor.
        file: i32,
    },
    /// A tap device with `IFF_VNET_HDR`, a header of 12 bytes, and offloads for checksums and TCP segmentation set.
    Tap {
        /// Its descriptor.
        file: i32,
    },
}

/// The address of one network device: unicast, and not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

/// A text or number that is no [`MacAddress`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no address of a network device: six bytes as 02:00:00:00:00:01, unicast, not zero"
)]
pub struct InvalidMac(String);

impl MacAddress {
    /// Checks an address.
    ///
    /// # Errors
    /// [`InvalidMac`] for a group address and for zero.
    pub fn new(bytes: [u8; 6]) -> Result<Self, InvalidMac> {
        let address = Self(bytes);
        let [first, ..] = bytes;
        if first & 1 != 0 || bytes == [0; 6] {
            return Err(InvalidMac(address.to_string()));
        }
        Ok(address)
    }

    /// The bytes, in the order of the wire.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, byte) in self.0.iter().enumerate() {
            let colon = if place == 0 { "" } else { ":" };
            write!(formatter, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for MacAddress {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let invalid = || InvalidMac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2);
            let hexadecimal = part.filter(|part| part.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = hexadecimal
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(invalid)?;
        }
        match parts.next() {
            None => Self::new(bytes).map_err(|_| invalid()),
            Some(_) => Err(invalid()),
        }
    }
}

impl TryFrom<String> for MacAddress {
    type Error = InvalidMac;

    fn try_from(text: String) -> Result<Self, InvalidMac> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(address: MacAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_six_bytes_of_one_device() {
        for (text, good) in [
            ("02:00:00:00:00:01", true),
            ("fe:ff:ff:ff:ff:ff", true),
            ("AA:bb:cc:DD:ee:0f", true),
            ("01:00:5e:00:00:01", false),
            ("ff:ff:ff:ff:ff:ff", false),
            ("00:00:00:00:00:00", false),
            ("02:00:00:00:00", false),
            ("02:00:00:00:00:01:02", false),
            ("2:0:0:0:0:1", false),
            ("02:00:00:00:00:+1", false),
            ("02-00-00-00-00-01", false),
            ("", false),
        ] {
            let parsed = text.parse::<MacAddress>();
            assert_eq!(parsed.is_ok(), good, "{text}");
            if let Ok(address) = parsed {
                assert_eq!(address.to_string(), text.to_lowercase());
            }
        }
    }

    #[test]
    fn a_network_is_read_as_documented() {
        let text = r#"{"mac":"02:00:00:00:00:07","wire":{"cable":{"file":9}}}"#;
        let network: Network = serde_json::from_str(text).expect("well-formed");
        assert_eq!(network.mac.bytes(), [2, 0, 0, 0, 0, 7]);
        assert_eq!(network.wire, WireFile::Cable { file: 9 });
        assert!(serde_json::from_str::<Network>(&text.replace("02:", "03:")).is_err());
        assert!(serde_json::from_str::<Network>(&text.replace("cable", "bridge")).is_err());
    }
}
