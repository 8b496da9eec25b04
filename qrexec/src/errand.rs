//! Short services with the host at one end: those that the supervisor has done in a VM, and those that the host serves.

use std::{io, os::unix::net::UnixStream as StdStream, time::Duration};

use casemate_qrexec_wire::{DataDecoder, DataFrame, Version, limits::MAX_DATA_CHUNK_V2};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

/// How long a service may take: one that never ends would hold up the supervisor, which waits for it, or keep a stream
/// of ours.
const LIMIT: Duration = Duration::from_secs(30);

/// How much of what a service says is read at a time, in bytes; nothing of it is kept.
const CHUNK: usize = 4096;

/// Longest input, in bytes: it goes in one frame to agents of every version.
pub(crate) const MAX_INPUT: usize = MAX_DATA_CHUNK_V2;

/// Gives the service at the other end of a data stream its input and waits for its exit code.
pub(crate) async fn run(stream: StdStream, input: &[u8]) -> io::Result<i32> {
    timeout(LIMIT, speak(stream, input))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The client's end of a data stream (docs/protocols/qrexec.md): the exit code of what was called.
async fn speak(stream: StdStream, input: &[u8]) -> io::Result<i32> {
    stream.set_nonblocking(true)?;
    let mut stream = UnixStream::from_std(stream)?;
    let hello = encode(&[DataFrame::Hello(Version::OURS.number())], Version::OLDEST)?;
    stream.write_all(&hello).await?;
    let mut decoder = DataDecoder::default();
    let mut input = Some(input);
    let mut buffer = [0; CHUNK];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        decoder.feed(buffer.get(..read).unwrap_or_default());
        while let Some(frame) = decoder.take().map_err(io::Error::other)? {
            if let DataFrame::ExitCode(code) = frame {
                return Ok(code);
            }
        }
        if let (Some(version), Some(bytes)) = (decoder.version(), input.take()) {
            let frames = [DataFrame::Stdin(bytes), DataFrame::Stdin(&[])];
            // A service that ended without reading has an exit code all the same.
            if let Err(error) = stream.write_all(&encode(&frames, version)?).await {
                tracing::debug!(%error, "a service did not read its input");
            }
        }
    }
}

/// Serves at the other end of a data stream: reads all input, has `answer` make an exit code of it, and says that.
pub(crate) async fn serve(
    stream: StdStream,
    answer: impl AsyncFnOnce(Vec<u8>) -> i32,
) -> io::Result<()> {
    let served = async {
        stream.set_nonblocking(true)?;
        let mut stream = UnixStream::from_std(stream)?;
        let hello = encode(&[DataFrame::Hello(Version::OURS.number())], Version::OLDEST)?;
        stream.write_all(&hello).await?;
        let (input, version) = read_input(&mut stream).await?;
        let code = answer(input).await;
        let end = [
            DataFrame::Stdout(&[]),
            DataFrame::Stderr(&[]),
            DataFrame::ExitCode(code),
        ];
        stream.write_all(&encode(&end, version)?).await
    };
    timeout(LIMIT, served)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// All that a client sends, and the version that it speaks.
async fn read_input(stream: &mut UnixStream) -> io::Result<(Vec<u8>, Version)> {
    let mut decoder = DataDecoder::default();
    let mut input = Vec::new();
    let mut buffer = [0; CHUNK];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        decoder.feed(buffer.get(..read).unwrap_or_default());
        let mut ended = false;
        while let Some(frame) = decoder.take().map_err(io::Error::other)? {
            if let DataFrame::Stdin(bytes) = frame {
                ended |= bytes.is_empty();
                input.extend_from_slice(bytes);
            }
            if input.len() > MAX_INPUT {
                return Err(io::Error::other(
                    "more input than any service of the host takes",
                ));
            }
        }
        if let (true, Some(version)) = (ended, decoder.version()) {
            return Ok((input, version));
        }
    }
}

fn encode(frames: &[DataFrame<'_>], version: Version) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for frame in frames {
        frame
            .encode(version, &mut bytes)
            .map_err(io::Error::other)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// An agent that sends `answer` after our hello and reads all that comes.
    async fn told(answer: &[(DataFrame<'_>, Version)]) -> (io::Result<i32>, Vec<u8>) {
        let (ours, mut agent) = StdStream::pair().unwrap();
        let mut bytes = Vec::new();
        for (frame, version) in answer {
            frame.encode(*version, &mut bytes).unwrap();
        }
        let agent = std::thread::spawn(move || {
            let mut hello = [0; 12];
            agent.read_exact(&mut hello).unwrap();
            agent.write_all(&bytes).unwrap();
            agent.shutdown(std::net::Shutdown::Write).unwrap();
            let mut read = Vec::new();
            agent.read_to_end(&mut read).unwrap();
            read
        });
        let code = run(ours, b"text").await;
        (code, agent.join().unwrap())
    }

    #[tokio::test]
    async fn a_service_gets_its_input_and_tells_its_code() {
        let hello = (DataFrame::Hello(4), Version::OLDEST);
        let said = (DataFrame::Stdout(b"noise"), Version::OURS);
        let end = (DataFrame::ExitCode(3), Version::OURS);
        let mut expected = Vec::new();
        for frame in [DataFrame::Stdin(b"text"), DataFrame::Stdin(&[])] {
            frame.encode(Version::OURS, &mut expected).unwrap();
        }
        let (code, read) = told(&[hello, said]).await;
        assert_eq!(code.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read, expected);
        let (code, _) = told(&[hello, said, end]).await;
        assert_eq!(code.unwrap(), 3);
        let (code, _) = told(&[said]).await;
        assert!(code.is_err(), "no hello");
    }

    #[tokio::test]
    async fn the_host_reads_all_input_and_answers_once() {
        let (ours, theirs) = StdStream::pair().unwrap();
        let served = tokio::spawn(serve(ours, async |input| {
            assert_eq!(input, b"text");
            5
        }));
        assert_eq!(run(theirs, b"text").await.unwrap(), 5);
        served.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn more_input_than_that_ends_the_stream() {
        let (ours, theirs) = StdStream::pair().unwrap();
        let served = tokio::spawn(serve(ours, async |_| panic!("it is not answered")));
        let long = vec![b'7'; MAX_INPUT + 1];
        assert!(run(theirs, &long).await.is_err());
        assert!(served.await.unwrap().is_err());
    }
}
