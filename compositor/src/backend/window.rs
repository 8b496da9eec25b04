//! A window inside an existing Wayland or X11 desktop.

use std::{num::NonZeroU32, os::fd::AsFd, rc::Rc, time::Duration};

use anyhow::Context as _;
use smithay::reexports::calloop::{
    Interest, LoopHandle, Mode, PostAction,
    generic::Generic,
    timer::{TimeoutAction, Timer},
};
use winit::{
    application::ApplicationHandler,
    dpi::PhysicalSize,
    event::{ElementState, MouseButton, MouseScrollDelta, WindowEvent},
    event_loop::{ActiveEventLoop, EventLoop},
    platform::{
        pump_events::{EventLoopExtPumpEvents, PumpStatus},
        scancode::PhysicalKeyExtScancode,
    },
    window::{Window, WindowId},
};

use super::{Backend, REFRESH_MHZ, Started, pacing::presented_after_refresh};
use crate::{
    geometry::{Rect, Size},
    input::{InputEvent, keys},
    run::App,
    scene::Frame,
};

/// How often the desktop's events are looked for at the latest; they usually wake the loop by themselves.
const PUMP: Duration = Duration::from_millis(50);

/// How long to wait for the desktop to open the window.
const OPEN: Duration = Duration::from_secs(5);

type Surface = softbuffer::Surface<Rc<Window>, Rc<Window>>;

/// What the desktop reported.
#[derive(Debug)]
enum News {
    Input(InputEvent),
    Resized(Size),
    Repaint,
    Closed,
}

/// Collects what the desktop reports.
struct Collector {
    wanted: Size,
    window: Option<Rc<Window>>,
    failed: Option<winit::error::OsError>,
    news: Vec<News>,
}

/// The window and its buffer.
struct Nested {
    window: Rc<Window>,
    surface: Surface,
    handle: LoopHandle<'static, App>,
}

impl std::fmt::Debug for Nested {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nested")
            .field("window", &self.window.id())
            .finish_non_exhaustive()
    }
}

pub(super) fn start(size: Size, handle: &LoopHandle<'static, App>) -> anyhow::Result<Started> {
    let mut events = EventLoop::new().context("no desktop to open a window on")?;
    let mut collector = Collector {
        wanted: size,
        window: None,
        failed: None,
        news: Vec::new(),
    };
    let begun = std::time::Instant::now();
    let window = loop {
        events.pump_app_events(Some(PUMP), &mut collector);
        if let Some(error) = collector.failed.take() {
            return Err(error).context("the desktop refused a window");
        }
        if let Some(window) = collector.window.clone() {
            break window;
        }
        anyhow::ensure!(begun.elapsed() < OPEN, "the desktop opened no window");
    };
    let refused = |error: softbuffer::SoftBufferError| anyhow::anyhow!("no pixels: {error}");
    let context = softbuffer::Context::new(Rc::clone(&window)).map_err(refused)?;
    let surface = Surface::new(&context, Rc::clone(&window)).map_err(refused)?;
    let fd = events.as_fd().try_clone_to_owned()?;
    let shared = Rc::new(std::cell::RefCell::new((events, collector)));
    let by_fd = Rc::clone(&shared);
    handle
        .insert_source(
            Generic::new(fd, Interest::READ, Mode::Level),
            move |_, _, app| {
                pump(&mut by_fd.borrow_mut(), app);
                Ok(PostAction::Continue)
            },
        )
        .map_err(|error| anyhow::anyhow!("cannot watch the desktop: {error}"))?;
    handle
        .insert_source(Timer::from_duration(PUMP), move |_, (), app| {
            pump(&mut shared.borrow_mut(), app);
            TimeoutAction::ToDuration(PUMP)
        })
        .map_err(|error| anyhow::anyhow!("cannot watch the desktop: {error}"))?;
    let inner = window.inner_size();
    let size = to_size(inner).filter(|_| inner.width > 0).unwrap_or(size);
    Ok(Started {
        backend: Box::new(Nested {
            window,
            surface,
            handle: handle.clone(),
        }),
        size,
        refresh_mhz: REFRESH_MHZ,
    })
}

fn pump((events, collector): &mut (EventLoop<()>, Collector), app: &mut App) {
    let status = events.pump_app_events(Some(Duration::ZERO), collector);
    if matches!(status, PumpStatus::Exit(_)) {
        app.stop();
    }
    for news in collector.news.drain(..) {
        match news {
            News::Input(event) => app.input(event),
            News::Resized(size) => app.resized(size),
            News::Repaint => app.repaint(),
            News::Closed => app.stop(),
        }
    }
}

fn to_size(size: PhysicalSize<u32>) -> Option<Size> {
    Some(Size::new(
        i32::try_from(size.width.min(8192)).ok()?,
        i32::try_from(size.height.min(8192)).ok()?,
    ))
}

