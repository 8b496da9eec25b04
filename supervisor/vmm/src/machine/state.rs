//! What KVM keeps of a VM, taken out of it and put back: the in-kernel devices, and every vCPU.
//!
//! The order is not free. Out: the run state first, because reading it can change the local APIC, and pending events
//! last. In: CPUID (set when the vCPU was made), run state, registers, FPU, local APIC, MSRs with the TSC before the deadline
//! that is measured by it, events; the clock after all vCPUs and before any of them runs.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_MAX_MSR_ENTRIES, Msrs,
    kvm_clock_data, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry,
    kvm_pit_state2, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{VcpuFd, VmFd};
use serde::{Deserialize, Serialize};

use super::{MachineError, slots, to};

/// Time stamp counter.
const TSC: u32 = 0x10;
/// Deadline of the local APIC's timer, in ticks of the TSC.
const TSC_DEADLINE: u32 = 0x6e0;

/// MSRs that KVM knows without listing them: variable and fixed memory type ranges, and their default type.
const MEMORY_TYPES: [std::ops::RangeInclusive<u32>; 5] = [
    0x200..=0x20f,
    0x250..=0x250,
    0x258..=0x259,
    0x268..=0x26f,
    0x2ff..=0x2ff,
];

/// MSRs of another hypervisor's interface, which no vCPU of ours announces.
const FOREIGN: std::ops::Range<u32> = 0x4000_0000..0x4000_0200;

/// The MSRs that a snapshot keeps, of those that KVM lists.
pub(super) fn kept_msrs(listed: &[u32]) -> Vec<u32> {
    listed
        .iter()
        .copied()
        .filter(|index| !FOREIGN.contains(index))
        .chain(MEMORY_TYPES.into_iter().flatten())
        .collect()
}

/// In-kernel devices.
#[derive(Serialize, Deserialize)]
pub(crate) struct ChipState {
    clock: kvm_clock_data,
    timer: kvm_pit_state2,
    controllers: [kvm_irqchip; 3],
}

/// One vCPU.
#[derive(Serialize, Deserialize)]
pub(crate) struct VcpuState {
    run: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    xcrs: kvm_xcrs,
    debug: kvm_debugregs,
    lapic: kvm_lapic_state,
    /// Frequency of the TSC, where KVM says it.
    tsc_khz: Option<u32>,
    /// Numbers and values, in the order in which they are set.
    msrs: Vec<(u32, u64)>,
    events: kvm_vcpu_events,
}

/// Reads the in-kernel devices of a VM whose vCPUs stand still.
pub(crate) fn save_chips(vm: &VmFd) -> Result<ChipState, MachineError> {
    let controller = |chip_id| -> Result<kvm_irqchip, MachineError> {
        let mut chip = kvm_irqchip {
            chip_id,
            ..Default::default()
        };
        to("read an interrupt controller", vm.get_irqchip(&mut chip))?;
        Ok(chip)
    };
    Ok(ChipState {
        clock: to("read its clock", vm.get_clock())?,
        timer: to("read its timer", vm.get_pit2())?,
        controllers: [
            controller(KVM_IRQCHIP_PIC_MASTER)?,
            controller(KVM_IRQCHIP_PIC_SLAVE)?,
            controller(KVM_IRQCHIP_IOAPIC)?,
        ],
    })
}

impl ChipState {
    /// Sets interrupt controllers and timer; the clock is for [`ChipState::restore_clock`].
    pub(super) fn restore(&self, vm: &VmFd) -> Result<(), MachineError> {
        for chip in &self.controllers {
            to("set an interrupt controller", vm.set_irqchip(chip))?;
        }
        to("set its timer", vm.set_pit2(&self.timer))
    }

    /// Lets the guest's clock go on from where it was: time in between has not passed for it. Its wall clock is then
    /// behind, which an agent in the guest sets right; a jump of all its timers it could not.
    pub(super) fn restore_clock(&self, vm: &VmFd) -> Result<(), MachineError> {
        let clock = kvm_clock_data {
            clock: self.clock.clock,
            ..Default::default()
        };
        to("set its clock", vm.set_clock(&clock))
    }
}

/// Reads all vCPUs, which stand still between two runs. `indices` are the MSRs that KVM knows.
pub(crate) fn save_vcpu(vcpu: &VcpuFd, indices: &[u32]) -> Result<VcpuState, MachineError> {
    let run = to("read a run state", vcpu.get_mp_state())?;
    Ok(VcpuState {
        run,
        regs: to("read registers", vcpu.get_regs())?,
        sregs: to("read segment registers", vcpu.get_sregs())?,
        xsave: to("read the FPU", vcpu.get_xsave())?,
        xcrs: to("read extended control registers", vcpu.get_xcrs())?,
        debug: to("read debug registers", vcpu.get_debug_regs())?,
        lapic: to("read the local APIC", vcpu.get_lapic())?,
        tsc_khz: vcpu.get_tsc_khz().ok(),
        msrs: in_order(read_msrs(vcpu, indices)?),
        events: to("read pending events", vcpu.get_vcpu_events())?,
    })
}

