//! Notifies the random number device again and again without work for it: what a doorbell costs. It rings the one that
//! the device's driver has, which is the first: in memory, or a port.
#![expect(unsafe_code, reason = "a register of a device is memory, or a port")]

use std::arch::asm;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{io, ptr};

use anyhow::{Context as _, Result};
use rustix::mm::{MapFlags, ProtFlags, mmap};

pub(super) const RINGS: u32 = 1000;
/// The device's numbers in sysfs.
const VENDOR: &str = "0x1af4";
const RNG: &str = "0x1044";
/// Vendor capability, and the type of the one for notifications (virtio 1.2, 4.1.4).
const CAPABILITY: u8 = 9;
const NOTIFY: u8 = 2;
/// Flag of a resource that says that it is ports.
const IS_PORTS: u64 = 0x100;

pub(super) fn ring() -> Result<Duration> {
    let folder = find()?;
    let (bar, offset) = doorbell(&fs::read(folder.join("config"))?)?;
    match port(&folder, bar)? {
        Some(first) => ring_port(u16::try_from(first + u64::from(offset))?),
        None => ring_memory(&folder, bar, offset),
    }
}

/// The first port of a BAR, if it is one of ports.
fn port(folder: &Path, bar: u8) -> Result<Option<u64>> {
    let resources = fs::read_to_string(folder.join("resource"))?;
    let line = resources.lines().nth(bar.into()).context("a BAR")?;
    let mut numbers = line
        .split_whitespace()
        .filter_map(|number| u64::from_str_radix(number.trim_start_matches("0x"), 16).ok());
    let (first, flags) = (numbers.next(), numbers.nth(1));
    let (first, flags) = first.zip(flags).context("a resource of the device")?;
    Ok((flags & IS_PORTS != 0).then_some(first))
}

fn ring_port(port: u16) -> Result<Duration> {
    // SAFETY: allows this process all ports; it writes to the one below only.
    if unsafe { libc::iopl(3) } != 0 {
        return Err(io::Error::last_os_error()).context("ports of the device");
    }
    let began = Instant::now();
    for _ in 0..RINGS {
        // SAFETY: a notification register, which touches no memory and does nothing but wake the device.
        unsafe { asm!("out dx, ax", in("dx") port, in("ax") 0_u16, options(nomem, nostack)) };
    }
    Ok(began.elapsed() / RINGS)
}

fn ring_memory(folder: &Path, bar: u8, offset: u32) -> Result<Duration> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(folder.join(format!("resource{bar}")))?;
    let page = offset & !0xfff;
    // SAFETY: a new mapping, of a device's registers; nothing else knows its address.
    let base = unsafe {
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        mmap(
            ptr::null_mut(),
            4096,
            flags,
            MapFlags::SHARED,
            &file,
            page.into(),
        )?
    };
    let within = usize::try_from(offset - page)?;
    let register = base.cast::<u8>().wrapping_add(within).cast::<u16>();
    let began = Instant::now();
    for _ in 0..RINGS {
        // SAFETY: inside the page mapped above, and on a boundary of two: the device places it so.
        unsafe { ptr::write_volatile(register, 0) };
    }
    Ok(began.elapsed() / RINGS)
}

fn find() -> Result<PathBuf> {
    for entry in fs::read_dir("/sys/bus/pci/devices")? {
        let path = entry?.path();
        let is = |name: &str, value: &str| {
            fs::read_to_string(path.join(name)).is_ok_and(|text| text.trim() == value)
        };
        if is("vendor", VENDOR) && (is("device", RNG) || is("device", "0x1005")) {
            return Ok(path);
        }
    }
    anyhow::bail!("no random number device on a PCI bus")
}

/// The BAR and the offset of the first queue's notification register.
fn doorbell(space: &[u8]) -> Result<(u8, u32)> {
    let byte = |at: usize| space.get(at).copied().context("configuration space");
    let mut at = usize::from(byte(0x34)?);
    while at != 0 {
        if (byte(at)?, byte(at + 3)?) == (CAPABILITY, NOTIFY) {
            let word = space.get(at + 8..).and_then(|rest| rest.first_chunk());
            return Ok((
                byte(at + 4)?,
                u32::from_le_bytes(*word.context("an offset")?),
            ));
        }
        at = usize::from(byte(at + 1)?);
    }
    anyhow::bail!("no notification capability")
}
