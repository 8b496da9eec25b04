//! The sending half: frames built where their bodies were read.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, PoisonError},
};

use casemate_qrexec_wire::{FrameType, Header, Version};

/// The sending half; copies share the stream, each frame goes out whole.
#[derive(Clone, Debug)]
pub struct DataWriter {
    stream: Arc<Mutex<UnixStream>>,
    version: Version,
}

/// A frame that is built where its body was read: room for the header, then the body.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
}

impl FrameBuffer {
    /// For bodies of up to the version's largest.
    pub fn new(version: Version) -> Self {
        Self {
            bytes: vec![0; Header::LEN + version.max_data_chunk()],
        }
    }

    /// Where the body goes.
    pub fn body(&mut self) -> &mut [u8] {
        self.bytes.get_mut(Header::LEN..).unwrap_or_default()
    }

    /// Writes the header of a body of `len` bytes and returns how long the frame is.
    pub fn close(&mut self, kind: FrameType, len: usize) -> usize {
        let len = len.min(self.bytes.len() - Header::LEN);
        let header = Header {
            kind,
            len: u32::try_from(len).unwrap_or_default(),
        };
        if let Some(place) = self.bytes.first_chunk_mut() {
            *place = header.encode();
        }
        Header::LEN + len
    }

    /// Bytes of the frame.
    pub fn bytes(&self, range: std::ops::Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }
}

impl DataWriter {
    pub(crate) fn new(stream: UnixStream, version: Version) -> Self {
        let stream = Arc::new(Mutex::new(stream));
        Self { stream, version }
    }

    /// Copies `source` to its end as frames of `kind`, and then sends the empty one.
    ///
    /// # Errors
    /// When the other end is lost. A source that cannot be read counts as ended.
    pub fn pump(&self, source: &mut dyn Read, kind: FrameType) -> io::Result<()> {
        let mut frame = FrameBuffer::new(self.version);
        loop {
            let read = match source.read(frame.body()) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            let len = frame.close(kind, read);
            self.stream
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write_all(frame.bytes(0..len))?;
            if read == 0 {
                return Ok(());
            }
        }
    }

    /// Sends the empty frame of `kind` unless a frame is under way.
    pub fn end(&self, kind: FrameType) {
        if let Ok(mut stream) = self.stream.try_lock() {
            let mut frame = FrameBuffer::new(self.version);
            let len = frame.close(kind, 0);
            // The other end has said all it has to say; whether it still listens does not matter.
            let _ = stream.write_all(frame.bytes(0..len));
        }
    }
}
