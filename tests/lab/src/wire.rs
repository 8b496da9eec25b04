//! Frames between a test and `lab-guest`: both directions of one virtio port.
//!
//! A frame is `length: u32 LE` (of all that follows), `kind: u8`, `process: u32 LE`, payload. The
//! guest speaks first (`Ready`). The test chooses process numbers; a number is used once.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Name of the virtio port.
pub const PORT: &str = "org.casemate.lab";
/// Most bytes of one frame after its length: bounds what a broken peer can make us allocate.
pub const MAX_FRAME: usize = 1 << 20;
/// Bytes of a stream that are put into one frame.
pub const CHUNK: usize = 64 << 10;

/// What a frame means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To the guest: start a program; payload is a [`Spawn`] as JSON.
    Spawn,
    /// To the guest: bytes for its standard input. An empty payload is the end of it.
    Stdin,
    /// To the guest: send a signal to the program's process group; payload is the number as JSON.
    Signal,
    /// From the guest: it listens; payload is a [`Ready`] as JSON.
    Ready,
    /// From the guest: bytes of standard output.
    Stdout,
    /// From the guest: bytes of standard error.
    Stderr,
    /// From the guest: the program has ended; payload is an [`Exit`] as JSON.
    Exit,
}

const KINDS: [Kind; 7] = [
    Kind::Spawn,
    Kind::Stdin,
    Kind::Signal,
    Kind::Ready,
    Kind::Stdout,
    Kind::Stderr,
    Kind::Exit,
];

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it means.
    pub kind: Kind,
    /// Which program it is about; 0 for `Ready`.
    pub process: u32,
    /// Its content.
    pub payload: Vec<u8>,
}

/// A program to start in the lab.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawn {
    /// Name of the account it runs as.
    pub user: String,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Added to the account's usual environment.
    pub env: Vec<(String, String)>,
    /// Working directory; the account's home when missing.
    pub cwd: Option<String>,
}

/// The lab is up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// Seconds since the lab's kernel started.
    pub uptime: f64,
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// By itself.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It never ran, and why.
    NotStarted(String),
}

impl Frame {
    /// A frame whose payload is `content` as JSON.
    #[must_use]
    pub fn json(kind: Kind, process: u32, content: &impl Serialize) -> Self {
        // Our own types hold strings and numbers only: they always have a JSON form.
        let payload = serde_json::to_vec(content).unwrap_or_default();
        Self {
            kind,
            process,
            payload,
        }
    }

    /// The payload as a value.
    ///
    /// # Errors
    /// When it is not the JSON of one.
    pub fn parse<T: DeserializeOwned>(&self) -> io::Result<T> {
        serde_json::from_slice(&self.payload).map_err(io::Error::other)
    }

    /// Writes it as one write, so that frames of several threads do not mix under a lock.
    ///
    /// # Errors
    /// When it is too long, or the peer is gone.
    pub fn write(&self, output: &mut impl Write) -> io::Result<()> {
        let length = self.payload.len() + 5;
        let announced = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME);
        let announced = announced.ok_or_else(|| io::Error::other("frame is too long"))?;
        let kind = KINDS.iter().position(|kind| *kind == self.kind);
        let kind = u8::try_from(kind.unwrap_or_default()).unwrap_or_default();
        let mut bytes = Vec::with_capacity(length + 4);
        bytes.extend_from_slice(&announced.to_le_bytes());
        bytes.push(kind);
        bytes.extend_from_slice(&self.process.to_le_bytes());
        bytes.extend_from_slice(&self.payload);
        output.write_all(&bytes)
    }

    /// Reads the next frame.
    ///
    /// # Errors
    /// At the end of the stream, and when the bytes are no frame.
    pub fn read(input: &mut impl Read) -> io::Result<Self> {
        let mut head = [0; 9];
        input.read_exact(&mut head)?;
        let [l0, l1, l2, l3, kind, p0, p1, p2, p3] = head;
        let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        let payload = length
            .checked_sub(5)
            .filter(|_| length <= MAX_FRAME)
            .ok_or_else(|| io::Error::other(format!("a frame of {length} bytes")))?;
        let kind = *KINDS
            .get(usize::from(kind))
            .ok_or_else(|| io::Error::other(format!("a frame of kind {kind}")))?;
        let mut payload = vec![0; payload];
        input.read_exact(&mut payload)?;
        Ok(Self {
            kind,
            process: u32::from_le_bytes([p0, p1, p2, p3]),
            payload,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_went() {
        let spawn = Spawn {
            user: "user".to_owned(),
            argv: vec!["cat".to_owned()],
            ..Spawn::default()
        };
        let frames = [
            Frame::json(Kind::Spawn, 7, &spawn),
            Frame {
                kind: Kind::Stdin,
                process: 7,
                payload: Vec::new(),
            },
            Frame::json(Kind::Exit, u32::MAX, &Exit::Signal(9)),
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.write(&mut bytes).unwrap();
        }
        let mut input = bytes.as_slice();
        for frame in &frames {
            assert_eq!(Frame::read(&mut input).unwrap(), *frame);
        }
        assert_eq!(frames[0].parse::<Spawn>().unwrap(), spawn);
        assert!(Frame::read(&mut input).is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        let table: [&[u8]; 4] = [
            &[4, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0],
            &[5, 0, 0, 0, 200, 0, 0, 0, 0],
            &[9, 0, 0, 0, 0, 0, 0, 0, 0],
        ];
        for bytes in table {
            assert!(Frame::read(&mut &*bytes).is_err(), "{bytes:?}");
        }
        let long = Frame {
            kind: Kind::Stdin,
            process: 1,
            payload: vec![0; MAX_FRAME],
        };
        assert!(long.write(&mut Vec::new()).is_err());
    }
}
