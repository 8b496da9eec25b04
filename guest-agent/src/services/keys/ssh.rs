//! The requests of the ssh agent protocol that a foreign VM may make: list keys, sign. Frames are `len: u32` big endian,
//! then a type byte and its body.

use std::io::{self, Read, Write};

/// Longest request, as OpenSSH's agent allows.
const MAX_REQUEST: u32 = 256 * 1024;

/// SSH_AGENTC_REQUEST_IDENTITIES and SSH_AGENTC_SIGN_REQUEST.
const ALLOWED: [u8; 2] = [11, 13];

/// SSH_AGENT_FAILURE as a frame.
const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];

/// Hands on allowed requests and answers the others by a failure, until the caller ends.
///
/// # Errors
/// A request that is cut or too long.
pub(super) fn filter(
    caller: &mut dyn Read,
    agent: &mut dyn Write,
    answers: &mut dyn Write,
) -> io::Result<()> {
    let mut body = Vec::new();
    loop {
        let mut len = [0; 4];
        match caller.read(&mut len[..1])? {
            0 => return Ok(()),
            _ => caller.read_exact(&mut len[1..])?,
        }
        let length = u32::from_be_bytes(len);
        if !(1..=MAX_REQUEST).contains(&length) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        body.resize(usize::try_from(length).unwrap_or_default(), 0);
        caller.read_exact(&mut body)?;
        if body.first().is_some_and(|kind| ALLOWED.contains(kind)) {
            agent.write_all(&len)?;
            agent.write_all(&body)?;
        } else {
            answers.write_all(&FAILURE)?;
            answers.flush()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: u8, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len() + 1).unwrap();
        [&len.to_be_bytes()[..], &[kind], body].concat()
    }

    #[test]
    fn keys_are_used_but_neither_changed_nor_given_away() {
        for kind in 0..=255 {
            let input = request(kind, b"body");
            let (mut agent, mut answers) = (Vec::new(), Vec::new());
            filter(&mut input.as_slice(), &mut agent, &mut answers).unwrap();
            let allowed = kind == 11 || kind == 13;
            let expected = if allowed {
                (input, vec![])
            } else {
                (vec![], FAILURE.to_vec())
            };
            assert_eq!((agent, answers), expected, "{kind}");
        }
        let many = [request(13, b"a"), request(17, b"key"), request(11, b"")].concat();
        let mut agent = Vec::new();
        filter(&mut many.as_slice(), &mut agent, &mut Vec::new()).unwrap();
        assert_eq!(agent, [request(13, b"a"), request(11, b"")].concat());
    }

    #[test]
    fn what_is_no_request_ends_the_call() {
        for bad in [
            &[0, 0, 0, 0][..],
            &[0, 4, 0, 1],
            &[255; 8],
            &[0, 0],
            &[0, 0, 0, 5, 11],
        ] {
            let (mut agent, mut answers) = (Vec::new(), Vec::new());
            assert!(
                filter(&mut &*bad, &mut agent, &mut answers).is_err(),
                "{bad:?}"
            );
            assert!(agent.is_empty(), "nothing of it reaches the agent");
        }
        assert!(filter(&mut io::empty(), &mut Vec::new(), &mut Vec::new()).is_ok());
    }
}
