//! PipeWire as a [`Host`]: connects when there is something to play or record, and again when it was lost.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use casemate_link::PacketSocket;
use casemate_sound_wire::{Channels, Report};
use pipewire::{
    context::ContextRc,
    core::{CoreRc, Listener},
    keys,
    properties::properties,
    spa::{
        self,
        param::{
            ParamType,
            audio::{AudioFormat, AudioInfoRaw, MAX_CHANNELS},
        },
        pod::{Object, Pod, Value, serialize::PodSerializer},
        utils::SpaTypes,
    },
    stream::{Stream, StreamFlags, StreamListener, StreamRc, StreamState},
};

use crate::{
    convert::FLOAT,
    host::{Host, Sound},
    line::{Direction, Line},
    serve::{Place, say},
};

/// Pause before a server that was not there is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// What PipeWire is asked to gather before it asks for samples: 21 ms.
const LATENCY: &str = "1024/48000";

/// A line's part of PipeWire.
pub(crate) struct Server {
    context: ContextRc,
    place: Place,
    line: Rc<RefCell<Line>>,
    socket: Rc<PacketSocket>,
    wanted: Option<Sound>,
    // Dropped in this order: what listens before what it listens to.
    stream: Option<Open>,
    core: Option<Connection>,
    /// Set by callbacks, in which nothing may be dropped.
    lost: Rc<Cell<bool>>,
    /// When it may be tried again.
    not_before: Option<Instant>,
}

struct Connection {
    _listener: Listener,
    core: CoreRc,
}

struct Open {
    sound: Sound,
    _listener: StreamListener<()>,
    _stream: StreamRc,
}

impl Host for Server {
    fn open(&mut self, sound: Sound) {
        // A stream of the same kind goes on: the line gives it the new run's samples from here on.
        if self.stream.as_ref().is_some_and(|it| it.sound != sound) {
            self.stream = None;
        }
        self.wanted = Some(sound);
    }

    fn close(&mut self) {
        self.wanted = None;
        self.stream = None;
    }
}

impl Server {
    pub(crate) fn new(
        context: ContextRc,
        place: Place,
        line: Rc<RefCell<Line>>,
        socket: Rc<PacketSocket>,
    ) -> Self {
        Self {
            context,
            place,
            line,
            socket,
            wanted: None,
            stream: None,
            core: None,
            lost: Rc::new(Cell::new(false)),
            not_before: None,
        }
    }

    /// Makes what is wanted and is not there; outside of callbacks. How long until it is to be called again, if only
    /// time can make a difference.
    pub(crate) fn tend(&mut self) -> Option<Duration> {
        if self.lost.take() {
            self.stream = None;
            self.core = None;
            self.not_before = Some(Instant::now() + AGAIN);
        }
        let sound = self.wanted.filter(|_| self.stream.is_none())?;
        let now = Instant::now();
        if let Some(then) = self.not_before.filter(|then| *then > now) {
            return Some(
                then.saturating_duration_since(now)
                    .max(Duration::from_millis(1)),
            );
        }
        match self.make(sound) {
            Ok(stream) => {
                self.place.report(Report::Server);
                self.stream = Some(stream);
                None
            }
            Err(error) => {
                tracing::info!(vm = %self.place.vm, %error, "no PipeWire; silent until it is there");
                self.place.report(Report::NoServer);
                self.core = None;
                self.not_before = Some(now + AGAIN);
                Some(AGAIN)
            }
        }
    }

    fn make(&mut self, sound: Sound) -> Result<Open, pipewire::Error> {
        let core = match &self.core {
            Some(connection) => connection.core.clone(),
            None => {
                let core = self.context.connect_rc(None)?;
                let lost = Rc::clone(&self.lost);
                let listener = core
                    .add_listener_local()
                    .error(move |id, _, _, _| {
                        // Errors of other objects are the stream's, which says so itself.
                        if id == pipewire::core::PW_ID_CORE {
                            lost.set(true);
                        }
                    })
                    .register();
                self.core = Some(Connection {
                    _listener: listener,
                    core: core.clone(),
                });
                core
            }
        };
        let (category, role, way) = match self.place.direction {
            Direction::Play => ("Playback", "Music", spa::utils::Direction::Output),
            Direction::Record => ("Capture", "Communication", spa::utils::Direction::Input),
        };
        let name = self.place.vm.as_str();
        let properties = properties! {
            *keys::MEDIA_TYPE => "Audio",
            *keys::MEDIA_CATEGORY => category,
            *keys::MEDIA_ROLE => role,
            *keys::MEDIA_NAME => name,
            *keys::APP_NAME => format!("Casemate: {name}"),
            *keys::NODE_NAME => format!("casemate.{name}"),
            *keys::NODE_DESCRIPTION => name,
            *keys::NODE_LATENCY => LATENCY,
        };
        let stream = StreamRc::new(core, name, properties)?;
        let lost = Rc::clone(&self.lost);
        let vm = self.place.vm.to_string();
        let (line, socket) = (Rc::clone(&self.line), Rc::clone(&self.socket));
        let direction = self.place.direction;
        let listener = stream
            .add_local_listener::<()>()
            .state_changed(move |_, (), _, state| match state {
                StreamState::Error(what) => {
                    tracing::info!(vm, what, "PipeWire has ended a stream");
                    lost.set(true);
                }
                state => tracing::debug!(vm, ?state, "stream"),
            })
            .process(move |stream, ()| match direction {
                Direction::Play => play(stream, sound, &line, &socket),
                Direction::Record => record(stream, &line, &socket),
            })
            .register()?;
        let format = format(sound)?;
        let mut parameters = [Pod::from_bytes(&format).ok_or(pipewire::Error::CreationFailed)?];
        // Not on the realtime thread: its line is this thread's.
        let flags = StreamFlags::AUTOCONNECT | StreamFlags::MAP_BUFFERS;
        stream.connect(way, None, flags, &mut parameters)?;
        Ok(Open {
            sound,
            _listener: listener,
            _stream: stream,
        })
    }
}

