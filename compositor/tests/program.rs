//! The program itself, headless, over its bus: a VM is attached, shows a window, gets keys, and is asked about.

use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::FileExt, net::UnixStream},
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use casemate_api::{AskTarget, Bus, Compositor1Proxy, Error, Notice, Question};
use casemate_link::PacketSocket;
use casemate_vmm_control::LinkMessage;
use casemate_window_wire::{
    Commit, Decoder, Format, Message, SlotGrant, ToGuest, ToHost, Window, WindowId, WindowKind,
    limits,
};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

const LIMIT: Duration = Duration::from_secs(30);
const ID: WindowId = WindowId(1);

/// The running program; ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().expect("it runs until it is killed");
        self.0.wait().expect("a child can be waited for");
    }
}

fn start(runtime: &Path) -> Program {
    let child = Command::new(env!("CARGO_BIN_EXE_casemate-compositor"))
        .args(["--backend", "headless", "--size", "800x600", "--runtime"])
        .arg(runtime)
        .stdin(Stdio::null())
        .spawn()
        .expect("the program was built");
    Program(child)
}

async fn connect(runtime: &Path) -> zbus::Connection {
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        match Bus::Compositor.connect(runtime).await {
            Ok(connection) => return connection,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A guest that waits for what it needs.
struct Guest {
    stream: UnixStream,
    decoder: Decoder<ToGuest>,
    memory: File,
    /// Held open as a vmm does.
    _link: PacketSocket,
}

impl Guest {
    fn accept(link: PacketSocket, memory: OwnedFd) -> Self {
        let mut packet = link.receive(LinkMessage::LEN).expect("an offer");
        let stream = UnixStream::from(packet.descriptors.remove(0));
        stream.set_read_timeout(Some(LIMIT)).expect("a socket");
        Self {
            stream,
            decoder: Decoder::default(),
            memory: File::from(memory),
            _link: link,
        }
    }

    fn say(&mut self, message: &ToHost) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes).expect("within bounds");
        self.stream.write_all(&bytes).expect("the host listens");
    }

    fn hear<T>(&mut self, mut wanted: impl FnMut(ToGuest) -> Option<T>) -> T {
        loop {
            while let Some(message) = self.decoder.take().expect("the host speaks the wire") {
                if let Some(found) = wanted(message) {
                    return found;
                }
            }
            let mut piece = [0; 4096];
            let len = self.stream.read(&mut piece).expect("an answer in time");
            assert!(len > 0, "the host ended the session");
            self.decoder.feed(&piece[..len]);
        }
    }

    /// Shows a window of one colour and waits until it is on the screen.
    fn show(&mut self, title: &str, (width, height): (u32, u32), colour: u32) {
        self.say(&ToHost::Window(Window {
            id: ID,
            kind: WindowKind::Toplevel,
            title: title.to_owned(),
            app_id: String::new(),
            min_size: (0, 0),
            max_size: (0, 0),
            attention: false,
            wants_fullscreen: false,
        }));
        self.say(&ToHost::BufferRequest {
            id: ID,
            width,
            height,
            format: Format::Xrgb8888,
            count: 1,
        });
        let grant: SlotGrant = self.hear(|message| match message {
            ToGuest::Slots(grant) => Some(grant),
            _ => None,
        });
        let pixels = usize::try_from(grant.stride / 4 * height).expect("small");
        self.memory
            .write_all_at(&colour.to_le_bytes().repeat(pixels), grant.offsets[0])
            .expect("inside the memory");
        self.say(&ToHost::Commit(Commit {
            id: ID,
            slot: 0,
            generation: grant.generation,
            ack_serial: 0,
            damage: vec![],
        }));
        self.hear(|message| matches!(message, ToGuest::Frame { .. }).then_some(()));
    }
}

