//! Memory slots: what of this process's memory the guest sees, and where; and the one other call of KVM that takes more than
//! its type says. The only unsafe code of the machine.
#![expect(
    unsafe_code,
    reason = "KVM takes memory slots as raw addresses of this process"
)]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use casemate_devices::virtio::Memory;
use casemate_devices::window_memory::SlotMapper;
use kvm_bindings::{kvm_userspace_memory_region, kvm_xsave};
use kvm_ioctls::{VcpuFd, VmFd};
use vm_memory::{FileOffset, GuestMemoryBackend, GuestMemoryRegion, MmapRegion};

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
