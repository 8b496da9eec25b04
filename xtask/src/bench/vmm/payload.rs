//! What the lab gets to measure with: our programs, the guest, and QEMU as this machine's package has it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use casemate_lab::Image;
use casemate_lab::image::{KernelFiles, write_guest_initrd};
use casemate_lab_vms::plan::{Peer, Plan, STANDARD_KERNEL};

use crate::run::{root, standalone};

/// Modules of the guest, loaded only by the works that need them.
const MODULES: [&str; 4] = [
    "virtio_blk",
    "virtio_net",
    "virtio-rng",
    "vmw_vsock_virtio_transport",
];
/// The recipe whose command line is the default one.
const RECIPE: &str = "templates/debian-12/recipe.toml";
/// Our console, which the recipe names and other monitors have not.
const OUR_CONSOLE: &str = "console=hvc0";

/// Where Debian puts QEMU and its firmware.
const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const FIRMWARE: [&str; 2] = ["/usr/share/qemu", "/usr/share/seabios"];
const FIRMWARE_FILES: [&str; 6] = [
    "bios-256k.bin",
    "bios-microvm.bin",
    "kvmvapic.bin",
    "linuxboot_dma.bin",
    "pvh.bin",
    "qboot.rom",
];

/// Builds our programs and lays everything out in `folder`, which becomes `/payload`; guests boot `kernel`.
pub(crate) fn lay_out(folder: &Path, kernel: &KernelFiles, plan: &Plan) -> Result<()> {
    for name in ["bin", "guest"] {
        fs::create_dir_all(folder.join(name))?;
    }
    let bin = folder.join("bin");
    let programs = super::super::release(&["casemate-lab-vms"])?;
    fs::copy(programs.join("lab-vms"), bin.join("lab-vms"))?;
    let monitor = standalone("casemate-vmm", "casemate-vmm")?;
    fs::copy(monitor, bin.join("casemate-vmm"))?;
    fs::copy(&kernel.vmlinux, folder.join("guest/vmlinux"))?;
    // There is nothing else in its initrd.
    let init = standalone("casemate-lab-vms", "lab-vms-guest")?;
    let initrd = folder.join("guest/initrd");
    write_guest_initrd(&init, &kernel.modules_dir, &[], &initrd)?;
    let with_modules = folder.join("guest/initrd-with-modules");
    write_guest_initrd(&init, &kernel.modules_dir, &MODULES, &with_modules)?;
    let length = fs::metadata(&initrd)?.len() >> 10;
    eprintln!("bench: the initrd has {length} KiB");
    fs::write(folder.join("plan.json"), serde_json::to_vec(plan)?)?;
    // The lab's ordinary user reads it.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Adds the kernel that our templates boot, which is the lab's own, for the work that is measured with it.
pub(super) fn lay_out_standard_kernel(folder: &Path, image: &Image) -> Result<()> {
    fs::copy(&image.kernel, folder.join(STANDARD_KERNEL))?;
    Ok(())
}

/// What our template boots with, without the console.
pub(crate) fn default_cmdline() -> Result<String> {
    let text = fs::read_to_string(root().join(RECIPE))?;
    let table: toml::Table = text.parse()?;
    let line = table.get("cmdline").and_then(toml::Value::as_str);
    let line = line.with_context(|| format!("{RECIPE} has no cmdline"))?;
    let words = line.split_whitespace().filter(|&word| word != OUR_CONSOLE);
    Ok(words.collect::<Vec<_>>().join(" "))
}

/// Copies QEMU and says how it boots our guest: as a whole PC, and as its smallest machine.
pub(super) fn qemu(payload: &Path) -> Result<Vec<Peer>> {
    if !Path::new(QEMU).exists() {
        bail!("{QEMU} is missing; `cargo xtask setup` installs it, --no-qemu leaves it out");
    }
    let folder = payload.join("qemu");
    fs::create_dir_all(folder.join("share"))?;
    fs::copy(QEMU, folder.join("qemu-system-x86_64"))?;
    libraries(Path::new(QEMU), &folder.join("lib"))?;
    for name in FIRMWARE_FILES {
        let found = FIRMWARE.iter().map(|place| Path::new(place).join(name));
        if let Some(file) = found.into_iter().find(|path| path.exists()) {
            fs::copy(file, folder.join("share").join(name))?;
        }
    }
    let machine = |name: &str, machine: &str, devices: &[&str]| {
        let common = "-L {payload}/qemu/share -accel kvm -cpu host -smp 1 -nodefaults -no-user-config -no-reboot \
            -display none -serial stdio -m {memory} -kernel {kernel} -initrd {initrd} \
            -drive if=none,id=root,format=raw,readonly=on,file={disk}";
        let words = ["-M", machine].into_iter().chain(common.split_whitespace());
        let words = words.chain(devices.iter().flat_map(|device| ["-device", device]));
        Peer {
            name: name.to_owned(),
            program: "qemu/qemu-system-x86_64".into(),
            arguments: words
                .chain(["-append", "{cmdline}"])
                .map(str::to_owned)
                .collect(),
            config: None,
            network: Vec::new(),
            console: "console=ttyS0".to_owned(),
            libraries: Some("qemu/lib".into()),
        }
    };
    let mut pc = machine(
        "qemu-q35",
        "q35",
        &[
            "virtio-blk-pci,drive=root",
            "virtio-rng-pci",
            "virtio-balloon-pci",
            "vhost-vsock-pci,guest-cid=33",
            "ivshmem-plain,memdev=window",
        ],
    );
    let window = "memory-backend-memfd,id=window,size=256M,share=on";
    pc.arguments.extend(["-object", window].map(str::to_owned));
    let network = "-netdev socket,id=net,fd={network} \
        -device virtio-net-pci,netdev=net,romfile=,mac=02:00:00:00:00:01";
    pc.network = network.split_whitespace().map(str::to_owned).collect();
    let small = machine(
        "qemu-microvm",
        "microvm,rtc=on",
        &[
            "virtio-blk-device,drive=root",
            "virtio-rng-device",
            "virtio-balloon-device",
            "vhost-vsock-device,guest-cid=34",
        ],
    );
    Ok(vec![pc, small])
}

/// Copies the libraries of a program, but for those of the C library itself, which the lab has. A program without any
/// has an empty folder.
pub(super) fn libraries(program: &Path, target: &Path) -> Result<()> {
    fs::create_dir_all(target)?;
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    for path in text.lines().filter_map(library) {
        let name = Path::new(path).file_name().context("a library's name")?;
        fs::copy(path, target.join(name)).with_context(|| format!("cannot copy {path}"))?;
    }
    Ok(())
}

/// The path in a line of `ldd`, when it is to be copied.
fn library(line: &str) -> Option<&str> {
    let (name, rest) = line.trim().split_once(" => ")?;
    let of_libc = [
        "libc.so",
        "libm.so",
        "libpthread.so",
        "libdl.so",
        "librt.so",
        "libresolv.so",
        "ld-linux",
    ];
    if of_libc.iter().any(|start| name.starts_with(start)) {
        return None;
    }
    let path = rest.split_whitespace().next()?;
    path.starts_with('/').then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_command_line_names_no_console_and_skips_self_tests() {
        let line = default_cmdline().unwrap();
        assert!(!line.contains("console="), "{line}");
        assert!(line.contains("cryptomgr.notests"), "{line}");
    }

    #[test]
    fn libraries_are_taken_but_for_the_c_library() {
        for (line, expected) in [
            (
                "\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x1)",
                Some("/lib/x86_64-linux-gnu/libz.so.1"),
            ),
            ("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x1)", None),
            ("\tlinux-vdso.so.1 (0x1)", None),
            ("\tlibx.so => not found", None),
            ("\tstatically linked", None),
        ] {
            assert_eq!(library(line), expected, "{line}");
        }
    }
}
