//! Control requests and their answers, as bytes (virtio 1.2, 5.14.6).

use vm_memory::GuestMemoryMmap;

use super::parameters::{self, Direction, Parameters};
use crate::scatter::View;

const JACK_INFO: u32 = 1;
const PCM_INFO: u32 = 0x100;
const PCM_SET_PARAMS: u32 = 0x101;
const PCM_PREPARE: u32 = 0x102;
const PCM_RELEASE: u32 = 0x103;
const PCM_START: u32 = 0x104;
const PCM_STOP: u32 = 0x105;
const CHMAP_INFO: u32 = 0x200;

const JACK_CONNECTED: u32 = 0x1000;
const JACK_DISCONNECTED: u32 = 0x1001;

/// Most bytes of one item that a driver of a later version may ask for; what we do not know of it is zero.
const MAX_ITEM: usize = 64;

/// Bytes of the status that ends an I/O message, and of an event.
pub(super) const STATUS_LEN: usize = 8;
pub(super) const EVENT_LEN: usize = 8;

/// How a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    BadMessage,
    NotSupported,
    IoError,
}

impl Status {
    pub(super) fn code(self) -> u32 {
        match self {
            Self::Ok => 0x8000,
            Self::BadMessage => 0x8001,
            Self::NotSupported => 0x8002,
            Self::IoError => 0x8003,
        }
    }

    /// What ends an I/O message.
    pub(super) fn with_latency(self, latency: u32) -> [u8; STATUS_LEN] {
        pair(self.code(), latency)
    }
}

/// Two words.
fn pair(first: u32, second: u32) -> [u8; 8] {
    let [a, b, c, d] = first.to_le_bytes();
    let [e, f, g, h] = second.to_le_bytes();
    [a, b, c, d, e, f, g, h]
}

/// The event that says whether something is plugged into a jack.
pub(super) fn jack_event(jack: Direction, connected: bool) -> [u8; EVENT_LEN] {
    let code = if connected {
        JACK_CONNECTED
    } else {
        JACK_DISCONNECTED
    };
    pair(code, jack.number().into())
}

/// What items are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Jack,
    Stream,
    ChannelMap,
}

/// Which items, and how long the answer for each is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) item: Item,
    start: u32,
    count: u32,
    size: usize,
}

/// What a stream is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    SetParameters(Parameters),
    Prepare,
    Start,
    Stop,
    Release,
}

/// A control request whose parts are possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Query(Query),
    /// For the stream of this number, which may not exist.
    Stream(u32, Command),
}

impl Request {
    /// Reads a request; each field once.
    pub(super) fn read(bytes: View<'_>, memory: &GuestMemoryMmap) -> Result<Self, Status> {
        let code = word(bytes, memory, 0)?;
        let command = match code {
            JACK_INFO => return Self::query(Item::Jack, bytes, memory),
            PCM_INFO => return Self::query(Item::Stream, bytes, memory),
            CHMAP_INFO => return Self::query(Item::ChannelMap, bytes, memory),
            PCM_SET_PARAMS => Command::SetParameters(parameters(bytes, memory)?),
            PCM_PREPARE => Command::Prepare,
            PCM_RELEASE => Command::Release,
            PCM_START => Command::Start,
            PCM_STOP => Command::Stop,
            _ => return Err(Status::NotSupported),
        };
        Ok(Self::Stream(word(bytes, memory, 4)?, command))
    }

    fn query(item: Item, bytes: View<'_>, memory: &GuestMemoryMmap) -> Result<Self, Status> {
        let size = usize::try_from(word(bytes, memory, 12)?).unwrap_or(usize::MAX);
        if size > MAX_ITEM {
            return Err(Status::BadMessage);
        }
        Ok(Self::Query(Query {
            item,
            start: word(bytes, memory, 4)?,
            count: word(bytes, memory, 8)?,
            size,
        }))
    }
}

