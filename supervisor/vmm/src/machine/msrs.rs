//! Which model-specific registers a guest reaches. What is not named raises a general protection fault, whatever the host's
//! KVM would do: one that is told to ignore unknown registers, or a later one that knows more, opens nothing.
//!
//! KVM still asks CPUID for most of these. Registers of the local APIC in x2APIC mode (0x800 to 0x8ff) are the interrupt
//! controller's, which the kernel does not let anybody filter.

use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd};

use super::{MachineError, to};

/// First and last of registers that a guest may read and write.
const ALLOWED: [(u32, u32); 40] = [
    (0x10, 0x10),               // TSC
    (0x17, 0x17),               // PLATFORM_ID
    (0x1b, 0x1b),               // APIC_BASE
    (0x3a, 0x3b),               // FEATURE_CONTROL, TSC_ADJUST
    (0x48, 0x49),               // SPEC_CTRL, PRED_CMD
    (0x8b, 0x8b),               // UCODE_REV
    (0xce, 0xcf),               // PLATFORM_INFO, CORE_CAPABILITIES
    (0xe1, 0xe1),               // UMWAIT_CONTROL
    (0xfe, 0xfe),               // MTRR_CAP
    (0x10a, 0x10b),             // ARCH_CAPABILITIES, FLUSH_CMD
    (0x122, 0x122),             // TSX_CTRL
    (0x140, 0x140),             // MISC_FEATURES_ENABLES
    (0x174, 0x176),             // SYSENTER
    (0x179, 0x17b),             // MCG_CAP, MCG_STATUS, MCG_CTL
    (0x1a0, 0x1a0),             // MISC_ENABLE
    (0x1c4, 0x1c5),             // XFD, XFD_ERR
    (0x1d9, 0x1d9),             // DEBUGCTL
    (0x200, 0x20f),             // variable MTRRs
    (0x250, 0x250),             // fixed MTRRs
    (0x258, 0x259),             //
    (0x268, 0x26f),             //
    (0x277, 0x277),             // PAT
    (0x2ff, 0x2ff),             // MTRR_DEF_TYPE
    (0x400, 0x47f),             // banks of machine checks
    (0x6a0, 0x6a8),             // shadow stacks
    (0x6e0, 0x6e0),             // TSC_DEADLINE
    (0xda0, 0xda0),             // XSS
    (0x4b56_4d00, 0x4b56_4d08), // KVM: clock, steal time, end of interrupt, page faults, polling
    (0xc000_0080, 0xc000_0084), // EFER, STAR, LSTAR, CSTAR, SYSCALL_MASK
    (0xc000_0100, 0xc000_0103), // FS_BASE, GS_BASE, KERNEL_GS_BASE, TSC_AUX
    (0xc001_0010, 0xc001_0010), // SYSCFG
    (0xc001_0015, 0xc001_0015), // HWCR
    (0xc001_001f, 0xc001_001f), // NB_CFG
    (0xc001_0055, 0xc001_0055), // INT_PENDING_MSG
    (0xc001_0112, 0xc001_0113), // TSEG, which reads as absent
    (0xc001_011f, 0xc001_011f), // VIRT_SPEC_CTRL
    (0xc001_0140, 0xc001_0141), // OSVW
    (0xc001_1022, 0xc001_1022), // DC_CFG
    (0xc001_1029, 0xc001_102a), // DE_CFG, BU_CFG2
    (0xc001_102c, 0xc001_102c), // EX_CFG
];

/// Bits of a window: enough for the longest of [`WINDOWS`].
const BITS: usize = 0x1200;

/// First register and length of the windows that hold all of [`ALLOWED`]; KVM takes sixteen.
const WINDOWS: [(u32, u32); 4] = [
    (0, 0x1000),
    (0x4b56_4d00, 0x100),
    (0xc000_0000, 0x200),
    (0xc001_0000, 0x1200),
];

type Bitmap = [u8; BITS / 8];

/// The registers of a window that a guest may use.
fn bitmap(first: u32, count: u32) -> Bitmap {
    let mut bitmap = [0; BITS / 8];
    let allowed = ALLOWED.iter().flat_map(|(from, to)| *from..=*to);
    for register in allowed.filter(|register| (first..first + count).contains(register)) {
        let bit = register - first;
        if let Some(byte) = bitmap.get_mut((bit / 8) as usize) {
            *byte |= 1 << (bit % 8);
        }
    }
    bitmap
}

/// Denies a VM that has no vCPU yet all others.
///
/// # Errors
/// KVM's.
pub(super) fn filter(vm: &VmFd) -> Result<(), MachineError> {
    let bitmaps = WINDOWS.map(|(first, count)| bitmap(first, count));
    let ranges: Vec<_> = WINDOWS
        .iter()
        .zip(&bitmaps)
        .map(|((base, msr_count), bitmap)| MsrFilterRange {
            flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
            base: *base,
            msr_count: *msr_count,
            bitmap,
        })
        .collect();
    let denied = MsrFilterDefaultAction::DENY;
    to("filter its registers", vm.set_msr_filter(denied, &ranges))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_windows_hold_every_register_that_is_allowed_and_no_other() {
        let mut found = Vec::new();
        for (first, count) in WINDOWS {
            assert!(count as usize <= BITS, "{first:#x}");
            let bitmap = bitmap(first, count);
            for bit in 0..count {
                if bitmap[bit as usize / 8] & (1 << (bit % 8)) != 0 {
                    found.push(first + bit);
                }
            }
        }
        let allowed: Vec<u32> = ALLOWED.iter().flat_map(|(from, to)| *from..=*to).collect();
        assert_eq!(found, allowed, "also in their order, each once");
    }

    /// What a host may be told to hide nothing of: counters, nested virtualization, power, the processor's own microcode.
    #[test]
    fn what_nobody_in_a_vm_needs_is_denied() {
        for register in [
            0x79,
            0xc1,
            0x186,
            0x345,
            0x38f,
            0x480,
            0x491,
            0x600,
            0x606,
            0xc001_0020,
            0xc001_0114,
            0xc001_0117,
            0xc001_0200,
            0x4000_0000,
        ] {
            let within = |(from, to): &(u32, u32)| (*from..=*to).contains(&register);
            assert!(!ALLOWED.iter().any(within), "{register:#x}");
        }
    }
}
