//! The event loop: streams, bus, backend and clock around one [`Desktop`].

use std::{
    collections::HashMap,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt as _},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use smithay::reexports::calloop::{
    EventLoop, Interest, LoopHandle, Mode, PostAction, RegistrationToken,
    channel::{self, Event as ChannelEvent},
    generic::Generic,
};

use crate::{
    args::Args,
    backend::{self, Backend},
    bus::{self, Request},
    desktop::{Desktop, Outside, Purpose},
    geometry::{Point, Rect, Size},
    input::{InputEvent, Keyboard},
    words::{Time, VmKey},
};

/// A frame whose end is not reported for this long is taken as shown: a driver must not freeze the screen.
const LOST_FRAME: Duration = Duration::from_secs(2);

/// What the event loop passes to every source.
#[derive(Debug)]
pub(crate) struct App {
    desktop: Desktop,
    backend: Box<dyn Backend>,
    handle: LoopHandle<'static, App>,
    watched: HashMap<(VmKey, Purpose), RegistrationToken>,
    begun: Instant,
    /// Since when a frame is on its way to the screen.
    showing: Option<Time>,
    repaint: bool,
    /// The last frame was refused; said once.
    refused: bool,
    stop: bool,
}

/// Runs until told to stop.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&args.runtime)
        .with_context(|| format!("cannot make {}", args.runtime.display()))?;
    let mut events: EventLoop<'static, App> =
        EventLoop::try_new().context("cannot make an event loop")?;
    let handle = events.handle();
    let started = backend::start(args, &handle)?;
    tracing::info!(
        width = started.size.w,
        height = started.size.h,
        backend = ?started.backend,
        "started"
    );
    let mut app = App {
        desktop: Desktop::new(started.size, started.refresh_mhz, Keyboard::new()?)?,
        backend: started.backend,
        handle: handle.clone(),
        watched: HashMap::new(),
        begun: Instant::now(),
        showing: None,
        repaint: false,
        refused: false,
        stop: false,
    };
    let (sender, receiver) = channel::channel();
    handle
        .insert_source(receiver, |event, (), app| match event {
            ChannelEvent::Msg(request) => app.request(request),
            ChannelEvent::Closed => app.stop(),
        })
        .map_err(|error| anyhow::anyhow!("cannot watch the bus: {error}"))?;
    let _bus = bus::serve(&args.runtime, sender).context("cannot serve the bus")?;
    while !app.stop {
        let timeout = app.turn()?;
        events
            .dispatch(timeout, &mut app)
            .context("the event loop failed")?;
    }
    Ok(())
}

impl App {
    fn now(&self) -> Time {
        self.begun.elapsed()
    }

    /// One round: everything due, then a frame. Answers how long the loop may sleep.
    fn turn(&mut self) -> anyhow::Result<Option<Duration>> {
        let now = self.now();
        let due = self.desktop.service(now);
        self.do_outside();
        let wanted = self.repaint || self.desktop.has_damage() || self.desktop.dirty(now);
        if self
            .showing
            .is_some_and(|since| now.saturating_sub(since) >= LOST_FRAME)
        {
            tracing::warn!("the screen did not report a frame as shown, going on");
            self.showing = None;
            self.repaint = true;
        }
        if wanted && self.showing.is_none() && self.backend.active() {
            self.draw(now)?;
        }
        let lost = self.showing.map(|since| since + LOST_FRAME);
        let next = [due, lost].into_iter().flatten().min();
        Ok(next.map(|next| next.saturating_sub(self.now())))
    }

    fn draw(&mut self, now: Time) -> anyhow::Result<()> {
        self.desktop.compose(now)?;
        let repaint = std::mem::take(&mut self.repaint);
        self.showing = Some(now);
        if !self.desktop.has_damage() && !repaint {
            self.backend.idle_frame();
            return Ok(());
        }
        let (frame, mut damage) = self.desktop.take_frame();
        if repaint {
            damage = vec![Rect::new(Point::default(), frame.size)];
        }
        match self.backend.show(frame, &damage) {
            Ok(()) => self.refused = false,
            // Happens while a terminal is switched away; the whole screen is drawn when it comes back.
            Err(error) => {
                if !std::mem::replace(&mut self.refused, true) {
                    tracing::warn!("frames are not shown: {error:#}");
                }
                self.repaint = true;
                self.backend.idle_frame();
            }
        }
        Ok(())
    }

