//! The kernel's side of device assignment: containers, groups and devices (linux/vfio.h) as plain functions. The only
//! ioctls of it.
//!
//! `vfio-ioctls` is not used: it opens containers and groups by path, and does not say whether a reset failed.
#![expect(unsafe_code, reason = "ioctls with structures of the kernel")]

use std::ffi::{CStr, c_ulong};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd as _, OwnedFd};

use casemate_devices::virtio::Memory;
use vfio_bindings::bindings::vfio::{
    VFIO_API_VERSION, VFIO_BASE, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE,
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_ACTION_UNMASK, VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_REGION_INFO_CAP_SPARSE_MMAP,
    VFIO_REGION_INFO_FLAG_CAPS, VFIO_REGION_INFO_FLAG_MMAP, VFIO_TYPE, VFIO_TYPE1v2_IOMMU,
    vfio_device_info, vfio_group_status, vfio_iommu_type1_dma_map, vfio_irq_info, vfio_region_info,
};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::{
    ioctl, ioctl_with_mut_ptr, ioctl_with_mut_ref, ioctl_with_ptr, ioctl_with_ref, ioctl_with_val,
};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Numbers of ioctls: none of them says how long its argument is.
const fn number(of: u32) -> c_ulong {
    ((VFIO_TYPE as c_ulong) << 8) | (VFIO_BASE + of) as c_ulong
}

const GET_API_VERSION: c_ulong = number(0);
const CHECK_EXTENSION: c_ulong = number(1);
const SET_IOMMU: c_ulong = number(2);
const GROUP_GET_STATUS: c_ulong = number(3);
const GROUP_SET_CONTAINER: c_ulong = number(4);
const GROUP_GET_DEVICE_FD: c_ulong = number(6);
const DEVICE_GET_INFO: c_ulong = number(7);
const DEVICE_GET_REGION_INFO: c_ulong = number(8);
const DEVICE_GET_IRQ_INFO: c_ulong = number(9);
const DEVICE_SET_IRQS: c_ulong = number(10);
const DEVICE_RESET: c_ulong = number(11);
const IOMMU_MAP_DMA: c_ulong = number(13);

/// Most bytes of a region's description that are looked at.
const REGION_INFO_MAX: usize = 4096;

/// The answer of an ioctl, or why there is none.
fn answer(result: i32) -> io::Result<i32> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn size_of_u32<T>() -> u32 {
    u32::try_from(size_of::<T>()).expect("structures of the kernel are small")
}

/// Whether a container speaks the version that we know and has the IOMMU model that maps exactly what it is told.
pub(super) fn is_usable(container: &OwnedFd) -> io::Result<bool> {
    // SAFETY: takes no argument.
    let version = answer(unsafe { ioctl(container, GET_API_VERSION) })?;
    // SAFETY: the argument is a number.
    let result = unsafe { ioctl_with_val(container, CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU.into()) };
    Ok(u32::try_from(version) == Ok(VFIO_API_VERSION) && answer(result)? == 1)
}

/// Chooses that model; a group must have been added.
pub(super) fn set_iommu(container: &OwnedFd) -> io::Result<()> {
    // SAFETY: the argument is a number.
    answer(unsafe { ioctl_with_val(container, SET_IOMMU, VFIO_TYPE1v2_IOMMU.into()) })?;
    Ok(())
}

/// The flags of a group.
pub(super) fn group_flags(group: &OwnedFd) -> io::Result<u32> {
    let mut status = vfio_group_status {
        argsz: size_of_u32::<vfio_group_status>(),
        flags: 0,
    };
    // SAFETY: the structure is of the length that it says.
    answer(unsafe { ioctl_with_mut_ref(group, GROUP_GET_STATUS, &mut status) })?;
    Ok(status.flags)
}

/// Puts a group into a container.
pub(super) fn set_container(group: &OwnedFd, container: &OwnedFd) -> io::Result<()> {
    let number = container.as_fd().as_raw_fd();
    // SAFETY: the argument points at one descriptor number.
    answer(unsafe { ioctl_with_ref(group, GROUP_SET_CONTAINER, &number) })?;
    Ok(())
}

/// Lets devices of a container reach all of `memory`, at the guest's own addresses, and nothing else.
pub(super) fn map_memory(container: &OwnedFd, memory: &Memory) -> io::Result<()> {
    for region in memory.iter() {
        let map = vfio_iommu_type1_dma_map {
            argsz: size_of_u32::<vfio_iommu_type1_dma_map>(),
            flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
            vaddr: region.as_ptr() as u64,
            iova: region.start_addr().0,
            size: region.len(),
        };
        // SAFETY: the structure is of the length that it says. The range is guest memory, which is never unmapped
        // (see `map_ram`) and has no Rust references to it: vm-memory hands out volatile accesses only.
        answer(unsafe { ioctl_with_ref(container, IOMMU_MAP_DMA, &map) })?;
    }
    Ok(())
}

