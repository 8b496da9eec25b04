//! What the supervisor tells the mixer, and what the mixer says back, over a socket of their own.

/// Longest name of a VM in an order, in bytes.
pub const MAX_NAME: usize = 31;

/// One packet: a byte for what it is, then the VM's name. Where there is a socket it comes along as a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order<'a> {
    /// Kind 1, with a socket: what this VM plays comes over it. It replaces the one before.
    Speaker(&'a str),
    /// Kind 2, with a socket: this VM may record over it, until it is taken back. It replaces the one before.
    Recorder(&'a str),
    /// Kind 3, with nothing: this VM may record no more.
    Revoke(&'a str),
}

impl<'a> Order<'a> {
    /// The packet.
    pub fn encode(self) -> Vec<u8> {
        let (kind, name) = match self {
            Self::Speaker(name) => (1, name),
            Self::Recorder(name) => (2, name),
            Self::Revoke(name) => (3, name),
        };
        [&[kind], name.as_bytes()].concat()
    }

    /// Reads a packet; nothing when it is none of these, or its name is empty, too long or not of printable ASCII.
    pub fn decode(packet: &'a [u8]) -> Option<Self> {
        let (kind, name) = packet.split_first()?;
        let printable = name.iter().all(u8::is_ascii_graphic);
        if !(1..=MAX_NAME).contains(&name.len()) || !printable {
            return None;
        }
        let name = std::str::from_utf8(name).ok()?;
        match kind {
            1 => Some(Self::Speaker(name)),
            2 => Some(Self::Recorder(name)),
            3 => Some(Self::Revoke(name)),
            _ => None,
        }
    }
}

/// What the mixer says: one packet of one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// 1, once and first: it follows orders.
    Ready,
    /// 2: a line has reached the sound server.
    Server,
    /// 3: a line wanted the sound server, and there is none.
    NoServer,
}

impl Report {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ready, Self::Server, Self::NoServer];

    /// The packet.
    pub fn encode(self) -> [u8; 1] {
        match self {
            Self::Ready => [1],
            Self::Server => [2],
            Self::NoServer => [3],
        }
    }

    /// Reads a packet; nothing when it is none of these.
    pub fn decode(packet: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|report| report.encode() == packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_come_back_and_others_do_not_exist() {
        let longest = "x".repeat(MAX_NAME);
        for name in ["work", &longest] {
            for order in [
                Order::Speaker(name),
                Order::Recorder(name),
                Order::Revoke(name),
            ] {
                assert_eq!(Order::decode(&order.encode()), Some(order));
            }
        }
        assert_eq!(Order::Revoke("a").encode(), [3, b'a']);
        let too_long = [&[1], longest.as_bytes(), b"x"].concat();
        for packet in [
            b"".as_slice(),
            b"\x01",
            b"\x00a",
            b"\x04a",
            b"\x01a b",
            b"\x01a\xff",
            &too_long,
        ] {
            assert_eq!(Order::decode(packet), None, "{packet:?}");
        }
    }
    #[test]
    fn reports_come_back_and_others_do_not_exist() {
        for report in Report::ALL {
            assert_eq!(Report::decode(&report.encode()), Some(report));
        }
        for packet in [b"".as_slice(), b"\x00", b"\x04", b"\x01\x01"] {
            assert_eq!(Report::decode(packet), None, "{packet:?}");
        }
    }
}
