//! Memory slots: what of this process's memory the guest sees, and where, and pages given before it asks; and the one other
//! call of KVM that takes more than its type says. The only unsafe code of the machine.
#![expect(
    unsafe_code,
    reason = "KVM takes memory slots as raw addresses of this process"
)]

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use casemate_devices::virtio::Memory;
use casemate_devices::window_memory::SlotMapper;
use kvm_bindings::{KVMIO, kvm_pre_fault_memory, kvm_userspace_memory_region, kvm_xsave};
use kvm_ioctls::{VcpuFd, VmFd};
use rustix::mm::{Advice, madvise};
use vm_memory::{FileOffset, GuestMemoryBackend, GuestMemoryRegion, MmapRegion};
use vmm_sys_util::ioctl::{_IOC_READ, _IOC_WRITE, ioctl_expr, ioctl_with_mut_ref};

/// Number of the ioctl that gives a vCPU its pages before it asks; Documentation/virt/kvm/api.rst, 4.143.
const PRE_FAULT_MEMORY: libc::c_ulong = ioctl_expr(_IOC_READ | _IOC_WRITE, KVMIO, 0xd5, 64);

/// Slot of the window memory; RAM has the ones below.
const WINDOW_SLOT: u32 = 8;
/// First slot of pieces of assigned devices; no other slots are above it.
pub(crate) const ASSIGNED_SLOTS: u32 = 16;

/// Shows all of `memory` to the guest, and keeps it mapped until the process ends: a vCPU thread may outlive everything
/// else when the VM is killed.
pub(super) fn map_ram(vm: &VmFd, memory: &Memory) -> Result<(), kvm_ioctls::Error> {
    std::mem::forget(Arc::clone(memory));
    for (slot, region) in (0..WINDOW_SLOT).zip(memory.iter()) {
        let mapping = kvm_userspace_memory_region {
            slot,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the mapping is as long as the slot, overlaps no other slot (regions are disjoint), is not aliased by
        // Rust references (vm-memory hands out volatile accesses only) and, as one handle was just forgotten, is
        // never unmapped.
        unsafe { vm.set_user_memory_region(mapping) }?;
    }
    Ok(())
}

/// Copies pages of RAM, by their bytes from its start, as if the guest had written to them. Gives where they are for the
/// guest; nothing for bytes that are not all in one piece of RAM, which the guest's own faults will see to.
pub(super) fn populate(memory: &Memory, range: &Range<u64>) -> io::Result<Option<Range<u64>>> {
    let mut before = 0;
    for region in memory.iter() {
        let inside = before..before + region.len();
        if inside.contains(&range.start) && range.end <= inside.end {
            let offset = range.start - before;
            let len = range.end - range.start;
            let size = usize::try_from(len).expect("64-bit program");
            let start = usize::try_from(offset).expect("64-bit program");
            // SAFETY: the bytes are within the mapping, as was just seen, which lives as long as `memory`. Their content
            // stays as it is, and nobody holds references to it.
            unsafe {
                madvise(
                    region.as_ptr().add(start).cast(),
                    size,
                    Advice::LinuxPopulateWrite,
                )
            }?;
            let guest = region.start_addr().0 + offset;
            return Ok(Some(guest..guest + len));
        }
        before = inside.end;
    }
    Ok(None)
}

/// Puts guest addresses into the tables that the processor translates them with, as they are mapped now.
pub(super) fn pre_fault(vcpu: &VcpuFd, guest: Range<u64>) -> io::Result<()> {
    let mut left = kvm_pre_fault_memory {
        gpa: guest.start,
        size: guest.end - guest.start,
        ..Default::default()
    };
    while left.size > 0 {
        // SAFETY: the structure is the one of this ioctl, in which KVM writes how much is left.
        if unsafe { ioctl_with_mut_ref(vcpu, PRE_FAULT_MEMORY, &mut left) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Sets the FPU state of a vCPU.
pub(super) fn set_xsave(vcpu: &VcpuFd, xsave: &kvm_xsave) -> Result<(), kvm_ioctls::Error> {
    // SAFETY: KVM reads more than the structure only when the VM was given dynamic features (AMX) by arch_prctl, which
    // this process never asks for.
    unsafe { vcpu.set_xsave(xsave) }
}

/// The window memory as the guest sees it: a slot that comes and goes with the BAR.
pub(crate) struct WindowSlot {
    vm: Arc<VmFd>,
    region: MmapRegion,
}

impl WindowSlot {
    /// Maps the memfd, all `len` bytes of it.
    pub(crate) fn new(vm: Arc<VmFd>, memfd: OwnedFd, len: usize) -> io::Result<Self> {
        let file = FileOffset::new(memfd.into(), 0);
        let region = MmapRegion::from_file(file, len).map_err(io::Error::other)?;
        Ok(Self { vm, region })
    }

    fn set(&self, guest_phys_addr: u64, memory_size: u64) -> io::Result<()> {
        let mapping = kvm_userspace_memory_region {
            slot: WINDOW_SLOT,
            guest_phys_addr,
            memory_size,
            userspace_addr: self.region.as_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the mapping is at least `memory_size` long and lives as long as `self`, which `Drop` takes out of the
        // guest first. KVM refuses an address that overlaps another slot. Nobody here holds references into it.
        unsafe { self.vm.set_user_memory_region(mapping) }
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }
}

impl SlotMapper for WindowSlot {
    fn map(&self, address: u64) -> io::Result<()> {
        self.set(
            address,
            u64::try_from(self.region.size()).expect("64-bit program"),
        )
    }

    fn unmap(&self) {
        // Length zero deletes the slot. It fails when there is none, and then there is nothing to do.
        let _ = self.set(0, 0);
    }
}

impl Drop for WindowSlot {
    fn drop(&mut self) {
        self.unmap();
    }
}