/// Opens the device called `name` in a group.
pub(super) fn device(group: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: the argument is a string with its NUL.
    let number = answer(unsafe { ioctl_with_ptr(group, GROUP_GET_DEVICE_FD, name.as_ptr()) })?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The flags of a device.
pub(super) fn device_flags(device: &OwnedFd) -> io::Result<u32> {
    let mut info = vfio_device_info {
        argsz: size_of_u32::<vfio_device_info>(),
        flags: 0,
        num_regions: 0,
        num_irqs: 0,
        cap_offset: 0,
        pad: 0,
    };
    // SAFETY: the structure is of the length that it says.
    answer(unsafe { ioctl_with_mut_ref(device, DEVICE_GET_INFO, &mut info) })?;
    Ok(info.flags)
}

/// Brings a device into the state after power-on.
pub(super) fn reset(device: &OwnedFd) -> io::Result<()> {
    // SAFETY: takes no argument.
    answer(unsafe { ioctl(device, DEVICE_RESET) })?;
    Ok(())
}

/// A region of a device's descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Region {
    /// Where it begins in the descriptor.
    pub(super) offset: u64,
    /// Bytes; none when the device has no such region.
    pub(super) len: u64,
    /// What of it may be mapped.
    pub(super) mappable: Vec<Range<u64>>,
}

/// The first bytes of a region's description, as the kernel writes them.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RegionInfo {
    argsz: U32,
    flags: U32,
    index: U32,
    cap_offset: U32,
    size: U64,
    offset: U64,
}

/// Describes a region.
pub(super) fn region(device: &OwnedFd, index: u32) -> io::Result<Region> {
    // As words, for the alignment that the kernel expects.
    let mut words = [0_u64; REGION_INFO_MAX / 8];
    let request = RegionInfo {
        argsz: u32::try_from(REGION_INFO_MAX).unwrap_or(u32::MAX).into(),
        flags: 0.into(),
        index: index.into(),
        cap_offset: 0.into(),
        size: 0.into(),
        offset: 0.into(),
    };
    let bytes = words.as_mut_bytes();
    if let Some(place) = bytes.get_mut(..size_of::<vfio_region_info>()) {
        place.copy_from_slice(request.as_bytes());
    }
    // SAFETY: the buffer is of the length that it says, and aligned.
    let result = unsafe { ioctl_with_mut_ptr(device, DEVICE_GET_REGION_INFO, words.as_mut_ptr()) };
    answer(result)?;
    Ok(describe(words.as_bytes()))
}

/// Reads what the kernel wrote of a region. Capabilities that do not fit are none.
fn describe(bytes: &[u8]) -> Region {
    let Ok((info, _)) = RegionInfo::read_from_prefix(bytes) else {
        return Region {
            offset: 0,
            len: 0,
            mappable: Vec::new(),
        };
    };
    let len = info.size.get();
    let flags = info.flags.get();
    let mut mappable = Vec::new();
    if flags & VFIO_REGION_INFO_FLAG_MMAP != 0 {
        let sparse = (flags & VFIO_REGION_INFO_FLAG_CAPS != 0)
            .then(|| sparse_areas(bytes, info.cap_offset.get()))
            .flatten();
        mappable = sparse.unwrap_or_else(|| Vec::from([whole(len)]));
    }
    Region {
        offset: info.offset.get(),
        len,
        mappable,
    }
}

/// All of a region.
fn whole(len: u64) -> Range<u64> {
    0..len
}

/// The areas of the sparse-mapping capability, if there is one.
fn sparse_areas(bytes: &[u8], first: u32) -> Option<Vec<Range<u64>>> {
    /// More than the kernel has kinds of.
    const MAX_CAPABILITIES: usize = 16;
    let mut next = first;
    for _ in 0..MAX_CAPABILITIES {
        let at = usize::try_from(next).ok().filter(|at| *at != 0)?;
        let rest = bytes.get(at..)?;
        let (id, following, rest) = read_header(rest)?;
        if u32::from(id) == VFIO_REGION_INFO_CAP_SPARSE_MMAP {
            let ([count, _reserved], mut rest) = <[U32; 2]>::read_from_prefix(rest).ok()?;
            let mut areas = Vec::new();
            for _ in 0..count.get() {
                let ([offset, len], after) = <[U64; 2]>::read_from_prefix(rest).ok()?;
                areas.push(offset.get()..offset.get().saturating_add(len.get()));
                rest = after;
            }
            return Some(areas);
        }
        next = following;
    }
    None
}

/// Number and next offset of a capability, and what follows its header.
fn read_header(bytes: &[u8]) -> Option<(u16, u32, &[u8])> {
    let ([id, _version], rest) = <[U16; 2]>::read_from_prefix(bytes).ok()?;
    let (next, rest) = U32::read_from_prefix(rest).ok()?;
    Some((id.get(), next.get(), rest))
}

/// Number of MSI-X vectors.
pub(super) fn msix_vectors(device: &OwnedFd) -> io::Result<u16> {
    interrupts(device, VFIO_PCI_MSIX_IRQ_INDEX)
}

/// Whether the device has an interrupt line that the kernel can deliver.
pub(super) fn has_line(device: &OwnedFd) -> io::Result<bool> {
    Ok(interrupts(device, VFIO_PCI_INTX_IRQ_INDEX)? > 0)
}

