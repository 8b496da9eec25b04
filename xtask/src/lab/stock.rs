//! The monitor's tests with a distribution's own kernels, run in a lab by `cargo xtask lab stock`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use casemate_lab::wire::Exit;
use casemate_lab::{Lab, Options, image};
use clap::{Args, ValueEnum};

use crate::run::{build_lab_guest, cargo, root, standalone};

/// What the guest's init needs. Its other drivers are built in.
const MODULES: [&str; 7] = [
    "virtio_blk",
    "nvme",
    "e1000e",
    "xhci-pci",
    "usb-storage",
    "sd_mod",
    "virtio_snd",
];

/// Four times what it takes on an idle machine without hardware virtualization.
const LIMIT: Duration = Duration::from_secs(900);

/// The devices below, as the lab sees them. Those that cannot be reset by themselves have ports of their own.
const DEVICES: &str = "0000:00:10.0 0000:00:11.0 0000:01:00.0 0000:02:00.0 0000:03:00.0";
/// The one that is told to reach out of the guest's memory, and where to; as the lab's kernel says it.
const STRAY: [&str; 3] = ["DMAR: [DMA", "[03:00.0]", "fault addr 0x80000000"];
/// What a VM with all of them says, in the words of its init.
const SAYS: &str = "stock: nvme reads content of the nvme disk|stock: nvme has copied 4194304 bytes\
    |stock: network: 5 packets transmitted, 5 packets received\
    |stock: usb has QEMU USB Tablet|stock: usb reads content of the usb stick\
    |stock: usb reads content of the other stick|stock: line: IO-APIC\
    |stock: stray device answers|stock: stray device has written|stock: nvme reads on";

/// Gives the devices to vfio and the rest of the line a limit of locked memory that a VM fits into.
const BIND: &str = "modprobe -a vfio-pci vfio_iommu_type1 || exit 1
for device in $CASEMATE_ASSIGN; do
    echo vfio-pci > /sys/bus/pci/devices/$device/driver_override
    old=/sys/bus/pci/devices/$device/driver/unbind
    if [ -e $old ]; then echo $device > $old; fi
    echo $device > /sys/bus/pci/drivers_probe
done
ulimit -l unlimited
exec stock --test-threads 1 --nocapture host_devices";

/// Run the vmm's tests with a distribution's own kernels and with host devices in a lab.
#[derive(Debug, Default, Args)]
pub(super) struct Arguments {
    /// Only these parts.
    #[arg(value_enum)]
    only: Vec<Part>,
    /// More words for the guests' kernels.
    #[arg(long, default_value = "")]
    cmdline: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Formats of kernels.
    Kernels,
    /// The compatible CPU model.
    Processors,
    /// Disks that come and go.
    Disks,
    /// A sound card: what is played and what may be recorded.
    Sound,
    /// Devices of the host, as root.
    Devices,
}

impl Part {
    fn run(self, lab: &Lab, cmdline: &str) -> Result<()> {
        let test = match self {
            Self::Kernels => "an_elf_kernel",
            Self::Processors => "the_compatible",
            Self::Disks => "disks_are",
            Self::Sound => "a_sound_card",
            Self::Devices => {
                let with = lab.command("root", &["sh", "-c", BIND]);
                let with = with.env("CASEMATE_ASSIGN", DEVICES);
                check(with.env("CASEMATE_ASSIGN_SAYS", SAYS), cmdline)?;
                return strayed(lab);
            }
        };
        let words = ["stock", "--test-threads", "1", "--nocapture", test];
        check(lab.command("user", &words), cmdline)
    }
}

/// Builds the tests and the monitor, boots a lab with an IOMMU, and runs them there: as the ordinary user, and those
/// with host devices as root. All parts are run, whatever fails.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let payload = tempfile::tempdir()?;
    lay_out(payload.path())?;
    let disk = |name: &str| -> Result<PathBuf> {
        let path = payload.path().join(format!("{name}.img"));
        let mut content = format!("content of the {name}\n").into_bytes();
        // What is copied should not be all zeroes.
        content.extend(
            (0..4 << 20).map(|place: u32| place.wrapping_mul(0x9e37_79b9).to_le_bytes()[3]),
        );
        content.resize(16 << 20, 0);
        fs::write(&path, content)?;
        Ok(path)
    };
    let files = [disk("nvme disk")?, disk("usb stick")?, disk("other stick")?];
    let lab = Lab::start(&Options {
        share: Some(payload.path().to_owned()),
        guest_program: Some(build_lab_guest()?),
        extra: devices(&files),
        cmdline: "intel_iommu=on".to_owned(),
        ..Options::default()
    })?;
    let parts = match arguments.only.as_slice() {
        [] => Part::value_variants(),
        some => some,
    };
    let mut failed = Vec::new();
    for part in parts {
        let began = Instant::now();
        if let Err(error) = part.run(&lab, &arguments.cmdline) {
            println!("lab stock: {part:?} failed: {error:#}");
            failed.push(format!("{part:?}"));
        }
        println!(
            "lab stock: {part:?}: {:.0} s",
            began.elapsed().as_secs_f64()
        );
    }
    if !failed.is_empty() {
        let said = lab.text("root", &["sh", "-c", "dmesg | tail -n 40"]);
        println!("the lab's kernel says:\n{}", said.unwrap_or_default());
    }
    lab.shut_down()?;
    if failed.is_empty() {
        return Ok(());
    }
    bail!("failed in the lab: {}", failed.join(", "))
}

