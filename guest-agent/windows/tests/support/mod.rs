//! A stand-in for the host's compositor: one socket, one memory file, the rules of the wire, and no screen. It
//! runs the real program and real apps, and refuses what the real host would refuse.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses its own part of this module"
)]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed step is a failed test; a skipped one says so"
)]

pub mod client;
mod pixels;
mod rules;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Write as _},
    os::unix::{
        fs::FileExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use casemate_window_wire::{
    Commit, Decoder, Message as _, OutputInfo, Position, Request, SlotGrant, ToGuest, ToHost,
    Window, WindowId, limits::VERSION,
};
pub use pixels::Picture;

/// Long enough for a slow machine; no test waits this long when it passes.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long one read waits, so that the test's own app gets its turn.
const READ_WAIT: Duration = Duration::from_millis(5);
/// Length of the window memory: room for a few windows.
const MEMORY: u64 = 64 * 1024 * 1024;

/// Keymap of the tests, by name, so that it needs no file of ours.
pub const KEYMAP: &str = r#"xkb_keymap {
    xkb_keycodes { include "evdev+aliases(qwerty)" };
    xkb_types { include "complete" };
    xkb_compat { include "complete" };
    xkb_symbols { include "pc+us+inet(evdev)" };
};"#;

/// What the host knows of a window.
pub struct Seen {
    pub window: Window,
    pub position: Option<Position>,
    pub grant: Option<SlotGrant>,
    pub commits: Vec<Commit>,
    pub shown: bool,
    /// Content as of the last commit.
    pub picture: Picture,
    /// Serial of the last configure or placement.
    pub serial: u32,
}

/// The host.
pub struct Host {
    directory: tempfile::TempDir,
    listener: UnixListener,
    stream: Option<UnixStream>,
    decoder: Decoder<ToHost>,
    memory: File,
    next_offset: u64,
    next_serial: u32,
    program: Child,
    apps: Vec<Child>,
    pub windows: BTreeMap<WindowId, Seen>,
    pub gone: Vec<WindowId>,
    pub requests: Vec<(WindowId, Request, u32)>,
    pub cursors: Vec<casemate_window_wire::CursorShape>,
    /// Size wished for new toplevels; zero leaves it to the app.
    pub wished: (u32, u32),
    /// Whether commits are answered with a call for the next frame.
    pub frames: bool,
    /// Whether commits are answered with a release of the slot.
    pub releases: bool,
    pub pongs: Vec<u32>,
}