/// All MSRs that can be read; those that cannot have nothing to be restored.
fn read_msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<(u32, u64)>, MachineError> {
    let mut found = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let chunk = rest.get(..KVM_MAX_MSR_ENTRIES).unwrap_or(rest);
        let entries: Vec<_> = chunk.iter().map(|index| entry((*index, 0))).collect();
        let mut msrs = Msrs::from_entries(&entries).expect("no more than KVM's limit");
        let read = to("read model-specific registers", vcpu.get_msrs(&mut msrs))?;
        let good = msrs.as_slice().iter().take(read);
        found.extend(good.map(|msr| (msr.index, msr.data)));
        // KVM stops at the first that it refuses.
        let done = if read < chunk.len() { read + 1 } else { read };
        rest = rest.get(done..).unwrap_or_default();
    }
    Ok(found)
}

/// In the order in which they have to be set: the TSC first, its deadline last. A deadline of zero means that it has
/// passed or was never set: it becomes "now", so that a tick that fell into the pause is made up for, or restored tasks
/// would wait for ever. Where the timer is in another mode KVM ignores it.
fn in_order(mut msrs: Vec<(u32, u64)>) -> Vec<(u32, u64)> {
    let now = msrs
        .iter()
        .find(|(index, _)| *index == TSC)
        .map_or(0, |(_, value)| *value);
    for (index, value) in &mut msrs {
        if *index == TSC_DEADLINE && *value == 0 {
            *value = now;
        }
    }
    // Stable: all others stay as KVM lists them.
    msrs.sort_by_key(|(index, _)| match *index {
        TSC => 0,
        TSC_DEADLINE => 2,
        _ => 1,
    });
    msrs
}

/// One TSC for all vCPUs: they were read one after the other, but had the same when they stood still.
pub(crate) fn align_tsc(vcpus: &mut [VcpuState]) {
    let value = |vcpu: &VcpuState| vcpu.msrs.iter().find(|(index, _)| *index == TSC).copied();
    let Some((_, first)) = vcpus.first().and_then(value) else {
        return;
    };
    for (index, tsc) in vcpus.iter_mut().flat_map(|vcpu| &mut vcpu.msrs) {
        if *index == TSC {
            *tsc = first;
        }
    }
}

impl VcpuState {
    /// Puts the state into a vCPU that is new and has its CPUID.
    pub(super) fn restore(&self, vcpu: &VcpuFd) -> Result<(), MachineError> {
        if let Some(khz) = self.tsc_khz
            && vcpu.get_tsc_khz().ok() != Some(khz)
        {
            to("set the frequency of its TSC", vcpu.set_tsc_khz(khz))?;
        }
        to("set a run state", vcpu.set_mp_state(self.run))?;
        to("set registers", vcpu.set_regs(&self.regs))?;
        to("set segment registers", vcpu.set_sregs(&self.sregs))?;
        to("set the FPU", slots::set_xsave(vcpu, &self.xsave))?;
        to("set extended control registers", vcpu.set_xcrs(&self.xcrs))?;
        to("set debug registers", vcpu.set_debug_regs(&self.debug))?;
        to("set the local APIC", vcpu.set_lapic(&self.lapic))?;
        write_msrs(vcpu, &self.msrs)?;
        to("set pending events", vcpu.set_vcpu_events(&self.events))
    }
}

/// Sets MSRs in their order. One that KVM lets be read but not set is an error, but for a zero: that is what it is.
fn write_msrs(vcpu: &VcpuFd, saved: &[(u32, u64)]) -> Result<(), MachineError> {
    let mut rest = saved;
    while !rest.is_empty() {
        let chunk = rest.get(..KVM_MAX_MSR_ENTRIES).unwrap_or(rest);
        let entries: Vec<_> = chunk.iter().copied().map(entry).collect();
        let msrs = Msrs::from_entries(&entries).expect("no more than KVM's limit");
        let mut done = to("set model-specific registers", vcpu.set_msrs(&msrs))?;
        match chunk.get(done) {
            None => {}
            Some((_, 0)) => done += 1,
            Some((index, _)) => return Err(MachineError::Msr(*index)),
        }
        rest = rest.get(done..).unwrap_or_default();
    }
    Ok(())
}

fn entry((index, data): (u32, u64)) -> kvm_msr_entry {
    kvm_msr_entry {
        index,
        data,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_types_are_kept_and_foreign_registers_are_not() {
        let kept = kept_msrs(&[TSC, 0x4000_0000, 0x4000_01ff, 0x4b56_4d01]);
        assert_eq!(kept[..2], [TSC, 0x4b56_4d01]);
        assert_eq!(kept.len(), 2 + 16 + 1 + 2 + 8 + 1);
        assert!(kept.contains(&0x2ff));
    }

    #[test]
    fn the_tsc_is_set_before_its_deadline() {
        for (read, expected) in [
            (
                &[(TSC_DEADLINE, 9), (0x174, 1), (TSC, 5), (0x175, 2)][..],
                &[(TSC, 5), (0x174, 1), (0x175, 2), (TSC_DEADLINE, 9)][..],
            ),
            // A tick that was lost comes at once.
            (
                &[(TSC_DEADLINE, 0), (TSC, 5)],
                &[(TSC, 5), (TSC_DEADLINE, 5)],
            ),
            (&[(0x174, 0)], &[(0x174, 0)]),
        ] {
            assert_eq!(in_order(read.to_vec()), expected);
        }
    }
}
