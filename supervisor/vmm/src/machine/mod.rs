//! The machine before it runs: KVM objects, RAM, vCPU state. No devices and no threads here.

mod cpuid;
mod host;
mod interrupts;
pub(crate) mod layout;
pub(crate) mod memory;
mod msrs;
mod registers;
mod slots;
pub(crate) mod state;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use casemate_devices::virtio::Memory;
use casemate_vm::{RamSize, VcpuCount};
use casemate_vmm_control::CpuModel;
use kvm_bindings::{
    CpuId, KVM_CAP_PRE_FAULT_MEMORY, KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};

pub(crate) use host::HostId;
pub(crate) use interrupts::{KvmKicks, KvmRoutes, Line};
pub(crate) use registers::EntryPoint;
pub(crate) use slots::{ASSIGNED_SLOTS, WindowSlot};

use crate::inherited;
use crate::snapshot::working_set::WorkingSet;
use state::{ChipState, VcpuState};

/// The KVM of this host cannot run our VMs, or refused a step.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    /// Another interface than version 12.
    #[error("/dev/kvm speaks version {0} of its interface, 12 is needed: is it really KVM?")]
    Version(i32),
    /// A capability is missing.
    #[error("this KVM lacks {0}, which every kernel since 5.10 has: is the host's kernel too old?")]
    Capability(&'static str),
    /// An ioctl failed.
    #[error("KVM refused to {what}")]
    Kvm {
        /// What was being done.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// A saved register is refused.
    #[error("KVM refused the saved value of model-specific register {0:#x}")]
    Msr(u32),
    /// RAM could not be made.
    #[error(transparent)]
    Ram(#[from] memory::RamError),
    /// The processor is less than the CPU model.
    #[error(transparent)]
    Cpu(#[from] cpuid::MissingFeature),
}

/// Names the step in an error.
fn to<T>(what: &'static str, result: Result<T, kvm_ioctls::Error>) -> Result<T, MachineError> {
    result.map_err(|source| MachineError::Kvm { what, source })
}

/// KVM's VM, its RAM and its vCPUs.
pub(crate) struct Machine {
    /// In the order of their APIC ids; the first one boots.
    pub(crate) vcpus: Vec<VcpuFd>,
    /// The VM.
    pub(crate) vm: Arc<VmFd>,
    /// Guest RAM.
    pub(crate) memory: Memory,
    /// Bytes of RAM.
    pub(crate) ram: u64,
    /// What the 64-bit PCI window is for this vCPU model.
    pub(crate) pci_window_64: std::ops::Range<u64>,
    /// Numbers of the model-specific registers that a snapshot keeps.
    pub(crate) msrs: Vec<u32>,
    /// What a snapshot of this machine can be restored on.
    pub(crate) host: HostId,
}

impl Machine {
    /// Makes a VM with `ram` and `vcpus` of a model, in the state of a machine at reset. Its RAM is empty, or a private
    /// copy of `saved`, whose bytes it begins with.
    ///
    /// # Errors
    /// [`MachineError`]; nothing is left behind.
    pub(crate) fn new(
        kvm: OwnedFd,
        ram: RamSize,
        vcpus: VcpuCount,
        cpu: CpuModel,
        saved: Option<&File>,
    ) -> Result<Self, MachineError> {
        let kvm = inherited::kvm(kvm);
        let version = kvm.get_api_version();
        if version != 12 {
            return Err(MachineError::Version(version));
        }
        for (capability, name) in [
            (Cap::Irqchip, "an in-kernel interrupt controller"),
            (Cap::Pit2, "an in-kernel timer"),
            (Cap::Irqfd, "irqfd"),
            (Cap::Ioeventfd, "ioeventfd"),
            (Cap::IoeventfdNoLength, "ioeventfd of any length"),
            (Cap::UserMemory, "user memory"),
            (Cap::SetTssAddr, "a movable TSS"),
            (Cap::ImmediateExit, "immediate exit"),
            (Cap::X86MsrFilter, "a filter of registers"),
        ] {
            if !kvm.check_extension(capability) {
                return Err(MachineError::Capability(name));
            }
        }
        let supported = to(
            "list CPU features",
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES),
        )?;
        let shown = cpuid::model(supported.as_slice(), cpu)?;
        let pci_window_64 = layout::pci_window_64(cpuid::physical_bits(&shown));
        let memory = memory::allocate(ram, pci_window_64.start, saved)?;

        let vm = to("make a VM", kvm.create_vm())?;
        msrs::filter(&vm)?;
        to("place its TSS", vm.set_tss_address(layout::KVM_TSS))?;
        to(
            "place its identity map",
            vm.set_identity_map_address(layout::KVM_IDENTITY_MAP),
        )?;
        slots::map_ram(&vm, &memory).map_err(|source| MachineError::Kvm {
            what: "map guest memory",
            source,
        })?;
        to("make an interrupt controller", vm.create_irq_chip())?;
        to(
            "make a timer",
            vm.create_pit2(kvm_pit_config {
                flags: KVM_PIT_SPEAKER_DUMMY,
                ..Default::default()
            }),
        )?;
        let msrs = to("list its registers", kvm.get_msr_index_list())?;
        let msrs = state::kept_msrs(msrs.as_slice());
        let host = HostId::of(&kvm, &shown, &msrs, vcpus.get());
        let vcpus = (0..vcpus.get())
            .map(|index| {
                let vcpu = vcpu(&kvm, &vm, &shown, index, vcpus)?;
                // A saved state sets all of this, and more.
                if saved.is_none() {
                    registers::reset(&vcpu)?;
                }
                Ok(vcpu)
            })
            .collect::<Result<_, MachineError>>()?;
        Ok(Self {
            vcpus,
            vm: Arc::new(vm),
            memory,
            ram: ram.bytes(),
            pci_window_64,
            msrs,
            host,
        })
    }

    /// Puts a saved state into interrupt controllers, timer, vCPUs and clock of a machine that is new.
    ///
    /// # Errors
    /// [`MachineError`]; the machine must then not run.
    pub(crate) fn restore(
        &self,
        chips: &ChipState,
        vcpus: &[VcpuState],
    ) -> Result<(), MachineError> {
        chips.restore(&self.vm)?;
        for (vcpu, state) in self.vcpus.iter().zip(vcpus) {
            state.restore(vcpu)?;
        }
        chips.restore_clock(&self.vm)
    }

    /// Gives the guest its own copy of pages, in its tables too, before it asks. What a host's kernel cannot do is left to
    /// the faults that there are without.
    pub(crate) fn prefault(&self, set: &WorkingSet) {
        let Some(vcpu) = self.vcpus.first() else {
            return;
        };
        let mapped = self.vm.check_extension_raw(KVM_CAP_PRE_FAULT_MEMORY.into()) > 0;
        for range in set.ranges() {
            let result = slots::populate(&self.memory, &range).and_then(|guest| match guest {
                Some(guest) if mapped => slots::pre_fault(vcpu, guest),
                _ => Ok(()),
            });
            if let Err(error) = result {
                tracing::warn!(%error, "the working set is left to its faults");
                return;
            }
        }
    }

    /// Puts the first vCPU at the kernel's entry; the others wait for it to wake them.
    ///
    /// # Errors
    /// [`MachineError`] when KVM or guest memory refuses.
    pub(crate) fn enter_at(&self, entry: EntryPoint) -> Result<(), MachineError> {
        match self.vcpus.first() {
            Some(first) => registers::enter(first, &self.memory, entry),
            None => Ok(()),
        }
    }
}

fn vcpu(
    kvm: &Kvm,
    vm: &VmFd,
    shown: &[kvm_bindings::kvm_cpuid_entry2],
    index: u8,
    count: VcpuCount,
) -> Result<VcpuFd, MachineError> {
    let vcpu = to("make a vCPU", vm.create_vcpu(u64::from(index)))?;
    let topology = cpuid::Topology {
        index,
        count: count.get(),
        tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
    };
    let entries = cpuid::normalise(shown, topology);
    let entries = CpuId::from_entries(&entries).map_err(|_| MachineError::Kvm {
        what: "take that many CPU feature leaves",
        source: kvm_ioctls::Error::new(rustix::io::Errno::TOOBIG.raw_os_error()),
    })?;
    // Before the MSRs: KVM hides MSRs that the CPUID does not announce.
    to("set CPU features", vcpu.set_cpuid2(&entries))?;
    Ok(vcpu)
}
