//! The monitor's tests with a distribution's own kernels, run in a lab by `cargo xtask lab stock`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use casemate_lab::wire::Exit;
use casemate_lab::{Lab, Options, image};

use crate::run::{build_lab_guest, cargo, root, succeed, target_dir};

/// What the guest's init needs. Its other drivers are built in.
const MODULES: [&str; 4] = ["virtio_blk", "nvme", "e1000e", "xhci-pci"];

/// Four times what it takes on an idle machine without hardware virtualization.
const LIMIT: Duration = Duration::from_secs(900);

/// The devices below, as the lab sees them. The USB controller cannot be reset by itself, so it has a port of its own.
const DEVICES: &str = "0000:00:10.0 0000:00:11.0 0000:01:00.0";
/// What a VM with all of them says, in the words of its init.
const SAYS: &str = "stock: network answers|stock: nvme reads content of the nvme disk|stock: usb has QEMU USB Tablet";

/// Gives the devices to vfio and the rest of the line a limit of locked memory that a VM fits into.
const BIND: &str = "modprobe -a vfio-pci vfio_iommu_type1 || exit 1
for device in $CASEMATE_ASSIGN; do
    echo vfio-pci > /sys/bus/pci/devices/$device/driver_override
    old=/sys/bus/pci/devices/$device/driver/unbind
    if [ -e $old ]; then echo $device > $old; fi
    echo $device > /sys/bus/pci/drivers_probe
done
ulimit -l unlimited
exec stock --test-threads 1 host_devices";

/// Builds the tests and the monitor, boots a lab with an IOMMU, and runs them there: as the ordinary user, and those
/// with host devices as root.
pub(super) fn run() -> Result<()> {
    let payload = tempfile::tempdir()?;
    lay_out(payload.path())?;
    let disk = payload.path().join("nvme.img");
    fs::write(&disk, "content of the nvme disk\n")?;
    fs::File::options()
        .write(true)
        .open(&disk)?
        .set_len(16 << 20)?;
    let lab = Lab::start(&Options {
        share: Some(payload.path().to_owned()),
        guest_program: Some(build_lab_guest()?),
        extra: devices(&disk),
        ..Options::default()
    })?;
    let without = ["stock", "--test-threads", "1", "--skip", "host_devices"];
    check(lab.command("user", &without))?;
    let with = lab.command("root", &["sh", "-c", BIND]);
    let with = with.env("CASEMATE_ASSIGN", DEVICES);
    check(with.env("CASEMATE_ASSIGN_SAYS", SAYS))?;
    lab.shut_down()
}

/// Arguments of QEMU for an IOMMU and three devices.
fn devices(disk: &Path) -> Vec<String> {
    let drive = format!(
        "if=none,id=stock-disk,format=raw,snapshot=on,file={}",
        disk.display()
    );
    let words = [
        "-device",
        "amd-iommu,intremap=on",
        "-netdev",
        "user,id=stock-net,restrict=on",
        "-device",
        "e1000e,netdev=stock-net,addr=0x10",
        "-drive",
        &drive,
        "-device",
        "nvme,drive=stock-disk,serial=stock,addr=0x11",
        "-device",
        "pcie-root-port,id=stock-port,chassis=9,addr=0x12",
        "-device",
        "qemu-xhci,id=stock-usb,bus=stock-port",
        "-device",
        "usb-tablet,bus=stock-usb.0",
    ];
    words.map(str::to_owned).to_vec()
}

/// Runs tests in the lab; a test that finds nothing to do is a failure here.
fn check(tests: casemate_lab::Command) -> Result<()> {
    let tests = tests
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