async fn attach(proxy: &Compositor1Proxy<'_>, name: &str, label: &str) -> Guest {
    let (ours, theirs) = PacketSocket::pair().expect("sockets");
    let memory =
        memfd_create("windows", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a memfd");
    ftruncate(&memory, 16 << 20).expect("room");
    fcntl_add_seals(&memory, SealFlags::SHRINK).expect("sealing was allowed");
    let copy = memory.as_fd().try_clone_to_owned().expect("a descriptor");
    let theirs = OwnedFd::from(theirs);
    proxy
        .attach_vm(name, label, theirs.into(), memory.into())
        .await
        .expect("attached");
    let mut guest = Guest::accept(ours, copy);
    guest.say(&ToHost::Hello {
        magic: limits::MAGIC,
        oldest: 1,
        newest: 1,
    });
    guest
}

/// Width and colours of a screenshot.
async fn screenshot(proxy: &Compositor1Proxy<'_>) -> (u32, impl Fn(i32, i32) -> [u8; 3]) {
    let fd = OwnedFd::from(proxy.screenshot().await.expect("a screenshot"));
    let mut reader = png::Decoder::new(std::io::BufReader::new(File::from(fd)))
        .read_info()
        .expect("a PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
    let info = reader.next_frame(&mut pixels).expect("a picture");
    let width = info.width;
    let pixel = move |x: i32, y: i32| {
        let inside = |value: i32| u32::try_from(value).expect("inside the picture");
        let at = usize::try_from((inside(y) * width + inside(x)) * 3).expect("small");
        [pixels[at], pixels[at + 1], pixels[at + 2]]
    };
    (width, pixel)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_shown_gets_keys_and_asks() {
    let runtime = tempfile::tempdir().expect("a directory");
    let _program = start(runtime.path());
    let connection = connect(runtime.path()).await;
    let proxy = casemate_api::compositor(&connection)
        .await
        .expect("a proxy");

    let mut work = attach(&proxy, "work", "blue").await;
    work.show("foot", (300, 200), 0x0012_3456);
    assert_eq!(proxy.attached().await.expect("a list"), ["work"]);
    let windows = proxy.windows().await.expect("a list");
    let window = &windows[0];
    let seen = (window.vm.as_str(), window.title.as_str(), window.focused);
    assert_eq!(seen, ("work", "foot", true));
    let (width, pixel) = screenshot(&proxy).await;
    assert_eq!(width, 800);
    let border = pixel(window.x - 2, window.y + 10);
    assert_eq!(border, [0x34, 0x65, 0xa4]);
    let content = pixel(window.x + 5, window.y + 5);
    assert_eq!(content, [0x12, 0x34, 0x56]);

    proxy.inject_key(30, true).await.expect("headless");
    proxy.inject_key(30, false).await.expect("headless");
    let code = work.hear(|message| match message {
        ToGuest::Key { code, .. } => Some(code),
        _ => None,
    });
    assert_eq!(code, 30);
    let wrong = proxy.inject_key(9999, true).await;
    assert!(matches!(wrong, Err(Error::Usage(_))));

    let target = AskTarget {
        name: "work".to_owned(),
        label: "blue".to_owned(),
    };
    let question = Question {
        source: target.clone(),
        service: "qubes.Filecopy".to_owned(),
        argument: "+".to_owned(),
        targets: vec![target],
        default_target: "work".to_owned(),
    };
    let (answer, ()) = tokio::join!(proxy.ask(question.clone()), async {
        // The question is up once the VM has lost the keyboard.
        tokio::task::block_in_place(|| {
            work.hear(|message| matches!(message, ToGuest::KeyLeave).then_some(()));
        });
        proxy.inject_key(1, true).await.expect("headless");
        proxy.inject_key(1, false).await.expect("headless");
    });
    assert!(!answer.expect("an answer").allowed);

    // One who asked and went away takes the question along: the VM has the keyboard again, though nobody answered.
    let asker = connect(runtime.path()).await;
    let asking = tokio::spawn(async move {
        let proxy = casemate_api::compositor(&asker).await.expect("a proxy");
        proxy.ask(question).await
    });
    tokio::task::block_in_place(|| {
        work.hear(|message| matches!(message, ToGuest::KeyEnter { .. }).then_some(()));
        work.hear(|message| matches!(message, ToGuest::KeyLeave).then_some(()));
    });
    asking.abort();
    tokio::task::block_in_place(|| {
        work.hear(|message| matches!(message, ToGuest::KeyEnter { .. }).then_some(()));
    });

    let notice = Notice {
        kind: "info".to_owned(),
        text: "hello".to_owned(),
    };
    proxy.notify(notice).await.expect("shown");
    proxy.detach_vm("work").await.expect("it was attached");
    let again = proxy.detach_vm("work").await;
    assert!(matches!(again, Err(Error::NotFound(_))));
    assert_eq!(proxy.windows().await.expect("a list"), []);
}
