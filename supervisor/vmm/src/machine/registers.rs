//! vCPU state: MSRs and local APIC at reset, and the registers that the PVH boot protocol asks for.

use casemate_devices::virtio::Memory;
use kvm_bindings::{Msrs, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::{MachineError, layout, to};

/// Where a PVH kernel starts: 32-bit protected mode without paging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryPoint {
    /// Address of the first instruction.
    pub(crate) address: u32,
}

/// MSRs of a fresh vCPU: no system call entries, strings fast, and all memory write-back unless said otherwise,
/// or Linux would map RAM and BARs uncached.
const MSRS: [(u32, u64); 11] = [
    (0x174, 0),       // IA32_SYSENTER_CS
    (0x175, 0),       // IA32_SYSENTER_ESP
    (0x176, 0),       // IA32_SYSENTER_EIP
    (0xc000_0081, 0), // STAR
    (0xc000_0082, 0), // LSTAR
    (0xc000_0083, 0), // CSTAR
    (0xc000_0084, 0), // SYSCALL_MASK
    (0xc000_0102, 0), // KERNEL_GS_BASE
    (0x10, 0),        // TSC
    (0x1a0, 1),       // IA32_MISC_ENABLE: fast strings
    (0x2ff, 0x806),   // IA32_MTRR_DEF_TYPE: enabled, write-back
];

/// Brings a vCPU whose CPUID is set into its first state.
pub(super) fn reset(vcpu: &VcpuFd) -> Result<(), MachineError> {
    let entries = MSRS.map(|(index, data)| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    });
    let msrs = Msrs::from_entries(&entries).expect("fewer than KVM's limit");
    let written = to("set model-specific registers", vcpu.set_msrs(&msrs))?;
    if let Some((index, _)) = MSRS.get(written) {
        tracing::warn!(msr = %format_args!("{index:#x}"), "KVM does not know this register");
    }
    let mut lapic = to("read the local APIC", vcpu.get_lapic())?;
    set_local_interrupts(&mut lapic);
    to("set the local APIC", vcpu.set_lapic(&lapic))
}

/// LINT0 takes the legacy interrupt controller, LINT1 the NMI, as firmware would leave them.
fn set_local_interrupts(lapic: &mut kvm_lapic_state) {
    const LVT_LINT0: usize = 0x350;
    const LVT_LINT1: usize = 0x360;
    const DELIVER_NMI: u8 = 0x4;
    const DELIVER_EXTERNAL: u8 = 0x7;
    for (register, mode) in [(LVT_LINT0, DELIVER_EXTERNAL), (LVT_LINT1, DELIVER_NMI)] {
        // The delivery mode is the low three bits of a register's second byte.
        let byte = &mut lapic.regs[register + 1];
        let [old] = byte.to_le_bytes();
        *byte = i8::from_le_bytes([(old & !0x7) | mode]);
    }
}

/// Flat code: present, 32-bit, execute and read.
const CODE: u16 = 0xc09b;
/// Flat data: present, 32-bit, read and write.
const DATA: u16 = 0xc093;
/// Busy 32-bit task state.
const TASK: u16 = 0x008b;

/// Registers of the PVH boot protocol: flat segments, EBX at the start info, a task register with a limit.
pub(super) fn enter(vcpu: &VcpuFd, memory: &Memory, entry: EntryPoint) -> Result<(), MachineError> {
    const PROTECTED: u64 = 0x1;
    const COPROCESSOR: u64 = 0x10;
    let code = segment(1, CODE, 0xffff_ffff);
    let data = segment(2, DATA, 0xffff_ffff);
    let task = segment(3, TASK, 0x67);
    let table = [0, descriptor(code), descriptor(data), descriptor(task)];
    for (index, value) in (0_u64..).zip(table) {
        memory
            .write_obj(value, GuestAddress(layout::GDT + index * 8))
            .expect("RAM begins at 0 and is larger than the first page");
    }
    let mut sregs = to("read segment registers", vcpu.get_sregs())?;
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = 4 * 8 - 1;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    (sregs.cs, sregs.tr) = (code, task);
    for register in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *register = data;
    }
    sregs.cr0 = PROTECTED | COPROCESSOR;
    (sregs.cr3, sregs.cr4, sregs.efer) = (0, 0, 0);
    to("set segment registers", vcpu.set_sregs(&sregs))?;
    let regs = kvm_regs {
        rflags: 0x2,
        rip: u64::from(entry.address),
        rbx: layout::START_INFO,
        ..Default::default()
    };
    to("set registers", vcpu.set_regs(&regs))
}

/// Segment number `index` of the table, from 0 to `limit`. `flags` are bits 8 to 23 of a descriptor's high half.
fn segment(index: u16, flags: u16, limit: u32) -> kvm_segment {
    let [access, high] = flags.to_le_bytes();
    let bit = |byte: u8, bit: u8| (byte >> bit) & 1;
    kvm_segment {
        base: 0,
        limit,
        selector: index * 8,
        type_: access & 0xf,
        s: bit(access, 4),
        dpl: (access >> 5) & 0x3,
        present: bit(access, 7),
        avl: bit(high, 4),
        l: bit(high, 5),
        db: bit(high, 6),
        g: bit(high, 7),
        unusable: 0,
        padding: 0,
    }
}

/// The descriptor of a segment with base 0, as the processor reads it from memory.
fn descriptor(segment: kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 {
        segment.limit >> 12
    } else {
        segment.limit
    });
    let bits = |value: u8, shift: u32| u64::from(value) << shift;
    (limit & 0xffff)
        | bits(segment.type_, 40)
        | bits(segment.s, 44)
        | bits(segment.dpl, 45)
        | bits(segment.present, 47)
        | ((limit >> 16) & 0xf) << 48
        | bits(segment.avl, 52)
        | bits(segment.l, 53)
        | bits(segment.db, 54)
        | bits(segment.g, 55)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_those_of_the_manual() {
        for (flags, limit, expected) in [
            (CODE, 0xffff_ffff, 0x00cf_9b00_0000_ffff),
            (DATA, 0xffff_ffff, 0x00cf_9300_0000_ffff),
            (TASK, 0x67, 0x0000_8b00_0000_0067),
        ] {
            assert_eq!(descriptor(segment(1, flags, limit)), expected, "{flags:#x}");
        }
    }

    #[test]
    fn local_interrupts_keep_their_other_bits() {
        let mut lapic = kvm_lapic_state::default();
        lapic.regs[0x351] = 0x50;
        lapic.regs[0x361] = 0x13;
        set_local_interrupts(&mut lapic);
        assert_eq!((lapic.regs[0x351], lapic.regs[0x361]), (0x57, 0x14));
    }
}
