//! A desktop without a screen, and guests that a test speaks for. The test holds the clock.

use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::FileExt, net::UnixStream},
    },
    time::Duration,
};

use casemate_link::PacketSocket;
use casemate_vm::Label;
use casemate_vmm_control::{LinkKind, LinkMessage};
use casemate_window_wire::{
    Commit, DamageRect, Decoder, Format, Message, SlotGrant, ToGuest, ToHost, Window, WindowId,
    WindowKind, limits,
};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use crate::{
    desktop::{Desktop, Purpose},
    geometry::{Point, Rect, Size},
    input::{InputEvent, Keyboard, keys},
    words::{Time, VmKey},
};

pub(super) const OUTPUT: Size = Size { w: 1280, h: 800 };
const MEMORY: u64 = 64 * 1024 * 1024;

/// A desktop and its clock.
pub(super) struct Fixture {
    pub(super) desktop: Desktop,
    pub(super) now: Time,
}

/// A guest, and the vmm's end of its link.
pub(super) struct Guest {
    pub(super) vm: VmKey,
    pub(super) link: PacketSocket,
    pub(super) stream: Option<UnixStream>,
    memory: File,
    decoder: Decoder<ToGuest>,
    /// Everything heard so far.
    pub(super) heard: Vec<ToGuest>,
}

pub(super) fn memfd(len: u64, seals: SealFlags) -> OwnedFd {
    let fd = memfd_create("windows", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, len).unwrap();
    fcntl_add_seals(&fd, seals).unwrap();
    fd
}

impl Fixture {
    pub(super) fn new() -> Self {
        let keyboard = Keyboard::new().unwrap();
        Self {
            desktop: Desktop::new(OUTPUT, 60_000, keyboard).unwrap(),
            now: Duration::from_secs(100),
        }
    }

    /// Attaches a VM whose guest has said hello.
    pub(super) fn guest(&mut self, name: &str, label: Label) -> Guest {
        let mut guest = self.silent_guest(name, label);
        guest.say(&hello());
        self.settle(&mut [&mut guest]);
        assert!(matches!(guest.heard[0], ToGuest::Welcome { .. }));
        assert!(matches!(guest.heard[1], ToGuest::Output(_)));
        assert!(matches!(guest.heard[2], ToGuest::Keymap { .. }));
        guest.heard.clear();
        guest
    }

    /// Attaches a VM whose guest has connected and said nothing.
    pub(super) fn silent_guest(&mut self, name: &str, label: Label) -> Guest {
        let (ours, theirs) = PacketSocket::pair().unwrap();
        let memory = memfd(MEMORY, SealFlags::SHRINK | SealFlags::GROW);
        let copy = memory.as_fd().try_clone_to_owned().unwrap();
        let vm = self
            .desktop
            .attach(
                name.parse().unwrap(),
                label,
                theirs.into(),
                memory,
                self.now,
            )
            .unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut guest = Guest {
            vm,
            link: ours,
            stream: None,
            memory: File::from(copy),
            decoder: Decoder::default(),
            heard: Vec::new(),
        };
        self.desktop.service(self.now);
        assert!(guest.connect());
        guest
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Lets everything that is under way arrive, draws and presents frames until nothing moves.
    pub(super) fn settle(&mut self, guests: &mut [&mut Guest]) {
        for _ in 0..4 {
            for guest in &*guests {
                self.desktop.wake(guest.vm, Purpose::Stream);
            }
            while self.desktop.service(self.now) == Some(self.now) {}
            self.desktop.compose(self.now).unwrap();
            self.desktop.presented(self.now);
            self.desktop.service(self.now);
            for guest in &mut *guests {
                guest.listen();
            }
        }
        // The event loop would watch these; the fixture wakes by itself.
        self.desktop.take_outside();
        self.desktop.verify();
    }

    pub(super) fn press(&mut self, code: u16) {
        self.key(code, true);
        self.key(code, false);
    }

    pub(super) fn key(&mut self, code: u16, pressed: bool) {
        self.desktop
            .input(InputEvent::Key { code, pressed }, self.now);
    }

    pub(super) fn point(&mut self, at: Point) {
        let (x, y) = (f64::from(at.x), f64::from(at.y));
        self.desktop.input(InputEvent::MotionTo { x, y }, self.now);
    }

    pub(super) fn button(&mut self, pressed: bool) {
        let code = keys::BUTTON_LEFT;
        self.desktop
            .input(InputEvent::Button { code, pressed }, self.now);
    }

    pub(super) fn click(&mut self, at: Point) {
        self.point(at);
        self.button(true);
        self.button(false);
    }

    /// Content of a window that the bus would list.
    pub(super) fn place(&self, vm: &str, id: u32) -> Rect {
        let list = self.desktop.list();
        let info = list
            .iter()
            .find(|info| info.vm == vm && info.id == id)
            .unwrap_or_else(|| panic!("{vm} {id} is not shown"));
        Rect::new(
            Point::new(info.x, info.y),
            Size::from_wire((info.width, info.height)),
        )
    }

    pub(super) fn shown(&self, vm: &str) -> usize {
        let list = self.desktop.list();
        list.iter().filter(|info| info.vm == vm).count()
    }

    pub(super) fn pixel(&self, x: i32, y: i32) -> u32 {
        self.desktop.frame().pixel(x, y)
    }

    pub(super) fn focused(&self) -> Option<(String, u32)> {
        let list = self.desktop.list();
        list.into_iter()
            .find(|info| info.focused)
            .map(|info| (info.vm, info.id))
    }
}

pub(super) fn hello() -> ToHost {
    ToHost::Hello {
        magic: limits::MAGIC,
        oldest: 1,
        newest: 1,
    }
}

pub(super) fn window(id: u32, kind: WindowKind, title: &str) -> Window {
    Window {
        id: WindowId(id),
        kind,
        title: title.to_owned(),
        app_id: "test".to_owned(),
        min_size: (0, 0),
        max_size: (0, 0),
        attention: false,
        wants_fullscreen: false,
    }
}

impl Guest {
    /// Takes an offered stream, as the vmm does when the guest connects.
    pub(super) fn connect(&mut self) -> bool {
        let Ok(mut packet) = self.link.receive(LinkMessage::LEN) else {
            return false;
        };
        let expected = LinkMessage::Offer {
            port: LinkKind::WINDOWS,
        };
        assert_eq!(LinkMessage::decode(&packet.bytes), Ok(expected));
        let stream = UnixStream::from(packet.descriptors.remove(0));
        stream.set_nonblocking(true).unwrap();
        self.stream = Some(stream);
        self.decoder = Decoder::default();
        true
    }

