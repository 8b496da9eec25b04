//! A mixer without a sound server, for the tests of the supervisor. It never lets go of a socket that it was given, also
//! when it is told to.
//!
//! `CASEMATE_FAKE_MIXER` chooses its manners: `broken` ends at once, `no-server` says that there is no PipeWire.
#![expect(clippy::print_stderr, reason = "what it was told goes to its log")]

use std::{env, os::fd::AsFd, process::ExitCode};

use anyhow::{Context, Result};
use casemate_link::{Error, PacketSocket};
use casemate_sound_wire::{MAX_PACKET, Order, Report, ToMixer, ToVmm};
use rustix::event::{PollFd, PollFlags, poll};

fn main() -> ExitCode {
    let manners = env::var("CASEMATE_FAKE_MIXER").unwrap_or_default();
    if manners == "broken" {
        eprintln!("it cannot open its library");
        return ExitCode::FAILURE;
    }
    match serve(&manners) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(manners: &str) -> Result<()> {
    let orders = PacketSocket::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    orders.send(&Report::Ready.encode(), &[])?;
    eprintln!("pid {}", std::process::id());
    let mut lines: Vec<(bool, PacketSocket)> = Vec::new();
    loop {
        let mut fds = vec![PollFd::new(&orders, PollFlags::IN)];
        fds.extend(
            lines
                .iter()
                .map(|(_, line)| PollFd::new(line, PollFlags::IN)),
        );
        poll(&mut fds, None)?;
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let mut index = 0;
        lines.retain(|(records, line)| {
            index += 1;
            ready.get(index) != Some(&true) || answer(*records, line)
        });
        if ready.first() == Some(&true) {
            let mut packet = match orders.receive(64) {
                Ok(packet) => packet,
                Err(Error::Closed) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let order = Order::decode(&packet.bytes).context("no order")?;
            eprintln!("{order:?}");
            if let Some(socket) = packet.descriptors.pop() {
                let records = matches!(order, Order::Recorder(_));
                lines.push((records, PacketSocket::from(socket)));
            }
            let report = if manners == "no-server" {
                Report::NoServer
            } else {
                Report::Server
            };
            orders.send(&report.encode(), &[])?;
        }
    }
}

/// Answers the beginning of a run; false at the end.
fn answer(records: bool, line: &PacketSocket) -> bool {
    let Ok(packet) = line.receive(MAX_PACKET) else {
        return false;
    };
    let Ok(ToMixer::Begin { run, .. }) = ToMixer::decode(&packet.bytes) else {
        return true;
    };
    let mut answer = Vec::new();
    if records {
        ToVmm::Frames {
            run,
            latency: 0,
            samples: &[1; 8],
        }
        .encode(&mut answer);
    } else {
        ToVmm::Heard {
            run,
            total: 0,
            latency: 0,
        }
        .encode(&mut answer);
    }
    line.send(&answer, &[]).is_ok()
}
