//! `cargo xtask bench qrexec`: calls between VMs, over Unix sockets, with real processes at each end.
//!
//! A broker that is alone (`casemate-qrexec serve-vchan`) and two agents share a directory in memory. The admin side's
//! calls are made by `call-vchan`, those between the VMs by the agent's own tools. Each figure is what a person waits
//! for: it begins before the first process of a call is started and ends after it has ended.

mod house;

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::house::{House, Programs};
use super::{Measured, median};

/// Calls, questions of policy, bulk data and files between two agents.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Calls of one run.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    calls: u32,
    /// MiB of one stream and of the large file.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    mib: u32,
    /// Small files of one copy.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    files: u32,
    /// The socket of another policy daemon, which must know the VMs work and vault, to be asked the same.
    #[arg(long, value_name = "SOCKET")]
    peer_policy: Option<std::path::PathBuf>,
    /// Another agent, for the admin side's rows: a program that understands `--vchan-dir DIR --domain ID` as ours does.
    #[arg(long, value_name = "PROGRAM")]
    peer_agent: Option<std::path::PathBuf>,
}

/// Questions of policy of one run.
const QUESTIONS: u32 = 2000;

pub(crate) fn run(arguments: &Arguments, runs: u32) -> Result<Vec<Measured>> {
    let programs = Programs::build()?;
    let house = House::start(programs.clone(), None)?;
    let peer = arguments.peer_agent.as_deref();
    let peer = peer
        .map(|agent| House::start(programs, Some(agent)))
        .transpose()?;
    let mib = arguments.mib;
    let mut rows = vec![Measured::new("service-spawn-ms", "ms", runs, || {
        times(arguments.calls, || {
            house::succeed(&mut Command::new("/bin/true"))
        })
    })?];
    for (work, unit, once) in [
        (
            "call-overhead-ms",
            "ms",
            overhead as fn(&House, &Arguments) -> Result<f64>,
        ),
        ("stream-mib-s", "MiB/s", |house, arguments| {
            stream_in(house, arguments.mib)
        }),
        ("stream-out-mib-s", "MiB/s", |house, arguments| {
            stream_out(house, arguments.mib)
        }),
    ] {
        let mut row = Measured::new(work, unit, runs, || once(&house, arguments))?;
        if let Some(peer) = &peer {
            row.peer("peer-agent", runs, || once(peer, arguments))?;
        }
        rows.push(row);
    }
    // A policy file that was just written is looked at again each time, because its time stamp is too coarse to trust.
    std::thread::sleep(Duration::from_secs(3));
    let mut row = Measured::new("policy-question-us", "us", runs, || {
        ask(&house.policy_socket())
    })?;
    if let Some(socket) = &arguments.peer_policy {
        row.peer("peer-policy", runs, || ask(socket))?;
    }
    rows.push(row);
    let large = house.file("large");
    file_of(&large, mib)?;
    rows.push(Measured::new("copy-large-mib-s", "MiB/s", runs, || {
        Ok(f64::from(mib) / copy(&house, &large)?)
    })?);
    fs::remove_file(&large)?;
    let small = house.file("small");
    fs::create_dir(&small)?;
    for number in 0..arguments.files {
        fs::write(small.join(format!("{number:06}")), [b'x'; 1024])?;
    }
    rows.push(Measured::new(
        "copy-small-files-s",
        "files/s",
        runs,
        || Ok(f64::from(arguments.files) / copy(&house, &small)?),
    )?);
    Ok(rows)
}

/// The median of several times, in milliseconds.
fn times(count: u32, mut once: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut figures = Vec::new();
    for _ in 0..count {
        let began = Instant::now();
        once()?;
        figures.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(median(&figures))
}

/// What a call of a service that does nothing takes more than that service started directly.
fn overhead(house: &House, arguments: &Arguments) -> Result<f64> {
    let service = times(arguments.calls, || {
        house::succeed(&mut Command::new(house.service("bench.Nothing")))
    })?;
    let call = times(arguments.calls, || {
        house::succeed(&mut house.admin(&["--service", "vault", "bench.Nothing"]))
    })?;
    Ok(call - service)
}

fn stream_in(house: &House, mib: u32) -> Result<f64> {
    let began = Instant::now();
    let mut zeros = zeros(mib)?;
    let input = zeros.stdout.take().context("a pipe")?;
    house::succeed(house.admin(&["vault", "cat > /dev/null"]).stdin(input))?;
    zeros.wait()?;
    Ok(f64::from(mib) / began.elapsed().as_secs_f64())
}

fn stream_out(house: &House, mib: u32) -> Result<f64> {
    let began = Instant::now();
    let command = format!("head -c {mib}M /dev/zero");
    let mut call = house
        .admin(&["vault", &command])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut out = call.stdout.take().context("a pipe")?;
    let mut piece = vec![0; 1 << 18];
    let mut total = 0;
    loop {
        match out.read(&mut piece)? {
            0 => break,
            read => total += read,
        }
    }
    if !call.wait()?.success() || u64::try_from(total)? != u64::from(mib) << 20 {
        bail!("{total} bytes came of {mib} MiB");
    }
    Ok(f64::from(mib) / began.elapsed().as_secs_f64())
}

fn zeros(mib: u32) -> Result<std::process::Child> {
    let mut head = Command::new("head");
    head.args(["-c", &format!("{mib}M"), "/dev/zero"])
        .stdout(Stdio::piped());
    head.spawn().context("cannot run head")
}

/// Microseconds of one question, from the connection to the end of the answer.
fn ask(socket: &Path) -> Result<f64> {
    let question = b"source=work\nintended_target=vault\nservice_and_arg=bench.Nothing+\n\
        assume_yes_for_ask=no\njust_evaluate=yes\n\n";
    let milliseconds = times(QUESTIONS, || {
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(question)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if !answer.contains("result=allow\n") {
            bail!("the answer is not allow but {answer:?}");
        }
        Ok(())
    })?;
    Ok(milliseconds * 1000.0)
}

/// Seconds to copy something from one VM to the other.
fn copy(house: &House, what: &Path) -> Result<f64> {
    let began = Instant::now();
    house::succeed(house.tool(&["qvm-copy-to-vm", "vault"]).arg(what))?;
    let took = began.elapsed().as_secs_f64();
    let name = what.file_name().context("a name")?;
    let arrived = house.incoming().join(name);
    if !arrived.exists() {
        bail!("nothing arrived at {}", arrived.display());
    }
    fs::remove_dir_all(house.incoming())?;
    Ok(took)
}

fn file_of(path: &Path, mib: u32) -> Result<()> {
    let mut file = File::create(path)?;
    // Not zeros, which might travel as a hole.
    let piece: Vec<u8> = (0..1_u32 << 18)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    for _ in 0..mib {
        file.write_all(&piece)?;
    }
    Ok(())
}