    pub(super) fn say(&mut self, message: &ToHost) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes).unwrap();
        self.say_bytes(&bytes);
    }

    pub(super) fn say_bytes(&mut self, bytes: &[u8]) {
        self.stream.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// Reads what the host has said; answers whether the stream is still open.
    pub(super) fn listen(&mut self) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
        let mut piece = [0; 64 * 1024];
        loop {
            match stream.read(&mut piece) {
                Ok(0) => return false,
                Ok(len) => {
                    self.decoder.feed(&piece[..len]);
                    while let Some(message) = self.decoder.take().unwrap() {
                        self.heard.push(message);
                    }
                }
                Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
            }
        }
    }

    pub(super) fn declare(&mut self, id: u32, kind: WindowKind, title: &str) {
        self.say(&ToHost::Window(window(id, kind, title)));
    }

    pub(super) fn request(&mut self, id: u32, size: (u32, u32), count: u8) {
        self.say(&ToHost::BufferRequest {
            id: WindowId(id),
            width: size.0,
            height: size.1,
            format: Format::Xrgb8888,
            count,
        });
    }

    /// The newest grant for a window.
    pub(super) fn grant(&self, id: u32) -> SlotGrant {
        self.heard
            .iter()
            .rev()
            .find_map(|message| match message {
                ToGuest::Slots(grant) if grant.id.0 == id => Some(grant.clone()),
                _ => None,
            })
            .unwrap()
    }

    /// Fills a rectangle of a slot.
    pub(super) fn paint(&self, grant: &SlotGrant, slot: usize, rect: Rect, colour: u32) {
        let row = colour
            .to_le_bytes()
            .repeat(usize::try_from(rect.w).unwrap());
        for y in rect.y..rect.bottom() {
            let offset = grant.offsets[slot]
                + u64::try_from(y).unwrap() * u64::from(grant.stride)
                + u64::try_from(rect.x).unwrap() * 4;
            self.memory.write_all_at(&row, offset).unwrap();
        }
    }

    pub(super) fn commit(&mut self, grant: &SlotGrant, slot: u8, damage: &[Rect]) {
        let number = |value: i32| u32::try_from(value).unwrap();
        self.say(&ToHost::Commit(Commit {
            id: grant.id,
            slot,
            generation: grant.generation,
            ack_serial: 0,
            damage: damage
                .iter()
                .map(|rect| DamageRect {
                    x: number(rect.x),
                    y: number(rect.y),
                    width: number(rect.w),
                    height: number(rect.h),
                })
                .collect(),
        }));
    }

    /// Shows a window of one colour; answers its grant of two slots.
    pub(super) fn show(
        &mut self,
        fixture: &mut Fixture,
        id: u32,
        size: (u32, u32),
        colour: u32,
    ) -> SlotGrant {
        self.request(id, size, 2);
        fixture.settle(&mut [self]);
        let grant = self.grant(id);
        let whole = Rect::new(Point::default(), Size::from_wire(size));
        self.paint(&grant, 0, whole, colour);
        self.commit(&grant, 0, &[]);
        fixture.settle(&mut [self]);
        grant
    }

    /// A toplevel of one colour.
    pub(super) fn toplevel(
        &mut self,
        fixture: &mut Fixture,
        id: u32,
        title: &str,
        size: (u32, u32),
        colour: u32,
    ) -> SlotGrant {
        self.declare(id, WindowKind::Toplevel, title);
        self.show(fixture, id, size, colour)
    }

    /// Codes of the key presses heard.
    pub(super) fn pressed_keys(&self) -> Vec<u16> {
        self.heard
            .iter()
            .filter_map(|message| match message {
                ToGuest::Key {
                    code,
                    pressed: true,
                    ..
                } => Some(*code),
                _ => None,
            })
            .collect()
    }
}
