//! Which data stream a control message is about.

/// The other end's domain number and the port of the data stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExecParams {
    /// Domain number of the other end; 0 is the admin domain.
    pub domain: u32,
    /// Port to connect to.
    pub port: u32,
}

impl ExecParams {
    /// Length in bytes; also the whole answer of an agent to a local client whose call was accepted.
    pub const LEN: usize = 8;

    /// The parameters as bytes.
    pub fn encode(self) -> [u8; Self::LEN] {
        let [d0, d1, d2, d3] = self.domain.to_le_bytes();
        let [p0, p1, p2, p3] = self.port.to_le_bytes();
        [d0, d1, d2, d3, p0, p1, p2, p3]
    }

    /// Reads parameters.
    pub fn decode(bytes: [u8; Self::LEN]) -> Self {
        let [d0, d1, d2, d3, p0, p1, p2, p3] = bytes;
        Self {
            domain: u32::from_le_bytes([d0, d1, d2, d3]),
            port: u32::from_le_bytes([p0, p1, p2, p3]),
        }
    }
}