impl Host {
    /// Starts the program and waits until it has introduced itself.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let memory_path = directory.path().join("memory");
        let memory = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&memory_path)
            .unwrap();
        memory.set_len(MEMORY).unwrap();
        let socket = directory.path().join("host");
        let listener = UnixListener::bind(&socket).unwrap();
        let program = Command::new(env!("CARGO_BIN_EXE_casemate-windows"))
            .arg("--connect")
            .arg(&socket)
            .arg("--memory")
            .arg(&memory_path)
            .env("XDG_RUNTIME_DIR", directory.path())
            .env_remove("NOTIFY_SOCKET")
            .spawn()
            .unwrap();
        let mut host = Self {
            directory,
            listener,
            stream: None,
            decoder: Decoder::default(),
            memory,
            next_offset: 0,
            next_serial: 1000,
            program,
            apps: Vec::new(),
            windows: BTreeMap::new(),
            gone: Vec::new(),
            requests: Vec::new(),
            cursors: Vec::new(),
            wished: (0, 0),
            frames: true,
            releases: true,
            pongs: Vec::new(),
        };
        host.accept();
        host
    }

    /// Takes the program's next connection.
    pub fn accept(&mut self) {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(READ_WAIT)).unwrap();
        self.stream = Some(stream);
        self.decoder = Decoder::default();
        self.windows.clear();
        self.next_offset = 0;
    }

    /// Ends the connection, as a host that restarts would.
    pub fn hang_up(&mut self) {
        self.stream = None;
    }

    pub fn runtime_directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A command for an app of this VM.
    pub fn app(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("XDG_RUNTIME_DIR", self.directory.path())
            .env("XDG_CONFIG_HOME", self.directory.path())
            .env("WAYLAND_DISPLAY", "wayland-0")
            .env("GDK_BACKEND", "wayland")
            .env("GSK_RENDERER", "cairo")
            .env("GTK_A11Y", "none")
            .env("LC_ALL", "C.UTF-8")
            .env_remove("DISPLAY")
            .env_remove("DBUS_SESSION_BUS_ADDRESS");
        command
    }

    /// Starts an app, or says why not and returns `false`.
    pub fn launch(&mut self, command: &mut Command) -> bool {
        match command.spawn() {
            Ok(child) => {
                self.apps.push(child);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                println!("skipped: {:?} is not installed", command.get_program());
                false
            }
            Err(error) => panic!("{:?}: {error}", command.get_program()),
        }
    }

    /// Panics if an app has ended.
    pub fn assert_apps_live(&mut self) {
        for app in &mut self.apps {
            assert_eq!(app.try_wait().unwrap(), None, "an app has ended");
        }
    }

    pub fn send(&mut self, message: &ToGuest) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes).unwrap();
        self.send_bytes(&bytes);
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        match self.stream.as_mut().unwrap().write_all(bytes) {
            Ok(()) => {}
            // The program has hung up; reading will say so.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => panic!("{error}"),
        }
    }

    pub fn serial(&mut self) -> u32 {
        self.next_serial += 1;
        self.next_serial
    }

    /// Carries out what arrives until `done`.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "still waiting for: {what}");
            self.pump();
        }
    }

    /// Waits until the program has given the connection up.
    pub fn until_dropped(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.pump() {
            assert!(Instant::now() < deadline, "the connection is still there");
        }
    }

    /// The same while an app of the test's own takes part.
    pub fn with(
        &mut self,
        app: &mut client::App,
        what: &str,
        mut done: impl FnMut(&Self, &client::Events) -> bool,
    ) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            app.pump();
            if done(self, &app.events) {
                return;
            }
            assert!(Instant::now() < deadline, "still waiting for: {what}");
            self.pump();
        }
    }

    /// Reads once; `false` at the end of the stream.
    fn pump(&mut self) -> bool {
        assert_eq!(self.program.try_wait().unwrap(), None, "the program ended");
        let mut buffer = [0; 4096];
        let len = match self.stream.as_mut().unwrap().read(&mut buffer) {
            Ok(0) => return false,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return false,
            Err(error) => panic!("{error}"),
        };
        self.decoder.feed(&buffer[..len]);
        while let Some(message) = self.decoder.take().unwrap() {
            self.obey(message);
        }
        true
    }

    fn obey(&mut self, message: ToHost) {
        match message {
            ToHost::Hello { oldest, newest, .. } => {
                assert!((oldest..=newest).contains(&VERSION));
                self.welcome();
            }
            ToHost::Window(window) => self.window(window),
            ToHost::Position(position) => self.position(position),
            ToHost::BufferRequest {
                id,
                width,
                height,
                count,
                ..
            } => self.grant(id, width, height, count),
            ToHost::Commit(commit) => self.commit(commit),
            ToHost::Unmap { id } => self.known(id).shown = false,
            ToHost::Destroy { id } => {
                assert!(self.windows.remove(&id).is_some(), "destroyed {id:?} twice");
                self.gone.push(id);
            }
            ToHost::Cursor { shape } => self.cursors.push(shape),
            ToHost::Request { id, what, serial } => {
                self.known(id);
                self.requests.push((id, what, serial));
            }
            ToHost::Pong { nonce } => self.pongs.push(nonce),
        }
    }

    fn welcome(&mut self) {
        self.send(&ToGuest::Welcome {
            version: VERSION,
            memory: MEMORY,
        });
        self.send(&ToGuest::Output(OutputInfo {
            width: 1920,
            height: 1056,
            scale_120: 120,
            refresh_mhz: 60_000,
        }));
        self.send(&ToGuest::Keymap {
            text: KEYMAP.to_owned(),
            repeat_delay: 400,
            repeat_rate: 30,
        });
    }

    /// Content of the window's last committed slot.
    fn read_slot(&self, grant: &SlotGrant, slot: u8) -> Picture {
        let len = u64::from(grant.stride) * u64::from(grant.height);
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        let offset = grant.offsets[usize::from(slot)];
        self.memory.read_exact_at(&mut bytes, offset).unwrap();
        Picture::new(grant.width, grant.height, grant.stride, &bytes)
    }

    fn known(&mut self, id: WindowId) -> &mut Seen {
        self.windows
            .get_mut(&id)
            .unwrap_or_else(|| panic!("{id:?} was never announced"))
    }

    /// The only window whose title satisfies `is`.
    pub fn find(&self, is: impl Fn(&Window) -> bool) -> Option<WindowId> {
        let (id, _) = self.windows.iter().find(|(_, seen)| is(&seen.window))?;
        Some(*id)
    }

    pub fn type_code(&mut self, code: u16) {
        for pressed in [true, false] {
            let serial = self.serial();
            self.send(&ToGuest::Key {
                code,
                pressed,
                serial,
                time_ms: serial,
            });
        }
    }

    pub fn point(&mut self, id: WindowId, x: i32, y: i32) {
        let time_ms = self.serial();
        self.send(&ToGuest::PointerMotion {
            id,
            x: x * 256,
            y: y * 256,
            time_ms,
        });
    }

    /// Presses or releases the left button; the serial.
    pub fn button(&mut self, pressed: bool) -> u32 {
        let serial = self.serial();
        self.send(&ToGuest::PointerButton {
            code: 0x110,
            pressed,
            serial,
            time_ms: serial,
        });
        serial
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for child in self.apps.iter_mut().chain([&mut self.program]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
