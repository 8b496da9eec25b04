//! The host sleeps: a real supervisor, a logind of ours on a bus of its own, and a vmm that only says that it stands still.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    os::fd::OwnedFd as StdFd,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::fixture::Home;
use casemate_link::PacketSocket;
use casemate_vmm_control::{Event, MAX_CONTROL, Phase, decode};
use zbus::{object_server::SignalEmitter, zvariant::OwnedFd};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A logind that keeps the reading ends of the delays it gave.
#[derive(Clone, Default)]
struct Logind(Arc<Mutex<Vec<StdFd>>>);

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Logind {
    fn inhibit(&self, _what: &str, _who: &str, _why: &str, _mode: &str) -> OwnedFd {
        let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
        let (reader, writer) = rustix::pipe::pipe_with(flags).unwrap();
        self.0.lock().unwrap().push(reader);
        writer.into()
    }

    #[zbus(signal)]
    async fn prepare_for_sleep(emitter: &SignalEmitter<'_>, start: bool) -> zbus::Result<()>;
}

impl Logind {
    /// Waits until the delay with this number is given, or given back.
    async fn delay(&self, number: usize, held: bool) {
        let began = Instant::now();
        loop {
            let read = {
                let delays = self.0.lock().unwrap();
                delays
                    .get(number)
                    .map(|end| rustix::io::read(end, &mut [0; 1]))
            };
            match (read, held) {
                (Some(Err(rustix::io::Errno::AGAIN)), true) | (Some(Ok(0)), false) => return,
                _ => assert!(began.elapsed() < PATIENCE, "delay {number}"),
            }
            tokio::task::yield_now().await;
        }
    }
}

/// A message bus, ended with the test.
struct SystemBus(Child);

impl SystemBus {
    fn start(path: &Path) -> Self {
        let child = Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--nopidfile", "--nosyslog"])
            .arg(format!("--address=unix:path={}", path.display()))
            .stdin(Stdio::null())
            .spawn()
            .expect("dbus-daemon is missing; `cargo xtask setup` installs it");
        let began = Instant::now();
        while !path.exists() {
            assert!(began.elapsed() < PATIENCE, "no bus");
            std::thread::yield_now();
        }
        Self(child)
    }
}

impl Drop for SystemBus {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_stand_still_while_the_host_sleeps_and_are_told_the_time() {
    let home = Home::without_supervisor();
    let path = home.path("system-bus");
    let _bus = SystemBus::start(&path);
    let logind = Logind::default();
    let address = format!("unix:path={}", path.display());
    let connection = zbus::connection::Builder::address(address.as_str())
        .unwrap()
        .serve_at("/org/freedesktop/login1", logind.clone())
        .unwrap()
        .name("org.freedesktop.login1")
        .unwrap()
        .build()
        .await
        .unwrap();
    home.start_supervisor().await;
    for name in ["work", "bank"] {
        home.create(name).await.unwrap();
    }
    let client = home.client().await;
    client.start("work").await.unwrap();
    let emitter = SignalEmitter::new(&connection, "/org/freedesktop/login1").unwrap();
    let mut errands = home.broker.errands.subscribe();
    for round in 0..3 {
        logind.delay(round, true).await;
        Logind::prepare_for_sleep(&emitter, true).await.unwrap();
        // Given back as soon as all stand still.
        logind.delay(round, false).await;
        Logind::prepare_for_sleep(&emitter, false).await.unwrap();
        let told = errands.wait_for(|errands| errands.len() > round);
        let told = tokio::time::timeout(PATIENCE, told)
            .await
            .unwrap()
            .unwrap()
            .clone();
        let (name, service, date) = told.last().unwrap();
        assert_eq!(
            (name.as_str(), service.as_str()),
            ("work", "qubes.SetDateTime")
        );
        let date = String::from_utf8(date.clone()).unwrap();
        assert!(date.ends_with("+00:00") && date.len() == 25, "{date}");
        assert_eq!(told.len(), round + 1, "a halted VM has no clock");
    }

    // A supervisor that ends in the middle: the next one wakes the VM.
    logind.delay(3, true).await;
    Logind::prepare_for_sleep(&emitter, true).await.unwrap();
    logind.delay(3, false).await;
    home.kill_supervisor();
    assert_eq!(phase(&home, "work"), Phase::Paused);
    let began = Instant::now();
    loop {
        home.start_supervisor().await;
        home.client().await.list().await.unwrap();
        home.kill_supervisor();
        if phase(&home, "work") == Phase::Running {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "it stands still");
    }
    home.start_supervisor().await;
    home.client().await.kill("work").await.unwrap();
}

/// Where a vmm is in its life. It hears nobody else from then on, so no supervisor may run.
fn phase(home: &Home, name: &str) -> Phase {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        None,
    )
    .unwrap();
    let path = home.path(&format!("runtime/casemate/vms/{name}/control"));
    let address = rustix::net::SocketAddrUnix::new(path).unwrap();
    rustix::net::connect(&socket, &address).unwrap();
    let socket = PacketSocket::from(socket);
    let packet = socket.receive(MAX_CONTROL).unwrap();
    match decode::<Event>(&packet.bytes, MAX_CONTROL).unwrap() {
        Event::State { phase, .. } => phase,
        other => panic!("{other:?} instead of a state"),
    }
}
