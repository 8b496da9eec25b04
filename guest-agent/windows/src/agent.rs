//! The program's state and its one loop: apps on one side, the host on the other, and between two waits
//! everything that follows from what either said.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use casemate_window_wire::{CursorShape, WindowId};
use smithay::reexports::wayland_protocols::xdg::shell::server::xdg_toplevel::WmCapabilities;
use smithay::{
    backend::renderer::pixman::PixmanRenderer,
    input::{Seat, SeatState},
    output::{Mode, Output, PhysicalProperties, Scale, Subpixel},
    reexports::{
        calloop::{
            EventLoop, Interest, LoopHandle, Mode as TriggerMode, PostAction, generic::Generic,
        },
        wayland_server::{Display, DisplayHandle, protocol::wl_shm},
    },
    utils::Transform,
    wayland::{
        compositor::CompositorState,
        cursor_shape::CursorShapeManagerState,
        fractional_scale::FractionalScaleManagerState,
        output::OutputManagerState,
        presentation::PresentationState,
        selection::{data_device::DataDeviceState, primary_selection::PrimarySelectionState},
        shell::xdg::{XdgShellState, decoration::XdgDecorationState},
        shm::ShmState,
        single_pixel_buffer::SinglePixelBufferState,
        socket::ListeningSocketSource,
        viewporter::ViewporterState,
        xdg_activation::XdgActivationState,
    },
};

use crate::{
    device,
    handlers::ClientState,
    link::{Backoff, Connection, HostAddress},
    memory::WindowMemory,
    notify,
    options::Options,
    pointer::PointerPlace,
    serials::Serials,
    window::Windows,
};

/// `CLOCK_MONOTONIC`, the clock of presentation times.
const MONOTONIC: u32 = 1;

/// Everything.
pub(crate) struct Agent {
    pub(crate) display: DisplayHandle,
    pub(crate) events: LoopHandle<'static, Self>,
    pub(crate) protocols: Protocols,
    pub(crate) seat: Seat<Self>,
    pub(crate) output: Output,
    pub(crate) renderer: PixmanRenderer,
    pub(crate) memory: WindowMemory,
    pub(crate) windows: Windows,
    pub(crate) address: HostAddress,
    pub(crate) connection: Option<Connection>,
    pub(crate) backoff: Backoff,
    /// The window that the host gave the keyboard to.
    pub(crate) keyboard_at: Option<WindowId>,
    pub(crate) pointer_at: Option<PointerPlace>,
    pub(crate) buttons_down: Vec<u32>,
    pub(crate) cursor: CursorShape,
    pub(crate) serials: Serials,
    pub(crate) started: Instant,
    /// Frames presented, for the counter of presentation times.
    pub(crate) presented: u64,
}

/// State of the Wayland protocols; also keeps their globals offered.
pub(crate) struct Protocols {
    pub(crate) compositor: CompositorState,
    pub(crate) xdg_shell: XdgShellState,
    pub(crate) shm: ShmState,
    pub(crate) seat: SeatState<Agent>,
    pub(crate) data_device: DataDeviceState,
    pub(crate) primary_selection: PrimarySelectionState,
    pub(crate) activation: XdgActivationState,
    _output: OutputManagerState,
    _decoration: XdgDecorationState,
    _viewporter: ViewporterState,
    _fractional_scale: FractionalScaleManagerState,
    _single_pixel: SinglePixelBufferState,
    _cursor_shape: CursorShapeManagerState,
    _presentation: PresentationState,
}

impl Protocols {
    fn new(display: &DisplayHandle) -> Self {
        let formats = [wl_shm::Format::Abgr8888, wl_shm::Format::Xbgr8888];
        let capabilities = [
            WmCapabilities::Maximize,
            WmCapabilities::Minimize,
            WmCapabilities::Fullscreen,
        ];
        Self {
            compositor: CompositorState::new_v6::<Agent>(display),
            xdg_shell: XdgShellState::new_with_capabilities::<Agent>(display, capabilities),
            shm: ShmState::new::<Agent>(display, formats),
            seat: SeatState::new(),
            data_device: DataDeviceState::new::<Agent>(display),
            primary_selection: PrimarySelectionState::new::<Agent>(display),
            activation: XdgActivationState::new::<Agent>(display),
            _output: OutputManagerState::new_with_xdg_output::<Agent>(display),
            _decoration: XdgDecorationState::new::<Agent>(display),
            _viewporter: ViewporterState::new::<Agent>(display),
            _fractional_scale: FractionalScaleManagerState::new::<Agent>(display),
            _single_pixel: SinglePixelBufferState::new::<Agent>(display),
            _cursor_shape: CursorShapeManagerState::new::<Agent>(display),
            _presentation: PresentationState::new::<Agent>(display, MONOTONIC),
        }
    }
}