impl Backend for Nested {
    fn show(&mut self, frame: &Frame, damage: &[Rect]) -> anyhow::Result<()> {
        let refused = |error: softbuffer::SoftBufferError| anyhow::anyhow!("no pixels: {error}");
        let (width, height) = frame.size.to_wire();
        let (Some(width), Some(height)) = (NonZeroU32::new(width), NonZeroU32::new(height)) else {
            anyhow::bail!("an empty frame");
        };
        self.surface.resize(width, height).map_err(refused)?;
        let mut buffer = self.surface.buffer_mut().map_err(refused)?;
        // The buffer may be any earlier one: everything is copied, only the damage is announced.
        for (to, from) in buffer.iter_mut().zip(frame.pixels.chunks_exact(4)) {
            if let &[blue, green, red, _] = from {
                *to = u32::from_le_bytes([blue, green, red, 0]);
            }
        }
        let damage: Vec<softbuffer::Rect> = damage.iter().filter_map(to_damage).collect();
        self.window.pre_present_notify();
        buffer.present_with_damage(&damage).map_err(refused)?;
        presented_after_refresh(&self.handle);
        Ok(())
    }

    fn idle_frame(&mut self) {
        presented_after_refresh(&self.handle);
    }
}

fn to_damage(rect: &Rect) -> Option<softbuffer::Rect> {
    let (width, height) = rect.size().to_wire();
    Some(softbuffer::Rect {
        x: u32::try_from(rect.x).ok()?,
        y: u32::try_from(rect.y).ok()?,
        width: NonZeroU32::new(width)?,
        height: NonZeroU32::new(height)?,
    })
}

impl ApplicationHandler for Collector {
    fn resumed(&mut self, events: &ActiveEventLoop) {
        if self.window.is_some() {
            return;
        }
        let (width, height) = self.wanted.to_wire();
        let attributes = Window::default_attributes()
            .with_title("Casemate")
            .with_inner_size(PhysicalSize::new(width, height));
        match events.create_window(attributes) {
            Ok(window) => {
                // Ours is drawn in the frame.
                window.set_cursor_visible(false);
                self.window = Some(Rc::new(window));
            }
            Err(error) => self.failed = Some(error),
        }
    }

    fn window_event(&mut self, _: &ActiveEventLoop, _: WindowId, event: WindowEvent) {
        let news = match event {
            WindowEvent::CloseRequested => Some(News::Closed),
            WindowEvent::Resized(size) => to_size(size)
                .filter(|size| size.w >= 320 && size.h >= 200)
                .map(News::Resized),
            WindowEvent::RedrawRequested => Some(News::Repaint),
            WindowEvent::Focused(false) => Some(News::Input(InputEvent::Lost)),
            WindowEvent::KeyboardInput { event, .. } if !event.repeat => event
                .physical_key
                .to_scancode()
                .and_then(|code| u16::try_from(code).ok())
                .map(|code| {
                    News::Input(InputEvent::Key {
                        code,
                        pressed: event.state == ElementState::Pressed,
                    })
                }),
            WindowEvent::CursorMoved { position, .. } => Some(News::Input(InputEvent::MotionTo {
                x: position.x,
                y: position.y,
            })),
            WindowEvent::MouseInput { state, button, .. } => button_code(button).map(|code| {
                News::Input(InputEvent::Button {
                    code,
                    pressed: state == ElementState::Pressed,
                })
            }),
            WindowEvent::MouseWheel { delta, .. } => Some(News::Input(axis(delta))),
            _ => None,
        };
        self.news.extend(news);
    }
}

fn button_code(button: MouseButton) -> Option<u16> {
    match button {
        MouseButton::Left => Some(keys::BUTTON_LEFT),
        MouseButton::Right => Some(keys::BUTTON_RIGHT),
        MouseButton::Middle => Some(0x112),
        MouseButton::Back => Some(0x113),
        MouseButton::Forward => Some(0x114),
        MouseButton::Other(_) => None,
    }
}

fn axis(delta: MouseScrollDelta) -> InputEvent {
    match delta {
        MouseScrollDelta::LineDelta(x, y) => {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "wheel clicks are small; the cast saturates"
            )]
            let clicks = |lines: f32| (-lines * 120.0) as i32;
            InputEvent::Axis {
                x: f64::from(-x) * 15.0,
                y: f64::from(-y) * 15.0,
                x120: clicks(x),
                y120: clicks(y),
            }
        }
        MouseScrollDelta::PixelDelta(pixels) => InputEvent::Axis {
            x: -pixels.x,
            y: -pixels.y,
            x120: 0,
            y120: 0,
        },
    }
}