/// Whether the IOMMU stopped the device that was told to reach out of its VM's memory, and no other.
fn strayed(lab: &Lab) -> Result<()> {
    let said = lab.text("root", &["dmesg"])?;
    let faults: Vec<_> = said
        .lines()
        .filter(|line| line.contains(STRAY[0]))
        .collect();
    let all = |line: &&str| STRAY.iter().all(|word| line.contains(word));
    if faults.is_empty() || !faults.iter().all(all) {
        bail!("the lab's IOMMU has stopped something else: {faults:?}");
    }
    println!("lab stock: {} faults of the stray device", faults.len());
    Ok(())
}

/// Arguments of QEMU for an IOMMU and five devices.
fn devices(files: &[PathBuf; 3]) -> Vec<String> {
    let drive = |id: &str, file: &Path| {
        let file = file.display().to_string().replace(',', ",,");
        format!("if=none,id={id},format=raw,snapshot=on,file={file}")
    };
    let [nvme, stick, other] = files;
    let nvme = drive("stock-disk", nvme);
    let (stick, other) = (drive("stock-stick", stick), drive("stock-other", other));
    let words = [
        // QEMU's other IOMMU, that of the emulated processor's vendor, takes devices behind a port for devices of the root.
        "-machine",
        "kernel-irqchip=split",
        "-device",
        "intel-iommu,intremap=on",
        "-netdev",
        "user,id=stock-net,restrict=on",
        "-device",
        "e1000e,netdev=stock-net,addr=0x10",
        "-drive",
        &nvme,
        "-device",
        "nvme,drive=stock-disk,serial=stock,addr=0x11",
        "-device",
        "pcie-root-port,id=stock-port,chassis=9,addr=0x12",
        "-device",
        "qemu-xhci,id=stock-usb,bus=stock-port",
        "-device",
        "usb-tablet,bus=stock-usb.0",
        "-drive",
        &stick,
        "-device",
        "usb-storage,bus=stock-usb.0,drive=stock-stick",
        // One with its interrupt line only.
        "-device",
        "pcie-root-port,id=stock-port2,chassis=10,addr=0x13",
        "-device",
        "nec-usb-xhci,id=stock-usb2,bus=stock-port2,msi=off,msix=off",
        "-drive",
        &other,
        "-device",
        "usb-storage,bus=stock-usb2.0,drive=stock-other",
        // One that reads and writes memory as it is told.
        "-device",
        "pcie-root-port,id=stock-port3,chassis=11,addr=0x14",
        "-device",
        "edu,bus=stock-port3,dma_mask=0xffffffffff",
    ];
    words.map(str::to_owned).to_vec()
}

/// Runs tests in the lab; a test that finds nothing to do is a failure here.
fn check(tests: casemate_lab::Command, cmdline: &str) -> Result<()> {
    let tests = tests
        .env("CASEMATE_STOCK_CMDLINE", cmdline)
        .env("CASEMATE_STOCK", "/payload/stock")
        .env("CASEMATE_VMM", "/payload/bin/casemate-vmm")
        .spawn()?;
    // As it comes: whoever waits for minutes sees how far it is.
    let (until, mut text) = (Instant::now() + LIMIT, String::new());
    let exit = loop {
        let left = until.saturating_duration_since(Instant::now());
        let Some(said) = tests.next_output(left)? else {
            bail!("the tests still run after {LIMIT:?}");
        };
        for bytes in [&said.stdout, &said.stderr] {
            let said = String::from_utf8_lossy(bytes);
            print!("{said}");
            text.push_str(&said);
        }
        std::io::stdout().flush()?;
        if let Some(exit) = said.exit {
            break exit;
        }
    };
    if exit != Exit::Code(0) {
        bail!("the tests with stock kernels failed in the lab: {exit:?}");
    }
    if text.contains("skipped") || !text.contains(" passed") {
        bail!("a test with stock kernels was skipped in the lab");
    }
    Ok(())
}

fn lay_out(payload: &Path) -> Result<()> {
    let (bin, stock) = (payload.join("bin"), payload.join("stock"));
    for folder in [&bin, &stock] {
        fs::create_dir_all(folder)?;
    }
    let monitor = standalone("casemate-vmm", "casemate-vmm")?;
    fs::copy(monitor, bin.join("casemate-vmm"))?;
    fs::copy(test_program()?, bin.join("stock"))?;
    let init = fs::read_to_string(root().join("supervisor/vmm/tests/stock/init.sh"))?;
    image::lay_out_kernel(&init, &MODULES, &stock)?;
    let sound = standalone("casemate-lab-vms", "lab-sound-guest")?;
    image::add_program(&stock.join("initrd"), "sound", &sound)?;
    // The lab's ordinary user reads it.
    for path in [payload, &stock] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    for file in ["vmlinux", "vmlinuz", "initrd"] {
        fs::set_permissions(stock.join(file), fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// Builds the tests and says where their program is.
fn test_program() -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["test", "--no-run", "--package", "casemate-vmm"]);
    command.args(["--test", "stock", "--message-format", "json"]);
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("the tests of casemate-vmm do not build");
    }
    let text = String::from_utf8(output.stdout)?;
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "stock")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo named no test program")
}