/// PipeWire wants samples.
fn play(stream: &Stream, sound: Sound, line: &RefCell<Line>, socket: &PacketSocket) {
    let Some(mut buffer) = stream.dequeue_buffer() else {
        return;
    };
    let requested = usize::try_from(buffer.requested()).unwrap_or(usize::MAX);
    let Some(data) = buffer.datas_mut().first_mut() else {
        return;
    };
    let frame = FLOAT * usize::from(sound.channels.count());
    let Some(place) = data.data() else { return };
    let room = place.len() / frame;
    let frames = if requested == 0 {
        room
    } else {
        requested.min(room)
    };
    let len = frames * frame;
    let any = line
        .borrow_mut()
        .draw(place.get_mut(..len).unwrap_or_default());
    let chunk = data.chunk_mut();
    *chunk.offset_mut() = 0;
    *chunk.stride_mut() = i32::try_from(frame).unwrap_or(i32::MAX);
    *chunk.size_mut() = u32::try_from(len).unwrap_or(0);
    drop(buffer);
    if any && let Some(heard) = line.borrow().heard(delay(stream)) {
        say(socket, &heard);
    }
}

/// PipeWire has samples.
fn record(stream: &Stream, line: &RefCell<Line>, socket: &PacketSocket) {
    let Some(mut buffer) = stream.dequeue_buffer() else {
        return;
    };
    let Some(data) = buffer.datas_mut().first_mut() else {
        return;
    };
    let start = usize::try_from(data.chunk().offset()).unwrap_or(usize::MAX);
    let len = usize::try_from(data.chunk().size()).unwrap_or(0);
    let Some(floats) = data
        .data()
        .and_then(|all| all.get(start..start.checked_add(len)?))
    else {
        return;
    };
    for packet in line.borrow().recorded(floats, delay(stream)) {
        say(socket, &packet);
    }
}

/// Seconds between the stream and the device.
fn delay(stream: &Stream) -> f64 {
    let Ok(time) = stream.time() else { return 0.0 };
    let rate = time.rate();
    let ticks = i32::try_from(time.delay()).unwrap_or(0);
    f64::from(ticks) * f64::from(rate.num) / f64::from(rate.denom.max(1))
}

/// The one format of a stream, in PipeWire's bytes.
fn format(sound: Sound) -> Result<Vec<u8>, pipewire::Error> {
    let mut info = AudioInfoRaw::new();
    info.set_format(AudioFormat::F32LE);
    info.set_rate(sound.rate.hertz());
    info.set_channels(u32::from(sound.channels.count()));
    let mut positions = [0; MAX_CHANNELS];
    let places: &[u32] = match sound.channels {
        Channels::Mono => &[spa::sys::SPA_AUDIO_CHANNEL_MONO],
        Channels::Stereo => &[
            spa::sys::SPA_AUDIO_CHANNEL_FL,
            spa::sys::SPA_AUDIO_CHANNEL_FR,
        ],
    };
    for (position, place) in positions.iter_mut().zip(places) {
        *position = *place;
    }
    info.set_position(positions);
    let object = Value::Object(Object {
        type_: SpaTypes::ObjectParamFormat.as_raw(),
        id: ParamType::EnumFormat.as_raw(),
        properties: info.into(),
    });
    let (cursor, _) = PodSerializer::serialize(std::io::Cursor::new(Vec::new()), &object)
        .map_err(|_| pipewire::Error::CreationFailed)?;
    Ok(cursor.into_inner())
}
