//! `cargo xtask lab`: makes the lab's image, and runs a program in a lab.

mod stock;

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use casemate_lab::wire::Exit;
use casemate_lab::{Access, Drive, Image, Lab, Options, Process, image};
use casemate_lab_vms::plan::Plan;
use clap::{Args, Subcommand};

use crate::bench::vmm::{self, payload};
use crate::run::build_lab_guest;

mod vmm_tests;

pub(crate) use vmm_tests::vmm_tests;

/// Boot or build the lab: a workstation with nested KVM inside QEMU.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the lab's kernel, initrd and root image when they are missing; print where they are.
    Build,
    /// Boot a lab, run a program in it, and end with its exit code.
    Run(RunArguments),
    /// Boot and restore VMs again and again, with 1, 2 and 4 vCPUs in turn; fail when one is not as it should be.
    Soak(SoakArguments),
    /// Run the vmm's own tests in a lab, on real KVM.
    VmmTests,
    Stock(stock::Arguments),
}

#[derive(Debug, Args)]
struct SoakArguments {
    /// Boots.
    #[arg(long, default_value_t = 50)]
    boots: u32,
    /// Restores, from a snapshot for each number of vCPUs.
    #[arg(long, default_value_t = 200)]
    restores: u32,
}

#[derive(Debug, Args)]
struct RunArguments {
    /// Run as root instead of as the ordinary user.
    #[arg(long)]
    root: bool,
    /// A folder that the lab sees at /payload; /payload/bin leads its PATH.
    #[arg(long, value_name = "DIR")]
    share: Option<PathBuf>,
    /// A disk image, mounted at /mnt/NAME; `:rw` at the end lets the lab write to it, `:layer` lets it
    /// write to a layer that is thrown away.
    #[arg(long, value_name = "NAME=IMAGE[:rw|:layer]", value_parser = parse_drive)]
    drive: Vec<Drive>,
    /// Memory in MiB.
    #[arg(long, default_value_t = 4096)]
    memory: u32,
    /// Processors; two where the machine's own virtualization makes them, else one.
    #[arg(long)]
    processors: Option<u32>,
    /// Give the lab a screen of 1280x800, a keyboard and a pointer, and start seatd.
    #[arg(long)]
    graphics: bool,
    /// Write a picture of the screen there when the program has ended.
    #[arg(long, value_name = "PNG", requires = "graphics")]
    screenshot: Option<PathBuf>,
    /// Seconds until the program is given up.
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true)]
    argv: Vec<String>,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.verb {
        Verb::Build => {
            let image = build()?;
            println!("kernel  {} ({})", image.kernel.display(), image.version);
            println!("initrd  {}", image.initrd.display());
            println!("root    {}", image.root.display());
            Ok(ExitCode::SUCCESS)
        }
        Verb::Run(arguments) => in_lab(&arguments),
        Verb::Soak(SoakArguments { boots, restores }) => {
            soak(boots, restores).map(|()| ExitCode::SUCCESS)
        }
        Verb::VmmTests => vmm_tests().map(|()| ExitCode::SUCCESS),
        Verb::Stock(arguments) => stock::run(&arguments).map(|()| ExitCode::SUCCESS),
    }
}

/// Makes the image, saying what takes long.
pub(crate) fn build() -> Result<Image> {
    let began = Instant::now();
    let mut said = false;
    let image = image::ensure(&mut |phase| {
        // The kernel is looked for each time; the other phases only come when something is made.
        if phase != "kernel" {
            eprintln!(
                "lab image: {phase} ({:.0} s)",
                began.elapsed().as_secs_f64()
            );
            said = true;
        }
    })?;
    if said {
        eprintln!("lab image: made in {:.0} s", began.elapsed().as_secs_f64());
    }
    Ok(image)
}