fn word(bytes: View<'_>, memory: &GuestMemoryMmap, at: usize) -> Result<u32, Status> {
    let field = bytes.after(at).read_array(memory);
    field.map(u32::from_le_bytes).ok_or(Status::BadMessage)
}

/// The fields of a request to set parameters that come after the stream's number.
fn parameters(bytes: View<'_>, memory: &GuestMemoryMmap) -> Result<Parameters, Status> {
    let buffer = word(bytes, memory, 8)?;
    let period = word(bytes, memory, 12)?;
    let features = word(bytes, memory, 16)?;
    let rest: [u8; 4] = bytes
        .after(20)
        .read_array(memory)
        .ok_or(Status::BadMessage)?;
    let [channels, format, rate, _padding] = rest;
    // None is offered.
    if features != 0 {
        return Err(Status::NotSupported);
    }
    Parameters::new(buffer, period, channels, format, rate)
}

impl Query {
    /// Whether the item of this number is asked for.
    pub(super) fn names(self, item: Direction) -> bool {
        let after = u32::from(item.number()).checked_sub(self.start);
        after.is_some_and(|after| after < self.count)
    }

    /// The answer: the status, and each item that was asked for. `room` is what the driver has for it. Of `items` there
    /// is one of each kind; `connected` says of which jacks something is plugged in.
    pub(super) fn answer(
        self,
        items: &[Direction],
        connected: impl Fn(Direction) -> bool,
        room: usize,
    ) -> Result<Vec<u8>, Status> {
        let range = || {
            let start = usize::try_from(self.start).ok()?;
            let count = usize::try_from(self.count).ok()?;
            items.get(start..start.checked_add(count)?)
        };
        let items = range().ok_or(Status::BadMessage)?;
        let mut answer = Status::Ok.code().to_le_bytes().to_vec();
        for item in items {
            let mut bytes = match self.item {
                Item::Jack => jack(*item, connected(*item)),
                Item::Stream => stream(*item),
                Item::ChannelMap => channel_map(*item),
            };
            bytes.resize(self.size, 0);
            answer.extend(bytes);
        }
        if answer.len() > room {
            return Err(Status::BadMessage);
        }
        Ok(answer)
    }
}

/// One function group for all.
const GROUP: [u8; 4] = [0; 4];

/// Pin configuration of the High Definition Audio specification, 7.3.3.31: a speaker, a microphone; association 1.
const SPEAKER: u32 = 0x0010_0010;
const MICROPHONE: u32 = 0x00a0_0010;
/// Pin capabilities, 7.3.4.9: output or input, and that a plug is noticed.
const CAN_PLAY: u32 = 0x14;
const CAN_RECORD: u32 = 0x24;

fn jack(jack: Direction, connected: bool) -> Vec<u8> {
    let (configuration, capabilities) = match jack {
        Direction::Playback => (SPEAKER, CAN_PLAY),
        Direction::Capture => (MICROPHONE, CAN_RECORD),
    };
    let features = 0_u32;
    let mut bytes = GROUP.to_vec();
    for word in [features, configuration, capabilities] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend([u8::from(connected), 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

fn stream(stream: Direction) -> Vec<u8> {
    let (formats, rates) = parameters::masks();
    let features = 0_u32;
    let mut bytes = GROUP.to_vec();
    bytes.extend(features.to_le_bytes());
    bytes.extend(formats.to_le_bytes());
    bytes.extend(rates.to_le_bytes());
    let (fewest, most) = (1, 2);
    bytes.extend([stream.number(), fewest, most, 0, 0, 0, 0, 0]);
    bytes
}

/// Positions of a channel map: front left, front right, and room for sixteen more.
const FRONT: [u8; 2] = [3, 4];
const POSITIONS: usize = 18;

fn channel_map(stream: Direction) -> Vec<u8> {
    let mut bytes = GROUP.to_vec();
    bytes.extend([stream.number(), 2]);
    let mut positions = [0; POSITIONS];
    for (place, position) in positions.iter_mut().zip(FRONT) {
        *place = position;
    }
    bytes.extend(positions);
    bytes
}
