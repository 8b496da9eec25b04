//! Properties of the stream codecs: how the bytes are cut makes no difference, and what was understood can be said again.
//!
//! The first byte of an input is the length of the pieces, the rest is the stream.

use std::fmt::Debug;

use casemate_qrexec_wire as qrexec;
use casemate_vmm_control::{decode, encode};
use casemate_window_wire as window;
use serde::{Serialize, de::DeserializeOwned};

/// What was taken out of a stream, and how it ended.
type Taken<T, E> = (Vec<T>, Result<(), E>);

/// Hands a stream to `step` in pieces until it fails.
fn in_pieces<T, E>(
    stream: &[u8],
    len: usize,
    mut step: impl FnMut(&[u8], &mut Vec<T>) -> Result<(), E>,
) -> Taken<T, E> {
    let mut taken = Vec::new();
    for piece in stream.chunks(len) {
        if let Err(error) = step(piece, &mut taken) {
            return (taken, Err(error));
        }
    }
    (taken, Ok(()))
}

/// The stream, and the lengths of pieces in which it is read: those of the input, and all at once.
fn cut(input: &[u8]) -> Option<(&[u8], usize, usize)> {
    let (piece, stream) = input.split_first()?;
    Some((stream, usize::from(*piece).max(1), stream.len().max(1)))
}

/// One direction of the window stream. Its codec has one way to write each message, so the bytes come back too.
pub fn window<M: window::Message + Debug + PartialEq>(input: &[u8]) {
    let Some((stream, piece, whole)) = cut(input) else {
        return;
    };
    let decode = |len| {
        let mut decoder = window::Decoder::<M>::default();
        in_pieces(stream, len, |bytes, taken| {
            decoder.feed(bytes);
            while let Some(message) = decoder.take()? {
                taken.push(message);
            }
            Ok::<_, window::Malformed>(())
        })
    };
    let taken = decode(piece);
    assert_eq!(taken, decode(whole));
    let mut again = Vec::new();
    for message in &taken.0 {
        message
            .encode(&mut again)
            .expect("what was decoded is within bounds");
    }
    assert!(stream.starts_with(&again), "a message has two forms");
}

fn decode_control<M: qrexec::Message>(
    stream: &[u8],
    len: usize,
) -> (Taken<M, qrexec::Malformed>, Option<qrexec::Version>) {
    let mut decoder = qrexec::ControlDecoder::<M>::default();
    let taken = in_pieces(stream, len, |bytes, taken| {
        decoder.feed(bytes);
        while let Some(message) = decoder.take()? {
            taken.push(message);
        }
        Ok(())
    });
    (taken, decoder.version())
}

/// One direction of a qrexec control stream. Names are sanitised and older forms understood, so messages come back,
/// not bytes.
pub fn qrexec_control<M: qrexec::Message + Debug + PartialEq>(input: &[u8]) {
    let Some((stream, piece, whole)) = cut(input) else {
        return;
    };
    let (taken, version) = decode_control::<M>(stream, piece);
    let at_once = decode_control(stream, whole);
    assert_eq!((&taken, version), (&at_once.0, at_once.1));
    let Some(version) = version else {
        return;
    };
    let mut again = Vec::new();
    for message in &taken.0 {
        message
            .encode(version, &mut again)
            .expect("what was decoded fits its version");
    }
    let (repeated, _) = decode_control::<M>(&again, again.len().max(1));
    assert_eq!(repeated, (taken.0, Ok(())));
}

/// The frames of a data stream, written again.
fn rewrite(stream: &[u8], len: usize) -> Taken<u8, qrexec::Malformed> {
    let mut decoder = qrexec::DataDecoder::default();
    in_pieces(stream, len, |bytes, out| {
        decoder.feed(bytes);
        loop {
            // A HELLO has the same form in every version.
            let version = decoder.version().unwrap_or(qrexec::Version::OLDEST);
            let Some(frame) = decoder.take()? else {
                return Ok(());
            };
            frame
                .encode(version, out)
                .expect("what was decoded fits its version");
        }
    })
}

/// A qrexec data stream. Only an exit code has several forms; written again it has one.
pub fn qrexec_data(input: &[u8]) {
    let Some((stream, piece, whole)) = cut(input) else {
        return;
    };
    let taken = rewrite(stream, piece);
    assert_eq!(taken, rewrite(stream, whole));
    let (once, _) = taken;
    assert_eq!(rewrite(&once, once.len().max(1)), (once, Ok(())));
}

/// A JSON message of the vmm's conversations: what was decoded can be written again and comes back.
pub fn json<M: Serialize + DeserializeOwned + Debug + PartialEq>(input: &[u8], max: usize) {
    let Ok(message) = decode::<M>(input, max) else {
        return;
    };
    // Escapes may make a text longer than it came.
    let bytes = encode(&message);
    assert_eq!(decode::<M>(&bytes, usize::MAX).ok(), Some(message));
}