fn in_lab(arguments: &RunArguments) -> Result<ExitCode> {
    let image = build()?;
    let usual = Options::default();
    let options = Options {
        memory_mib: arguments.memory,
        processors: arguments.processors.unwrap_or(usual.processors),
        graphics: arguments.graphics.then_some((1280, 800)),
        share: arguments.share.clone(),
        drives: arguments.drive.clone(),
        guest_program: Some(build_lab_guest()?),
        ..Options::default()
    };
    let lab = Lab::start_image(&image, &options)?;
    eprintln!("lab: up after {:.1} s", lab.boot_time().as_secs_f64());
    for drive in &arguments.drive {
        let options = if drive.access == Access::ReadOnly {
            "ro"
        } else {
            "rw"
        };
        lab.mount(&drive.name, &format!("/mnt/{}", drive.name), options)?;
    }
    let argv: Vec<&str> = arguments.argv.iter().map(String::as_str).collect();
    let user = if arguments.root { "root" } else { "user" };
    let process = Arc::new(lab.command(user, &argv).spawn()?);
    forward_input(Arc::clone(&process));
    let exit = show(&process, Duration::from_secs(arguments.timeout))?;
    if let Some(path) = &arguments.screenshot {
        lab.screen().picture()?.save(path)?;
    }
    lab.shut_down()?;
    match exit {
        Exit::Code(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))),
        Exit::Signal(signal) => bail!("the program ended by signal {signal}"),
        Exit::NotStarted(reason) => bail!("{reason}"),
    }
}

/// The monitor's tests with stock kernels and host devices, all of them.
pub(crate) fn stock() -> Result<()> {
    stock::run(&stock::Arguments::default())
}

/// How long one boot of a soak may take on this machine's clock.
const SOAK_BOOT: u64 = 300;

/// Boots and restores VMs in a lab, with 1, 2 and 4 vCPUs in turn.
pub(crate) fn soak(boots: u32, restores: u32) -> Result<()> {
    let image = build()?;
    let folder = tempfile::tempdir()?;
    let plan = Plan {
        payload: "/payload".into(),
        runs: 1,
        memory_mib: vmm::MEMORY_MIB,
        cmdline: vmm::CMDLINE.to_owned(),
        default_cmdline: payload::default_cmdline()?,
        peers: Vec::new(),
        only: Vec::new(),
        profile: false,
    };
    payload::lay_out(folder.path(), &image::standard_kernel()?, &plan)?;
    let options = Options {
        share: Some(folder.path().to_owned()),
        guest_program: Some(build_lab_guest()?),
        ..Options::default()
    };
    let lab = Lab::start_image(&image, &options)?;
    lab.text("root", &["chmod", "666", "/dev/kvm"])?;
    let limit = Duration::from_secs(SOAK_BOOT * u64::from(boots + restores));
    let [boots, restores] = [boots, restores].map(|count| count.to_string());
    let argv = ["lab-vms", "soak", "/payload/plan.json", &boots, &restores];
    let process = lab.command("root", &argv).spawn()?;
    let exit = show(&process, limit)?;
    lab.shut_down()?;
    match exit {
        Exit::Code(0) => Ok(()),
        other => bail!("the soak ended with {other:?}"),
    }
}

/// Copies our input to the program. The thread ends with the input or with this process.
fn forward_input(process: Arc<Process>) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        let mut input = std::io::stdin().lock();
        while let Ok(length @ 1..) = input.read(&mut buffer) {
            if process
                .write(buffer.get(..length).unwrap_or_default())
                .is_err()
            {
                return;
            }
        }
        // The lab may have ended before our input did.
        drop(process.close_stdin());
    });
}

/// Copies what the program says to our own streams until it ends.
fn show(process: &Process, timeout: Duration) -> Result<Exit> {
    let until = Instant::now() + timeout;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let Some(said) = process.next_output(left)? else {
            bail!("the program still runs after {timeout:?}");
        };
        std::io::stdout().write_all(&said.stdout)?;
        std::io::stderr().write_all(&said.stderr)?;
        std::io::stdout().flush()?;
        if let Some(exit) = said.exit {
            return Ok(exit);
        }
    }
}

fn parse_drive(text: &str) -> Result<Drive> {
    let (name, path) = text.split_once('=').context("a drive is NAME=IMAGE")?;
    let (path, access) = match path.rsplit_once(':') {
        Some((path, "rw")) => (path, Access::Write),
        Some((path, "layer")) => (path, Access::Layer),
        _ => (path, Access::ReadOnly),
    };
    let (name, path) = (name.to_owned(), PathBuf::from(path));
    Ok(Drive { name, path, access })
}