    /// The backend has shown the frame.
    pub(crate) fn presented(&mut self) {
        self.showing = None;
        let now = self.now();
        self.desktop.presented(now);
    }

    pub(crate) fn input(&mut self, event: InputEvent) {
        let now = self.now();
        self.desktop.input(event, now);
    }

    pub(crate) fn output(&self) -> Size {
        self.desktop.frame().size
    }

    pub(crate) fn resized(&mut self, size: Size) {
        if size == self.output() {
            return;
        }
        if let Err(error) = self.desktop.set_output(size) {
            tracing::error!(%error, "cannot change the output's size");
        }
    }

    /// What the screen shows is lost.
    pub(crate) fn repaint(&mut self) {
        self.repaint = true;
    }

    /// The seat was taken away or given back.
    pub(crate) fn seat_changed(&mut self, active: bool) {
        tracing::info!(active, "seat");
        self.input(InputEvent::Lost);
        if let Err(error) = self.backend.set_active(active) {
            tracing::error!("seat: {error:#}");
        }
        // A flip that was under way when the seat went is never reported.
        self.showing = None;
        self.repaint = active;
    }

    pub(crate) fn stop(&mut self) {
        self.stop = true;
    }

    fn do_outside(&mut self) {
        for outside in self.desktop.take_outside() {
            match outside {
                Outside::Watch { vm, purpose, fd } => {
                    self.unwatch(vm, purpose);
                    self.watch(vm, purpose, fd);
                }
                Outside::Unwatch { vm, purpose } => self.unwatch(vm, purpose),
                Outside::SwitchTerminal(terminal) => self.backend.switch_terminal(terminal),
            }
        }
    }

    fn watch(&mut self, vm: VmKey, purpose: Purpose, fd: OwnedFd) {
        // Edge-triggered, both ways: a wake-up says "try again", whichever direction waited.
        let source = Generic::new(fd, Interest::BOTH, Mode::Edge);
        let token = self.handle.insert_source(source, move |_, _, app| {
            app.desktop.wake(vm, purpose);
            Ok(PostAction::Continue)
        });
        match token {
            Ok(token) => {
                self.watched.insert((vm, purpose), token);
            }
            Err(error) => tracing::error!(%error, "cannot watch a VM"),
        }
    }

    fn unwatch(&mut self, vm: VmKey, purpose: Purpose) {
        if let Some(token) = self.watched.remove(&(vm, purpose)) {
            self.handle.remove(token);
        }
    }

    /// A call from the bus. A caller that has gone away needs no reply.
    fn request(&mut self, request: Request) {
        let now = self.now();
        match request {
            Request::Attach {
                name,
                label,
                link,
                memory,
                reply,
            } => {
                let result = self.desktop.attach(name, label, link, memory, now);
                let _gone = reply.send(result.map(|_| ()));
            }
            Request::Detach { name, reply } => {
                let _gone = reply.send(self.desktop.detach(&name));
            }
            Request::Attached { reply } => {
                let _gone = reply.send(self.desktop.attached());
            }
            Request::Ask {
                question,
                queued,
                answer,
            } => {
                let _gone = queued.send(self.desktop.ask(question, answer, now));
            }
            Request::AskerGone => {}
            Request::Notify { notice, reply } => {
                self.desktop.notify(&notice, now);
                let _gone = reply.send(());
            }
            Request::Windows { reply } => {
                let _gone = reply.send(self.desktop.list());
            }
            Request::Screenshot { reply } => {
                // Everything up to this call is in the picture, whether or not a refresh has passed.
                if self.desktop.dirty(now)
                    && let Err(error) = self.desktop.compose(now)
                {
                    tracing::error!(%error, "cannot compose a screenshot");
                }
                let _gone = reply.send(self.desktop.frame().clone());
            }
            Request::Inject { event, reply } => {
                let accepted = self.backend.takes_injected_input();
                if accepted {
                    self.desktop.input(event, now);
                }
                let _gone = reply.send(accepted);
            }
        }
    }
}
