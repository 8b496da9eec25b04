//! A small app of the tests' own: plain colours, and a record of every event that it gets.

use std::{
    io::Write as _,
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::Path,
};

use wayland_client::{
    Connection, Dispatch, EventQueue, Proxy as _, QueueHandle, WEnum, delegate_noop,
    globals::{GlobalList, GlobalListContents, registry_queue_init},
    protocol::{
        wl_buffer::WlBuffer,
        wl_callback::{self, WlCallback},
        wl_compositor::WlCompositor,
        wl_keyboard::{self, WlKeyboard},
        wl_pointer::{self, WlPointer},
        wl_registry::{self, WlRegistry},
        wl_seat::WlSeat,
        wl_shm::{Format, WlShm},
        wl_shm_pool::WlShmPool,
        wl_subcompositor::WlSubcompositor,
        wl_subsurface::WlSubsurface,
        wl_surface::WlSurface,
    },
};
use wayland_protocols::{
    wp::viewporter::client::{wp_viewport::WpViewport, wp_viewporter::WpViewporter},
    xdg::shell::client::{
        xdg_popup::{self, XdgPopup},
        xdg_positioner::XdgPositioner,
        xdg_surface::{self, XdgSurface},
        xdg_toplevel::{self, XdgToplevel},
        xdg_wm_base::{self, XdgWmBase},
    },
};

/// What the app was told.
#[derive(Default)]
pub struct Events {
    /// Surfaces by number, and the serials they were configured with.
    pub configured: Vec<(u32, u32)>,
    pub toplevel_size: (i32, i32),
    pub tiled: bool,
    pub closed: bool,
    pub popup_places: Vec<(i32, i32, i32, i32)>,
    pub repositioned: Vec<u32>,
    pub popup_done: usize,
    pub frames: Vec<u32>,
    /// Surface under the pointer, and where on it.
    pub pointer: Option<(u32, f64, f64)>,
    pub presses: Vec<u32>,
    pub releases: usize,
    /// Surface with the keyboard.
    pub keyboard: Option<u32>,
}

/// A connected app.
pub struct App {
    connection: Connection,
    queue: EventQueue<Events>,
    handle: QueueHandle<Events>,
    globals: GlobalList,
    pub events: Events,
    compositor: WlCompositor,
    shm: WlShm,
    shell: XdgWmBase,
    pub seat: WlSeat,
}

/// A window of the app.
pub struct Window {
    pub surface: WlSurface,
    pub xdg: XdgSurface,
    pub toplevel: XdgToplevel,
}

impl App {
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        let connection = Connection::from_socket(stream).unwrap();
        let (globals, queue) = registry_queue_init::<Events>(&connection).unwrap();
        let handle = queue.handle();
        let compositor = globals.bind(&handle, 4..=6, ()).unwrap();
        let shm = globals.bind(&handle, 1..=1, ()).unwrap();
        let shell = globals.bind(&handle, 6..=6, ()).unwrap();
        let seat: WlSeat = globals.bind(&handle, 5..=7, ()).unwrap();
        seat.get_pointer(&handle, ());
        seat.get_keyboard(&handle, ());
        Self {
            connection,
            queue,
            handle,
            globals,
            events: Events::default(),
            compositor,
            shm,
            shell,
            seat,
        }
    }

    /// Sends what is queued and takes what has arrived, without waiting.
    pub fn pump(&mut self) {
        self.queue.flush().unwrap();
        if let Some(guard) = self.connection.prepare_read() {
            // Nothing to read is no failure; a protocol error shows up in the dispatch.
            let _ = guard.read();
        }
        self.queue.dispatch_pending(&mut self.events).unwrap();
        self.queue.flush().unwrap();
    }

    /// Waits until the program has seen all requests.
    pub fn roundtrip(&mut self) {
        self.queue.roundtrip(&mut self.events).unwrap();
    }

    pub fn surface(&self) -> WlSurface {
        self.compositor.create_surface(&self.handle, ())
    }

    /// A window that has asked for its first configure.
    pub fn window(&self, title: &str) -> Window {
        let surface = self.surface();
        let xdg = self
            .shell
            .get_xdg_surface(&surface, &self.handle, surface.id().protocol_id());
        let toplevel = xdg.get_toplevel(&self.handle, ());
        toplevel.set_title(title.to_owned());
        surface.commit();
        Window {
            surface,
            xdg,
            toplevel,
        }
    }

    pub fn positioner(&self) -> XdgPositioner {
        self.shell.create_positioner(&self.handle, ())
    }

    /// A popup that has asked for its first configure.
    pub fn popup(
        &self,
        parent: &XdgSurface,
        positioner: &XdgPositioner,
        grab: Option<u32>,
    ) -> (WlSurface, XdgPopup) {
        let surface = self.surface();
        let xdg = self
            .shell
            .get_xdg_surface(&surface, &self.handle, surface.id().protocol_id());
        let popup = xdg.get_popup(Some(parent), positioner, &self.handle, ());
        if let Some(serial) = grab {
            popup.grab(&self.seat, serial);
        }
        surface.commit();
        (surface, popup)
    }

    /// A child surface at a place, not synchronised with its parent.
    pub fn child(&self, parent: &WlSurface, x: i32, y: i32) -> WlSurface {
        let subcompositor: WlSubcompositor = self.globals.bind(&self.handle, 1..=1, ()).unwrap();
        let surface = self.surface();
        let child = subcompositor.get_subsurface(&surface, parent, &self.handle, ());
        child.set_position(x, y);
        child.set_desync();
        surface
    }

    pub fn scale_to(&self, surface: &WlSurface, width: i32, height: i32) {
        let viewporter: WpViewporter = self.globals.bind(&self.handle, 1..=1, ()).unwrap();
        viewporter
            .get_viewport(surface, &self.handle, ())
            .set_destination(width, height);
    }

    /// Attaches a plain colour with a frame of another, `edge` pixels wide, and damages all of it.
    pub fn paint(&self, surface: &WlSurface, size: (i32, i32), colour: u32, edge: (i32, u32)) {
        let mut file = tempfile::tempfile().unwrap();
        let (width, height) = size;
        for y in 0..height {
            for x in 0..width {
                let outer = x.min(y).min(width - 1 - x).min(height - 1 - y) < edge.0;
                let pixel = if outer { edge.1 } else { colour };
                file.write_all(&pixel.to_le_bytes()).unwrap();
            }
        }
        let pool = self
            .shm
            .create_pool(file.as_fd(), width * height * 4, &self.handle, ());
        let buffer = pool.create_buffer(
            0,
            width,
            height,
            width * 4,
            Format::Argb8888,
            &self.handle,
            (),
        );
        surface.attach(Some(&buffer), 0, 0);
        surface.damage_buffer(0, 0, width, height);
        pool.destroy();
    }

    pub fn ask_for_frame(&self, surface: &WlSurface) {
        surface.frame(&self.handle, ());
    }
}

