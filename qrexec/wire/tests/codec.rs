//! What is encoded is decoded again, in any pieces; what is hostile is refused as early as its header shows it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use casemate_qrexec_wire::{
    CommandLine, ControlDecoder, DataDecoder, DataFrame, ExecParams, Header, Ident, Malformed,
    Message, Target, ToAgent, ToBroker, Trigger, Version, limits,
};
use proptest::prelude::*;

fn version() -> impl Strategy<Value = Version> {
    (2u32..=6).prop_map(|number| Version::negotiate(number).unwrap())
}

fn params() -> impl Strategy<Value = ExecParams> {
    (any::<u32>(), any::<u32>()).prop_map(|(domain, port)| ExecParams { domain, port })
}

fn ident() -> impl Strategy<Value = Ident> {
    "[0-9A-Za-z_. -]{0,31}".prop_map(|text| Ident::new(&text).unwrap())
}

fn command() -> impl Strategy<Value = CommandLine> {
    prop::collection::vec(1u8..=255, 0..300).prop_map(|line| CommandLine::new(line).unwrap())
}

fn to_agent() -> impl Strategy<Value = ToAgent> {
    prop_oneof![
        (params(), command()).prop_map(|(params, line)| ToAgent::Execute(params, line)),
        (params(), command()).prop_map(|(params, line)| ToAgent::JustExecute(params, line)),
        (params(), ident()).prop_map(|(params, ident)| ToAgent::Connect(params, ident)),
        ident().prop_map(ToAgent::Refused),
    ]
}

/// Messages that every version can carry.
fn to_broker() -> impl Strategy<Value = ToBroker> {
    let trigger =
        ("[a-z@:-]{0,31}", ident(), "[ -~]{0,63}").prop_map(|(target, ident, service)| {
            ToBroker::Trigger(Trigger {
                claimed_source: Target::default(),
                target: Target::sanitise(target.as_bytes()),
                ident,
                service: service.into_bytes(),
            })
        });
    prop_oneof![params().prop_map(ToBroker::Terminated), trigger]
}

fn check_control<M: Message + Clone + PartialEq + std::fmt::Debug>(
    hello: M,
    version: Version,
    messages: &[M],
    piece: usize,
) {
    let mut bytes = Vec::new();
    let mut expected = vec![hello];
    expected.extend_from_slice(messages);
    for message in &expected {
        message.encode(version, &mut bytes).unwrap();
    }
    let mut decoder = ControlDecoder::<M>::default();
    let mut taken = Vec::new();
    for piece in bytes.chunks(piece) {
        decoder.feed(piece);
        while let Some(message) = decoder.take().unwrap() {
            taken.push(message);
        }
    }
    assert_eq!(taken, expected);
    assert!(decoder.is_empty());
    assert_eq!(decoder.version(), Some(version));
}

proptest! {
    #[test]
    fn control_messages_come_back(
        version in version(),
        down in prop::collection::vec(to_agent(), 0..8),
        up in prop::collection::vec(to_broker(), 0..8),
        piece in 1usize..200,
    ) {
        check_control(ToAgent::Hello(version.number()), version, &down, piece);
        check_control(ToBroker::Hello(version.number()), version, &up, piece);
    }

    #[test]
    fn data_frames_come_back(
        version in version(),
        bodies in prop::collection::vec((0u8..4, prop::collection::vec(any::<u8>(), 0..300)), 0..8),
        code in any::<i32>(),
        piece in 1usize..200,
    ) {
        let mut frames = vec![DataFrame::Hello(version.number())];
        frames.extend(bodies.iter().map(|(kind, body)| match kind {
            0 => DataFrame::Stdin(body),
            1 => DataFrame::Stdout(body),
            2 => DataFrame::Stderr(body),
            _ => DataFrame::ExitCode(code),
        }));
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.encode(version, &mut bytes).unwrap();
        }
        let mut decoder = DataDecoder::default();
        let mut next = frames.iter();
        for piece in bytes.chunks(piece) {
            decoder.feed(piece);
            while let Some(frame) = decoder.take().unwrap() {
                prop_assert_eq!(Some(&frame), next.next());
            }
        }
        prop_assert!(next.next().is_none());
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), hello in any::<bool>()) {
        let mut stream = Vec::new();
        if hello {
            ToBroker::Hello(4).encode(Version::OURS, &mut stream).unwrap();
        }
        stream.extend_from_slice(&bytes);
        let mut control = ControlDecoder::<ToBroker>::default();
        control.feed(&stream);
        while let Ok(Some(_)) = control.take() {}
        let mut data = DataDecoder::default();
        data.feed(&stream);
        while let Ok(Some(_)) = data.take() {}
    }
}

fn raw(kind: u32, len: u32) -> Vec<u8> {
    [kind.to_le_bytes(), len.to_le_bytes()].concat()
}

/// The error of a stream that says HELLO in `version` and then sends `frame`.
fn refused(version: u32, frame: &[u8]) -> Option<Malformed> {
    let mut decoder = ControlDecoder::<ToBroker>::default();
    let mut bytes = Vec::new();
    ToBroker::Hello(version)
        .encode(Version::OURS, &mut bytes)
        .unwrap();
    decoder.feed(&bytes);
    decoder.feed(frame);
    loop {
        match decoder.take() {
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(error) => return Some(error),
        }
    }
}