fn interrupts(device: &OwnedFd, index: u32) -> io::Result<u16> {
    let mut info = vfio_irq_info {
        argsz: size_of_u32::<vfio_irq_info>(),
        flags: 0,
        index,
        count: 0,
    };
    // SAFETY: the structure is of the length that it says.
    answer(unsafe { ioctl_with_mut_ref(device, DEVICE_GET_IRQ_INFO, &mut info) })?;
    Ok(u16::try_from(info.count).unwrap_or(u16::MAX))
}

/// Has the device's MSI-X vectors, from the first, signal these descriptors.
pub(super) fn enable_msix(device: &OwnedFd, signals: &[EventFd]) -> io::Result<()> {
    let trigger = VFIO_IRQ_SET_ACTION_TRIGGER;
    set_interrupts(device, VFIO_PCI_MSIX_IRQ_INDEX, trigger, signals)
}

/// Has the device's interrupt line signal `trigger`, and then stay masked until `unmask` is signalled.
pub(super) fn enable_line(device: &OwnedFd, trigger: &EventFd, unmask: &EventFd) -> io::Result<()> {
    let set = |action, signal| {
        let signals = std::slice::from_ref(signal);
        set_interrupts(device, VFIO_PCI_INTX_IRQ_INDEX, action, signals)
    };
    set(VFIO_IRQ_SET_ACTION_TRIGGER, trigger)?;
    set(VFIO_IRQ_SET_ACTION_UNMASK, unmask)
}

fn set_interrupts(
    device: &OwnedFd,
    index: u32,
    action: u32,
    signals: &[EventFd],
) -> io::Result<()> {
    let count = u32::try_from(signals.len()).expect("at most 2048 vectors");
    let header_words = 5_u32;
    // argsz, flags, index, start, count; then a descriptor number each.
    let mut words = vec![
        (header_words + count) * 4,
        VFIO_IRQ_SET_DATA_EVENTFD | action,
        index,
        0,
        count,
    ];
    words.extend(
        signals
            .iter()
            .map(|signal| signal.as_raw_fd().cast_unsigned()),
    );
    // SAFETY: the buffer is of the length that it says; the numbers are open descriptors.
    answer(unsafe { ioctl_with_ptr(device, DEVICE_SET_IRQS, words.as_ptr()) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(flags: u32, cap_offset: u32, rest: &[u64]) -> Vec<u8> {
        let info = RegionInfo {
            argsz: 4096.into(),
            flags: flags.into(),
            index: 0.into(),
            cap_offset: cap_offset.into(),
            size: 0x4000.into(),
            offset: (1 << 40).into(),
        };
        [info.as_bytes(), rest.as_bytes()].concat()
    }

    #[test]
    fn numbers_are_those_of_the_header_file() {
        assert_eq!(GET_API_VERSION, 0x3b64);
        assert_eq!(DEVICE_RESET, 0x3b6f);
        assert_eq!(IOMMU_MAP_DMA, 0x3b71);
        assert_eq!(size_of::<RegionInfo>(), size_of::<vfio_region_info>());
    }

    #[test]
    #[expect(
        clippy::single_range_in_vec_init,
        reason = "one range of bytes is meant, not a list of numbers"
    )]
    fn what_may_be_mapped_is_all_nothing_or_the_areas() {
        const MMAP: u32 = VFIO_REGION_INFO_FLAG_MMAP;
        const CAPS: u32 = VFIO_REGION_INFO_FLAG_CAPS;
        let header = |id: u64, next: u64| id | 1 << 16 | next << 32;
        for (what, bytes, expected) in [
            ("nothing", bytes(0, 0, &[]), vec![]),
            (
                "caps without mmap",
                bytes(CAPS, 32, &[header(1, 0), 0]),
                vec![],
            ),
            ("all", bytes(MMAP, 0, &[]), vec![0..0x4000]),
            (
                "only another capability",
                bytes(MMAP | CAPS, 32, &[header(3, 0)]),
                vec![0..0x4000],
            ),
            (
                "no areas",
                bytes(MMAP | CAPS, 32, &[header(1, 0), 0]),
                vec![],
            ),
            (
                "two areas behind another capability",
                bytes(
                    MMAP | CAPS,
                    32,
                    &[header(3, 40), header(1, 0), 2, 0, 0x1000, 0x2000, 0x2000],
                ),
                vec![0..0x1000, 0x2000..0x4000],
            ),
            (
                "a circle",
                bytes(MMAP | CAPS, 32, &[header(3, 32)]),
                vec![0..0x4000],
            ),
            (
                "past the end",
                bytes(MMAP | CAPS, 9999, &[]),
                vec![0..0x4000],
            ),
            (
                "more areas than bytes",
                bytes(MMAP | CAPS, 32, &[header(1, 0), 9, 0]),
                vec![0..0x4000],
            ),
        ] {
            let region = describe(&bytes);
            assert_eq!(region.mappable, expected, "{what}");
            assert_eq!((region.offset, region.len), (1 << 40, 0x4000));
        }
    }
}