/// The number by which [`Events`] know a surface.
pub fn number(surface: &WlSurface) -> u32 {
    surface.id().protocol_id()
}

impl Dispatch<WlRegistry, GlobalListContents> for Events {
    fn event(
        _: &mut Self,
        _: &WlRegistry,
        _: wl_registry::Event,
        _: &GlobalListContents,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
    }
}

impl Dispatch<XdgWmBase, ()> for Events {
    fn event(
        _: &mut Self,
        shell: &XdgWmBase,
        event: xdg_wm_base::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let xdg_wm_base::Event::Ping { serial } = event {
            shell.pong(serial);
        }
    }
}

impl Dispatch<XdgSurface, u32> for Events {
    fn event(
        events: &mut Self,
        xdg: &XdgSurface,
        event: xdg_surface::Event,
        surface: &u32,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let xdg_surface::Event::Configure { serial } = event {
            xdg.ack_configure(serial);
            events.configured.push((*surface, serial));
        }
    }
}

impl Dispatch<XdgToplevel, ()> for Events {
    fn event(
        events: &mut Self,
        _: &XdgToplevel,
        event: xdg_toplevel::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            xdg_toplevel::Event::Configure {
                width,
                height,
                states,
            } => {
                events.toplevel_size = (width, height);
                let tiled_left = u32::from(xdg_toplevel::State::TiledLeft);
                events.tiled = states
                    .chunks_exact(4)
                    .any(|state| state == tiled_left.to_ne_bytes());
            }
            xdg_toplevel::Event::Close => events.closed = true,
            _ => {}
        }
    }
}

impl Dispatch<XdgPopup, ()> for Events {
    fn event(
        events: &mut Self,
        _: &XdgPopup,
        event: xdg_popup::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            xdg_popup::Event::Configure {
                x,
                y,
                width,
                height,
            } => events.popup_places.push((x, y, width, height)),
            xdg_popup::Event::Repositioned { token } => events.repositioned.push(token),
            xdg_popup::Event::PopupDone => events.popup_done += 1,
            _ => {}
        }
    }
}

impl Dispatch<WlCallback, ()> for Events {
    fn event(
        events: &mut Self,
        _: &WlCallback,
        event: wl_callback::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_callback::Event::Done { callback_data } = event {
            events.frames.push(callback_data);
        }
    }
}

impl Dispatch<WlPointer, ()> for Events {
    fn event(
        events: &mut Self,
        _: &WlPointer,
        event: wl_pointer::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            wl_pointer::Event::Enter {
                surface,
                surface_x,
                surface_y,
                ..
            } => events.pointer = Some((number(&surface), surface_x, surface_y)),
            wl_pointer::Event::Motion {
                surface_x,
                surface_y,
                ..
            } => {
                if let Some((_, x, y)) = &mut events.pointer {
                    (*x, *y) = (surface_x, surface_y);
                }
            }
            wl_pointer::Event::Leave { .. } => events.pointer = None,
            wl_pointer::Event::Button { serial, state, .. } => match state {
                WEnum::Value(wl_pointer::ButtonState::Pressed) => events.presses.push(serial),
                _ => events.releases += 1,
            },
            _ => {}
        }
    }
}

impl Dispatch<WlKeyboard, ()> for Events {
    fn event(
        events: &mut Self,
        _: &WlKeyboard,
        event: wl_keyboard::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            wl_keyboard::Event::Enter { surface, .. } => events.keyboard = Some(number(&surface)),
            wl_keyboard::Event::Leave { .. } => events.keyboard = None,
            _ => {}
        }
    }
}

delegate_noop!(Events: ignore WlBuffer);
delegate_noop!(Events: WlCompositor);
delegate_noop!(Events: ignore WlSeat);
delegate_noop!(Events: ignore WlShm);
delegate_noop!(Events: WlShmPool);
delegate_noop!(Events: WlSubcompositor);
delegate_noop!(Events: WlSubsurface);
delegate_noop!(Events: ignore WlSurface);
delegate_noop!(Events: WpViewport);
delegate_noop!(Events: WpViewporter);
delegate_noop!(Events: XdgPositioner);