#[test]
fn hostile_control_headers_are_refused_before_their_bodies() {
    let length = |kind, len| Some(Malformed::Length { kind, len });
    let unexpected = |kind| Some(Malformed::Unexpected(kind));
    for (version, kind, len, expected) in [
        (4, 0x213, 161, None),
        (4, 0x213, 160, length(0x213, 160)),
        (4, 0x213, 160 + 65_000, None),
        (4, 0x213, 161 + 65_000, length(0x213, 161 + 65_000)),
        (4, 0x213, u32::MAX, length(0x213, u32::MAX)),
        (4, 0x212, 97, None),
        (4, 0x212, 96, length(0x212, 96)),
        (4, 0x210, 128, unexpected(0x210)),
        (3, 0x210, 128, unexpected(0x210)),
        (3, 0x213, 200, unexpected(0x213)),
        (2, 0x210, 128, None),
        (2, 0x210, 127, length(0x210, 127)),
        (2, 0x212, 200, unexpected(0x212)),
        (4, 0x211, 8, None),
        (4, 0x211, 9, length(0x211, 9)),
        (4, 0x300, 4, unexpected(0x300)),
        (4, 0x200, 20, unexpected(0x200)),
        (4, 0x203, 32, unexpected(0x203)),
        (4, 0x190, 0, unexpected(0x190)),
        (4, 0, 0, unexpected(0)),
        (4, u32::MAX, u32::MAX, unexpected(u32::MAX)),
        (1, 0x211, 8, Some(Malformed::Version(1))),
        (u32::MAX, 0x213, 161, None),
    ] {
        assert_eq!(
            refused(version, &raw(kind, len)),
            expected,
            "v{version} {kind:#x} {len}"
        );
    }
}

#[test]
fn a_stream_that_does_not_begin_with_hello_is_refused() {
    let mut decoder = ControlDecoder::<ToBroker>::default();
    decoder.feed(&raw(0x211, 8));
    assert_eq!(decoder.take(), Err(Malformed::Unexpected(0x211)));
    let mut data = DataDecoder::default();
    data.feed(&raw(0x190, 1));
    assert_eq!(data.take(), Err(Malformed::Unexpected(0x190)));
}

#[test]
fn hostile_fields_are_refused() {
    let trigger = |source: &[u8], target: &[u8], ident: &[u8], service: &[u8]| {
        let mut body = Vec::new();
        for (field, width) in [(source, 64), (target, 64), (ident, 32)] {
            let mut field = field.to_vec();
            field.resize(width, 0);
            body.extend_from_slice(&field);
        }
        body.extend_from_slice(service);
        let mut frame = raw(0x213, u32::try_from(body.len()).unwrap());
        frame.extend_from_slice(&body);
        refused(4, &frame)
    };
    assert_eq!(trigger(b"", b"work", b"SOCKET7", b"a\0"), None);
    assert_eq!(
        trigger(b"", b"work", b"SOCKET7", b"a"),
        Some(Malformed::Text)
    );
    assert_eq!(
        trigger(b"", b"work", b"a\0b", b"a\0"),
        Some(Malformed::Text)
    );
    assert_eq!(
        trigger(b"", b"work", b"a/b", b"a\0"),
        Some(Malformed::Ident)
    );
    assert_eq!(
        trigger(b"", b"work", &[b'x'; 32], b"a\0"),
        Some(Malformed::Text)
    );
    assert_eq!(
        trigger(b"", &[b'x'; 64], b"a", b"a\0"),
        Some(Malformed::Text)
    );
    assert_eq!(trigger(b"", b"w\0x", b"a", b"a\0"), Some(Malformed::Text));
    assert_eq!(
        trigger(&[0xff; 64], b"", b"a", b"a\0"),
        Some(Malformed::Text)
    );
}

#[test]
fn data_chunks_are_bounded_by_the_version() {
    for (version, len, fits) in [
        (2, limits::MAX_DATA_CHUNK_V2, true),
        (2, limits::MAX_DATA_CHUNK_V2 + 1, false),
        (3, limits::MAX_DATA_CHUNK, true),
        (4, limits::MAX_DATA_CHUNK + 1, false),
    ] {
        let mut stream = Vec::new();
        DataFrame::Hello(version)
            .encode(Version::OURS, &mut stream)
            .unwrap();
        stream.extend_from_slice(&raw(0x191, u32::try_from(len).unwrap()));
        let mut decoder = DataDecoder::default();
        decoder.feed(&stream);
        assert_eq!(decoder.take(), Ok(Some(DataFrame::Hello(version))));
        assert_eq!(decoder.take().is_ok(), fits, "v{version} {len}");
        let agreed = Version::negotiate(version).unwrap();
        let mut out = Vec::new();
        assert_eq!(
            DataFrame::Stdin(&vec![0; len])
                .encode(agreed, &mut out)
                .is_ok(),
            fits
        );
        assert_eq!(out.len(), if fits { Header::LEN + len } else { 0 });
    }
}

#[test]
fn a_short_exit_code_is_255_and_a_long_one_is_cut() {
    for (body, expected) in [(&[][..], 255), (&[1, 2, 3], 255), (&[7, 0, 0, 0, 9], 7)] {
        let mut stream = Vec::new();
        DataFrame::Hello(4)
            .encode(Version::OURS, &mut stream)
            .unwrap();
        stream.extend_from_slice(&raw(0x193, u32::try_from(body.len()).unwrap()));
        stream.extend_from_slice(body);
        let mut decoder = DataDecoder::default();
        decoder.feed(&stream);
        decoder.take().unwrap();
        assert_eq!(decoder.take(), Ok(Some(DataFrame::ExitCode(expected))));
    }
}
