//! vCPU state: MSRs and local APIC at reset, and the registers that the boot protocols ask for.

use casemate_devices::virtio::Memory;
use kvm_bindings::{Msrs, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::{MachineError, layout, to};

/// Where a kernel starts, and in which state of the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryPoint {
    /// PVH: 32-bit protected mode without paging, EBX at the start info.
    Pvh {
        /// Address of the first instruction.
        address: u32,
    },
    /// Linux's 64-bit protocol: long mode, the first 4 GiB mapped to themselves, RSI at the zero page.
    Long {
        /// Address of the first instruction.
        address: u64,
    },
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
    let mut rest = MSRS.as_slice();
    // KVM stops at the first one that it does not know.
    while !rest.is_empty() {
        let entries: Vec<_> = rest
            .iter()
            .map(|(index, data)| kvm_msr_entry {
                index: *index,
                data: *data,
                ..Default::default()
            })
            .collect();
        let msrs = Msrs::from_entries(&entries).expect("fewer than KVM's limit");
        let written = to("set model-specific registers", vcpu.set_msrs(&msrs))?;
        let Some(((index, _), after)) = rest.get(written..).and_then(<[_]>::split_first) else {
            break;
        };
        tracing::warn!(msr = %format_args!("{index:#x}"), "KVM does not know this register");
        rest = after;
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
/// Flat code of long mode.
const CODE_64: u16 = 0xa09b;
/// Flat data: present, 32-bit, read and write.
const DATA: u16 = 0xc093;
/// Busy task state.
const TASK: u16 = 0x008b;

const PROTECTED: u64 = 1 << 0;
const COPROCESSOR: u64 = 1 << 4;
const PAGING: u64 = 1 << 31;
const PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const LONG_MODE_ENABLE: u64 = 1 << 8;
const LONG_MODE_ACTIVE: u64 = 1 << 10;

/// Registers of the kernel's boot protocol: flat segments with the numbers that Linux's protocol names (code 2,
/// data 3), a task register with a limit, the boot information in a register.
pub(super) fn enter(vcpu: &VcpuFd, memory: &Memory, entry: EntryPoint) -> Result<(), MachineError> {
    let flags = match entry {
        EntryPoint::Pvh { .. } => CODE,
        EntryPoint::Long { .. } => CODE_64,
    };
    let code = segment(2, flags, 0xffff_ffff);
    let data = segment(3, DATA, 0xffff_ffff);
    let task = segment(4, TASK, 0x67);
    let table = [0, 0, descriptor(code), descriptor(data), descriptor(task)];
    write_table(memory, layout::GDT, &table);
    let mut sregs = to("read segment registers", vcpu.get_sregs())?;
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = 5 * 8 - 1;
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
    let mut regs = kvm_regs {
        rflags: 0x2,
        ..Default::default()
    };
    match entry {
        EntryPoint::Pvh { address } => {
            regs.rip = u64::from(address);
            regs.rbx = layout::START_INFO;
        }
        EntryPoint::Long { address } => {
            map_identity(memory);
            sregs.cr0 |= PAGING;
            sregs.cr3 = layout::PAGE_TABLES;
            sregs.cr4 = PHYSICAL_ADDRESS_EXTENSION;
            sregs.efer = LONG_MODE_ENABLE | LONG_MODE_ACTIVE;
            regs.rip = address;
            regs.rsi = layout::ZERO_PAGE;
        }
    }
    to("set segment registers", vcpu.set_sregs(&sregs))?;
    to("set registers", vcpu.set_regs(&regs))
}

/// Page tables that map the first 4 GiB to themselves, in pages of 2 MiB.
fn map_identity(memory: &Memory) {
    const PAGE: u64 = 4096;
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    const DIRECTORIES: u64 = layout::PAGE_TABLES + 2 * PAGE;
    write_table(
        memory,
        layout::PAGE_TABLES,
        &[(layout::PAGE_TABLES + PAGE) | PRESENT_WRITABLE],
    );
    let directories: Vec<_> = (0..4)
        .map(|index| (DIRECTORIES + index * PAGE) | PRESENT_WRITABLE)
        .collect();
    write_table(memory, layout::PAGE_TABLES + PAGE, &directories);
    let pages: Vec<_> = (0..4 * 512)
        .map(|index| (index << 21) | PRESENT_WRITABLE | LARGE)
        .collect();
    write_table(memory, DIRECTORIES, &pages);
}

fn write_table(memory: &Memory, address: u64, table: &[u64]) {
    for (place, value) in (address..).step_by(8).zip(table) {
        memory
            .write_obj(*value, GuestAddress(place))
            .expect("every VM has the RAM that boot tables are in");
    }
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
            (CODE_64, 0xffff_ffff, 0x00af_9b00_0000_ffff),
            (DATA, 0xffff_ffff, 0x00cf_9300_0000_ffff),
            (TASK, 0x67, 0x0000_8b00_0000_0067),
        ] {
            assert_eq!(descriptor(segment(1, flags, limit)), expected, "{flags:#x}");
        }
    }

    #[test]
    fn the_first_4_gib_are_mapped_to_themselves() {
        let memory = std::sync::Arc::new(
            vm_memory::GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).expect("memory"),
        );
        map_identity(&memory);
        let read = |address: u64| -> u64 { memory.read_obj(GuestAddress(address)).expect("RAM") };
        for address in [
            0,
            0x1f_ffff,
            0x20_0000,
            0x100_0200,
            0xbfff_f000,
            0xffff_ffff_u64,
        ] {
            let mut table = layout::PAGE_TABLES;
            for shift in [39, 30] {
                let entry = read(table + ((address >> shift) & 0x1ff) * 8);
                assert_eq!(entry & 0xfff, 0b11, "{address:#x}");
                table = entry & !0xfff;
                assert!(table + 4096 <= layout::COMMAND_LINE);
            }
            let entry = read(table + ((address >> 21) & 0x1ff) * 8);
            assert_eq!(entry, (address & !0x1f_ffff) | 0x83, "{address:#x}");
        }
        // 4 GiB and more are not mapped.
        assert_eq!(read(layout::PAGE_TABLES + 8), 0);
        assert_eq!(read(layout::PAGE_TABLES + 4096 + 4 * 8), 0);
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