/// Serves apps until the program is stopped.
///
/// # Errors
/// When the window memory or the Wayland socket cannot be had, or the event loop fails. Never because of an app
/// or of the host: those are cut off or waited for.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let memory = device::open(&options.memory)?;
    let mut events = EventLoop::<Agent>::try_new().context("cannot make an event loop")?;
    let mut display = Display::<Agent>::new().context("cannot make a Wayland display")?;
    listen(&events.handle(), &options.socket)?;
    watch(&events.handle(), &mut display)?;
    let mut agent = Agent::new(
        display.handle(),
        events.handle(),
        memory,
        HostAddress::new(options),
    )?;
    if let Err(error) = notify::ready() {
        tracing::warn!(%error, "cannot tell the service manager that this is ready");
    }
    tracing::info!(socket = options.socket, "serving apps");
    loop {
        agent.settle();
        display.flush_clients().context("cannot write to apps")?;
        let wait = agent.next_deadline(Instant::now());
        events
            .dispatch(wait, &mut agent)
            .context("the event loop failed")?;
        display
            .dispatch_clients(&mut agent)
            .context("cannot read from apps")?;
    }
}

fn listen(events: &LoopHandle<'static, Agent>, name: &str) -> anyhow::Result<()> {
    let socket = ListeningSocketSource::with_name(name)
        .with_context(|| format!("cannot make the Wayland socket {name} in XDG_RUNTIME_DIR"))?;
    let accept = |stream, _: &mut (), agent: &mut Agent| {
        let state = Arc::new(ClientState::default());
        if let Err(error) = agent.display.insert_client(stream, state) {
            tracing::warn!(%error, "cannot serve an app");
        }
    };
    events
        .insert_source(socket, accept)
        .map_err(|error| error.error)
        .context("cannot watch the Wayland socket")?;
    Ok(())
}

/// Wakes the loop when apps have written; the loop itself then reads.
fn watch(events: &LoopHandle<'static, Agent>, display: &mut Display<Agent>) -> anyhow::Result<()> {
    let descriptor = display
        .backend()
        .poll_fd()
        .try_clone_to_owned()
        .context("cannot watch apps")?;
    let source = Generic::new(descriptor, Interest::READ, TriggerMode::Level);
    events
        .insert_source(source, |_, _, _| Ok(PostAction::Continue))
        .map_err(|error| error.error)
        .context("cannot watch apps")?;
    Ok(())
}

impl Agent {
    fn new(
        display: DisplayHandle,
        events: LoopHandle<'static, Self>,
        memory: WindowMemory,
        address: HostAddress,
    ) -> anyhow::Result<Self> {
        let now = Instant::now();
        let mut protocols = Protocols::new(&display);
        let mut seat = protocols.seat.new_wl_seat(&display, "seat0");
        // Until the host sends its own keymap; the repeat values are replaced with it.
        seat.add_keyboard(Default::default(), 400, 30)
            .context("cannot compile a keyboard map; is xkb-data installed?")?;
        seat.add_pointer();
        let physical = PhysicalProperties {
            size: (0, 0).into(),
            subpixel: Subpixel::Unknown,
            make: "Casemate".to_owned(),
            model: "virtual output".to_owned(),
        };
        let output = Output::new("casemate-0".to_owned(), physical);
        output.create_global::<Self>(&display);
        let agent = Self {
            display,
            events,
            protocols,
            seat,
            output,
            renderer: PixmanRenderer::new().context("cannot set up pixman")?,
            memory,
            windows: Windows::default(),
            address,
            connection: None,
            backoff: Backoff::new(now),
            keyboard_at: None,
            pointer_at: None,
            buttons_down: Vec::new(),
            cursor: CursorShape::Default,
            serials: Serials::default(),
            started: now,
            presented: 0,
        };
        agent.set_output(1280, 800, 60_000);
        Ok(agent)
    }

    /// What apps see as their screen. Scale is always 1: the host scales.
    pub(crate) fn set_output(&self, width: i32, height: i32, refresh: i32) {
        let mode = Mode {
            size: (width, height).into(),
            refresh,
        };
        let old = self.output.current_mode();
        self.output.change_current_state(
            Some(mode),
            Some(Transform::Normal),
            Some(Scale::Integer(1)),
            Some((0, 0).into()),
        );
        self.output.set_preferred(mode);
        if let Some(old) = old.filter(|old| *old != mode) {
            self.output.delete_mode(old);
        }
    }

    /// Everything that follows from what apps and the host have said.
    fn settle(&mut self) {
        let now = Instant::now();
        self.keep_connected(now);
        self.announce_windows();
        self.present_windows(now);
        self.settle_keyboard();
        self.send_due_frames(now);
        self.flush();
    }

    fn next_deadline(&self, now: Instant) -> Option<Duration> {
        let frames = self
            .windows
            .iter()
            .filter_map(|(_, window)| window.frame_due);
        let asks = self
            .windows
            .iter()
            .filter_map(|(_, window)| window.host.ask_again);
        let connect = self.connection.is_none().then(|| self.backoff.next());
        let deadline = frames.chain(asks).chain(connect).min()?;
        Some(deadline.saturating_duration_since(now))
    }
}
