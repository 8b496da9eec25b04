//! Data streams on a blocking socket: HELLO, then frames in both directions.

use std::{
    io::{self, Read, Write},
    ops::ControlFlow,
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, PoisonError},
};

use casemate_qrexec_wire::{DataDecoder, DataFrame, Malformed, Version};

/// Bytes read at once.
const READ: usize = 128 * 1024;

/// The receiving half of a data stream.
pub(crate) struct DataReader {
    stream: UnixStream,
    decoder: DataDecoder,
    buffer: Vec<u8>,
}

/// The sending half; copies share the stream, each frame goes out whole.
#[derive(Clone)]
pub(crate) struct DataWriter {
    stream: Arc<Mutex<UnixStream>>,
    version: Version,
}

/// Says HELLO, waits for the other end's, and splits the stream.
///
/// # Errors
/// When the other end is lost or speaks something else.
pub(crate) fn open(mut stream: UnixStream) -> io::Result<(DataReader, DataWriter)> {
    let mut hello = Vec::new();
    DataFrame::Hello(Version::OURS.number())
        .encode(Version::OLDEST, &mut hello)
        .map_err(invalid)?;
    stream.write_all(&hello)?;
    let writer = Arc::new(Mutex::new(stream.try_clone()?));
    let mut reader = DataReader {
        stream,
        decoder: DataDecoder::default(),
        buffer: vec![0; READ],
    };
    while reader.decoder.take().map_err(invalid)?.is_none() {
        if !reader.fill()? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let version = reader.decoder.version().ok_or(io::ErrorKind::InvalidData)?;
    Ok((
        reader,
        DataWriter {
            stream: writer,
            version,
        },
    ))
}

impl DataReader {
    /// Gives each frame to `on` until it breaks or the stream ends (`None`).
    ///
    /// # Errors
    /// Those of `on`, of the stream, and a frame that is not of this protocol.
    pub(crate) fn each<T>(
        &mut self,
        mut on: impl FnMut(DataFrame<'_>) -> io::Result<ControlFlow<T>>,
    ) -> io::Result<Option<T>> {
        loop {
            while let Some(frame) = self.decoder.take().map_err(invalid)? {
                if let ControlFlow::Break(value) = on(frame)? {
                    return Ok(Some(value));
                }
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    fn fill(&mut self) -> io::Result<bool> {
        loop {
            match self.stream.read(&mut self.buffer) {
                Ok(read) => {
                    self.decoder
                        .feed(self.buffer.get(..read).unwrap_or_default());
                    return Ok(read > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl DataWriter {
    /// Largest body of a frame to this peer.
    pub(crate) fn chunk(&self) -> usize {
        self.version.max_data_chunk()
    }

    /// Sends one frame; `scratch` is reused from frame to frame.
    ///
    /// # Errors
    /// When the other end is lost.
    pub(crate) fn send(&self, frame: DataFrame<'_>, scratch: &mut Vec<u8>) -> io::Result<()> {
        scratch.clear();
        frame.encode(self.version, scratch).map_err(invalid)?;
        self.stream
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(scratch)
    }

    /// Copies `source` to its end as frames made by `frame`, and then sends the empty one.
    ///
    /// # Errors
    /// When the other end is lost. A source that cannot be read counts as ended.
    pub(crate) fn pump(
        &self,
        source: &mut dyn Read,
        frame: impl for<'a> Fn(&'a [u8]) -> DataFrame<'a>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; self.chunk()];
        let mut scratch = Vec::with_capacity(self.chunk() + 8);
        loop {
            let read = match source.read(&mut buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            self.send(frame(buffer.get(..read).unwrap_or_default()), &mut scratch)?;
            if read == 0 {
                return Ok(());
            }
        }
    }

    /// Ends both directions, so that a reader that waits returns.
    pub(crate) fn shut(&self) {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        // A stream that the other end has closed already is as good.
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}

pub(crate) fn invalid(error: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
