//! The monitor's tests with a distribution's own kernels, run in a lab by `cargo xtask lab stock`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use casemate_lab::wire::Exit;
use casemate_lab::{Lab, Options, image};
use clap::{Args, ValueEnum};

use crate::run::{build_lab_guest, cargo, root, succeed, target_dir};

/// What the guest's init needs. Its other drivers are built in.
const MODULES: [&str; 6] = [
    "virtio_blk",
    "nvme",
    "e1000e",
    "xhci-pci",
    "usb-storage",
    "sd_mod",
];

/// Four times what it takes on an idle machine without hardware virtualization.
const LIMIT: Duration = Duration::from_secs(900);

/// The devices below, as the lab sees them. The USB controller cannot be reset by itself, so it has a port of its own.
const DEVICES: &str = "0000:00:10.0 0000:00:11.0 0000:01:00.0";
/// What a VM with all of them says, in the words of its init.
const SAYS: &str = "stock: nvme reads content of the nvme disk|stock: nvme has copied 4194304 bytes\
    |stock: network: 5 packets transmitted, 5 packets received\
    |stock: usb has QEMU USB Tablet|stock: usb reads content of the usb stick";

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
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only a part.
    #[arg(value_enum)]
    only: Option<Part>,
    /// More words for the guests' kernels.
    #[arg(long, default_value = "")]
    cmdline: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Kernels, processors and disks that come and go, as the ordinary user.
    Kernels,
    /// Devices of the host, as root.
    Devices,
}

/// Builds the tests and the monitor, boots a lab with an IOMMU, and runs them there: as the ordinary user, and those
/// with host devices as root.
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
    let (nvme, stick) = (disk("nvme disk")?, disk("usb stick")?);
    let lab = Lab::start(&Options {
        share: Some(payload.path().to_owned()),
        guest_program: Some(build_lab_guest()?),
        extra: devices(&nvme, &stick),
        ..Options::default()
    })?;
    let began = Instant::now();
    let mut result = Ok(());
    if arguments.only != Some(Part::Devices) {
        let mut words = vec!["stock", "--test-threads", "1", "--nocapture"];
        words.extend(["--skip", "host_devices"]);
        result = check(lab.command("user", &words), arguments);
        println!("lab stock: kernels: {:.0} s", began.elapsed().as_secs_f64());
    }
    if arguments.only != Some(Part::Kernels) {
        let began = Instant::now();
        let with = lab.command("root", &["sh", "-c", BIND]);
        let with = with.env("CASEMATE_ASSIGN", DEVICES);
        let devices = check(with.env("CASEMATE_ASSIGN_SAYS", SAYS), arguments);
        println!("lab stock: devices: {:.0} s", began.elapsed().as_secs_f64());
        if devices.is_err() {
            let said = lab.text("root", &["sh", "-c", "dmesg | tail -n 60"]);
            println!("the lab's kernel says:\n{}", said.unwrap_or_default());
        }
        result = result.and(devices);
    }
    lab.shut_down()?;
    result
}

/// Arguments of QEMU for an IOMMU and three devices.
fn devices(nvme: &Path, stick: &Path) -> Vec<String> {
    let drive = |id: &str, file: &Path| {
        let file = file.display().to_string().replace(',', ",,");
        format!("if=none,id={id},format=raw,snapshot=on,file={file}")
    };
    let (nvme, stick) = (drive("stock-disk", nvme), drive("stock-stick", stick));
    let words = [
        "-device",
        "amd-iommu,intremap=on",
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
    ];
    words.map(str::to_owned).to_vec()
}

/// Runs tests in the lab; a test that finds nothing to do is a failure here.
fn check(tests: casemate_lab::Command, arguments: &Arguments) -> Result<()> {
    let tests = tests
        .env("CASEMATE_STOCK_CMDLINE", &arguments.cmdline)
        .env("CASEMATE_STOCK", "/payload/stock")
        .env("CASEMATE_VMM", "/payload/bin/casemate-vmm")
        .spawn()?;
    let output = tests.wait(LIMIT)?;
    print!("{}{}", output.text(), output.errors());
    if output.exit != Exit::Code(0) {
        bail!(
            "the tests with stock kernels failed in the lab: {:?}",
            output.exit
        );
    }
    if output.text().contains("skipped") || !output.text().contains(" passed") {
        bail!("a test with stock kernels was skipped in the lab");
    }
    Ok(())
}

fn lay_out(payload: &Path) -> Result<()> {
    let (bin, stock) = (payload.join("bin"), payload.join("stock"));
    for folder in [&bin, &stock] {
        fs::create_dir_all(folder)?;
    }
    succeed(cargo().args(["build", "--release", "--quiet", "--package", "casemate-vmm"]))?;
    fs::copy(
        target_dir().join("release/casemate-vmm"),
        bin.join("casemate-vmm"),
    )?;
    fs::copy(test_program()?, bin.join("stock"))?;
    let init = fs::read_to_string(root().join("supervisor/vmm/tests/stock/init.sh"))?;
    image::lay_out_kernel(&init, &MODULES, &stock)?;
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
