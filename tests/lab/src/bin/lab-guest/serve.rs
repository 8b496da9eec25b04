//! Runs programs for the test: one thread reads frames from the port, each program has a thread per
//! stream, and all of them write whole frames to the port under one lock.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use casemate_lab::wire::{CHUNK, Exit, Frame, Kind, PORT, Ready};
use rustix::process::{Pid, Signal, kill_process_group};

use super::account;

/// How long a program's streams may outlive it. A daemon that it left behind may hold them for ever,
/// and the test asked about the program, not about the daemon.
const STREAMS_AFTER_EXIT: Duration = Duration::from_millis(500);

type Port = Arc<Mutex<File>>;

struct Running {
    group: Option<Pid>,
    /// Bytes for its standard input; dropped at the end of it. Unbounded: a program that does not
    /// read must not stop the frames of the others, and the test's input fits into memory.
    stdin: Option<Sender<Vec<u8>>>,
}

/// Where programs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the lab, as its accounts.
    Lab,
    /// On the test's own machine, as its account.
    Here,
}

pub(crate) fn run(place: Place) -> Result<()> {
    let mut input = match place {
        Place::Lab => open_port()?,
        Place::Here => File::from(std::io::stdin().as_fd().try_clone_to_owned()?),
    };
    let port = Arc::new(Mutex::new(input.try_clone()?));
    let uptime = fs::read_to_string("/proc/uptime")?;
    let uptime = uptime.split(' ').next().unwrap_or_default().parse()?;
    send(&port, &Frame::json(Kind::Ready, 0, &Ready { uptime }));
    let mut programs: HashMap<u32, Running> = HashMap::new();
    loop {
        let frame = match Frame::read(&mut input) {
            // Here, the end of the channel is how a test ends.
            Err(_) if place == Place::Here => return Ok(()),
            frame => frame.context("the test has gone")?,
        };
        match frame.kind {
            Kind::Spawn => match start(&frame, &port, place) {
                Ok(running) => {
                    programs.insert(frame.process, running);
                }
                Err(error) => {
                    let exit = Exit::NotStarted(format!("{error:#}"));
                    send(&port, &Frame::json(Kind::Exit, frame.process, &exit));
                }
            },
            Kind::Stdin => {
                if let Some(running) = programs.get_mut(&frame.process) {
                    if frame.payload.is_empty() {
                        running.stdin = None;
                    } else if let Some(stdin) = &running.stdin {
                        // A program that has closed its input does not want the rest.
                        drop(stdin.send(frame.payload));
                    }
                }
            }
            Kind::Signal => {
                let group = programs
                    .get(&frame.process)
                    .and_then(|running| running.group);
                let signal = Signal::from_named_raw(frame.parse()?);
                if let (Some(group), Some(signal)) = (group, signal) {
                    // It may just have ended, which is what the test wants.
                    let _ = kill_process_group(group, signal);
                }
            }
            Kind::Ready | Kind::Stdout | Kind::Stderr | Kind::Exit => {}
        }
    }
}

/// The port by its name: there may be no udev to make a link.
fn open_port() -> Result<File> {
    for entry in fs::read_dir("/sys/class/virtio-ports").context("there is no virtio port")? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == PORT) {
            let path = std::path::Path::new("/dev").join(entry.file_name());
            return OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .with_context(|| format!("cannot open {}", path.display()));
        }
    }
    anyhow::bail!("no virtio port has the name {PORT}")
}

fn start(frame: &Frame, port: &Port, place: Place) -> Result<Running> {
    let process = frame.process;
    let spawn = frame.parse()?;
    let mut child = account::command(&spawn, place)?
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {:?}", spawn.argv))?;
    let (stdin, bytes) = mpsc::channel::<Vec<u8>>();
    if let Some(mut pipe) = child.stdin.take() {
        thread::spawn(move || {
            for chunk in bytes {
                if pipe.write_all(&chunk).is_err() {
                    return;
                }
            }
        });
    }
    let (done, streams) = mpsc::channel::<()>();
    if let Some(stdout) = child.stdout.take() {
        forward(stdout, Kind::Stdout, process, port, &done);
    }
    if let Some(stderr) = child.stderr.take() {
        forward(stderr, Kind::Stderr, process, port, &done);
    }
    drop(done);
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let port = Arc::clone(port);
    thread::spawn(move || {
        let exit = ended(&mut child);
        // Both senders gone is what is waited for; nothing is ever sent.
        let _ = streams.recv_timeout(STREAMS_AFTER_EXIT);
        send(&port, &Frame::json(Kind::Exit, process, &exit));
    });
    Ok(Running {
        group,
        stdin: Some(stdin),
    })
}

fn ended(child: &mut Child) -> Exit {
    let of = |status: ExitStatus| match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or_default()),
    };
    child
        .wait()
        .map_or_else(|error| Exit::NotStarted(error.to_string()), of)
}

fn forward(
    mut stream: impl Read + Send + 'static,
    kind: Kind,
    process: u32,
    port: &Port,
    done: &Sender<()>,
) {
    let port = Arc::clone(port);
    let done = done.clone();
    thread::spawn(move || {
        let _done = done;
        let mut buffer = vec![0; CHUNK];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            let payload = buffer.get(..length).unwrap_or_default().to_vec();
            send(
                &port,
                &Frame {
                    kind,
                    process,
                    payload,
                },
            );
        }
    });
}

fn send(port: &Port, frame: &Frame) {
    let mut port = port.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = frame.write(&mut *port) {
        eprintln!("lab-guest: cannot answer: {error}");
    }
}
