//! What a vCPU says it is: the features of a CPU model, made consistent for `count` cores of one package.
//!
//! Pure: entries in, entries out. Taken away: nested virtualization and performance counters, which are attack surface
//! that nobody in a VM asked for.

mod compatible;

use casemate_vmm_control::CpuModel;
use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Where a vCPU is among its siblings: every vCPU is a core with one thread, all in one package.
#[derive(Clone, Copy, Debug)]
pub(super) struct Topology {
    /// APIC id.
    pub(super) index: u8,
    /// Number of vCPUs.
    pub(super) count: u8,
    /// The in-kernel local APIC has the TSC deadline mode; KVM does not say so in CPUID by itself.
    pub(super) tsc_deadline: bool,
}

impl Topology {
    /// Bits of an APIC id that tell cores apart.
    fn core_bits(self) -> u32 {
        u32::from(self.count).next_power_of_two().trailing_zeros()
    }
}

const FEATURES: u32 = 0x1;
const CACHE: u32 = 0x4;
const THERMAL: u32 = 0x6;
const PERFORMANCE: u32 = 0xa;
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_V2: u32 = 0x1f;
const EXTENDED_FEATURES: u32 = 0x8000_0001;
const ADDRESS_SIZES: u32 = 0x8000_0008;
const SVM: u32 = 0x8000_000a;
const AMD_CACHE: u32 = 0x8000_001d;
const AMD_TOPOLOGY: u32 = 0x8000_001e;
const AMD_PERFORMANCE: u32 = 0x8000_0022;
const AMD_TOPOLOGY_V2: u32 = 0x8000_0026;

/// Physical address bits of the vCPU; 36 when the host does not say, as the architecture has it.
pub(super) fn physical_bits(entries: &[kvm_cpuid_entry2]) -> u8 {
    entries
        .iter()
        .find(|entry| entry.function == ADDRESS_SIZES)
        .map_or(36, |entry| entry.eax.to_le_bytes()[0])
}

pub(crate) use compatible::MissingFeature;

/// What a model shows of what KVM supports, before topology.
///
/// # Errors
/// [`MissingFeature`] when this host has less than the model.
pub(super) fn model(
    supported: &[kvm_cpuid_entry2],
    model: CpuModel,
) -> Result<Vec<kvm_cpuid_entry2>, MissingFeature> {
    match model {
        CpuModel::Host => Ok(supported.to_vec()),
        CpuModel::Compatible => compatible::reduce(supported),
    }
}

/// The features of one vCPU.
pub(super) fn normalise(
    supported: &[kvm_cpuid_entry2],
    topology: Topology,
) -> Vec<kvm_cpuid_entry2> {
    let mut entries: Vec<_> = supported
        .iter()
        .copied()
        .filter(|entry| ![TOPOLOGY, TOPOLOGY_V2, AMD_TOPOLOGY_V2].contains(&entry.function))
        .collect();
    for entry in &mut entries {
        adjust(entry, topology);
    }
    if let Some(basic) = entries.iter_mut().find(|entry| entry.function == 0) {
        basic.eax = basic.eax.max(TOPOLOGY);
    }
    entries.extend(topology_leaf(topology));
    entries
}

fn adjust(entry: &mut kvm_cpuid_entry2, topology: Topology) {
    let id = u32::from(topology.index);
    let count = u32::from(topology.count);
    match entry.function {
        FEATURES => {
            entry.ebx = (id << 24)
                | (count.next_power_of_two() << 16)
                | (entry.ebx & 0xff) // Brand index.
                | (8 << 8); // CLFLUSH lines of 64 bytes.
            // DS save area in 64 bits, MONITOR, CPL-qualified DS, VMX, PDCM.
            entry.ecx &= !(1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 15);
            entry.ecx |= 1 << 31; // A hypervisor is present.
            if topology.tsc_deadline {
                entry.ecx |= 1 << 24;
            }
            entry.edx &= !(1 << 21); // Debug store.
            set(&mut entry.edx, 28, topology.count > 1); // The count above is valid.
        }
        CACHE | AMD_CACHE if entry.eax & 0x1f != 0 => {
            let level = (entry.eax >> 5) & 0x7;
            // The last level is shared by all cores, the others by nobody.
            let sharing = if level >= 3 { count - 1 } else { 0 };
            entry.eax = (entry.eax & 0x3fff) | (sharing << 14);
            if entry.function == CACHE {
                entry.eax |= (count - 1) << 26;
            }
        }
        // Only "the APIC timer always runs"; KVM emulates none of the rest.
        THERMAL => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (entry.eax & 1 << 2, 0, 0, 0),
        PERFORMANCE | SVM | AMD_PERFORMANCE => {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
        }
        EXTENDED_FEATURES => {
            // SVM, performance counters of core, northbridge and last-level cache.
            entry.ecx &= !(1 << 2 | 1 << 23 | 1 << 24 | 1 << 28);
            // "Legacy multi-core" flag: the count in leaf 0x80000008 is of cores.
            set(&mut entry.ecx, 1, topology.count > 1);
        }
        ADDRESS_SIZES => entry.ecx = (topology.core_bits() << 12) | (count - 1),
        AMD_TOPOLOGY => (entry.eax, entry.ebx, entry.ecx) = (id, id, 0),
        _ => {}
    }
}

/// Leaf 0xb: one thread a core, then the cores, then the end.
fn topology_leaf(topology: Topology) -> [kvm_cpuid_entry2; 3] {
    const THREAD: u32 = 1;
    const CORE: u32 = 2;
    let level = |index: u32, shift: u32, processors: u32, kind: u32| kvm_cpuid_entry2 {
        function: TOPOLOGY,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: processors,
        ecx: index | (kind << 8),
        edx: u32::from(topology.index),
        ..Default::default()
    };
    [
        level(0, 0, 1, THREAD),
        level(1, topology.core_bits(), u32::from(topology.count), CORE),
        level(2, 0, 0, 0),
    ]
}

fn set(register: &mut u32, bit: u32, on: bool) {
    if on {
        *register |= 1 << bit;
    } else {
        *register &= !(1 << bit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn leaf(function: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = registers;
        kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        }
    }

    /// Registers of one leaf for the vCPU `index` of `count`, of a host with all bits set.
    fn check(function: u32, index: u8, count: u8, expected: [u32; 4]) {
        let topology = Topology {
            index,
            count,
            tsc_deadline: true,
        };
        let entries = normalise(&[leaf(function, [u32::MAX; 4])], topology);
        let entry = entries
            .iter()
            .find(|entry| entry.function == function)
            .expect("the leaf stays");
        assert_eq!(
            [entry.eax, entry.ebx, entry.ecx, entry.edx],
            expected,
            "leaf {function:#x} of vCPU {index} of {count}"
        );
    }

    #[test]
    fn leaves_fit_the_topology() {
        const ALL: u32 = u32::MAX;
        check(1, 2, 3, [ALL, 0x0204_08ff, 0xffff_7fc3, 0xffdf_ffff]);
        check(1, 0, 1, [ALL, 0x0001_08ff, 0xffff_7fc3, 0xefdf_ffff]);
        check(0xa, 0, 1, [0; 4]);
        check(0x8000_000a, 0, 1, [0; 4]);
        check(0x8000_0008, 3, 4, [ALL, ALL, 0x2003, ALL]);
        check(0x8000_0008, 0, 1, [ALL, ALL, 0, ALL]);
        check(0x8000_001e, 5, 8, [5, 5, 0, ALL]);
        check(4, 1, 4, [0x0c00_ffff, ALL, ALL, ALL]);
        check(0xb, 1, 4, [0, 1, 0x100, 1]);
    }

    #[test]
    fn the_cores_of_leaf_b_are_told_apart_by_their_id() {
        let topology = Topology {
            index: 4,
            count: 5,
            tsc_deadline: false,
        };
        let entries = normalise(&[leaf(0, [0x4, 0, 0, 0]), leaf(0x1f, [9; 4])], topology);
        let leaves: Vec<_> = entries
            .iter()
            .map(|entry| (entry.function, entry.index, entry.eax, entry.ebx, entry.edx))
            .collect();
        assert_eq!(
            leaves,
            [
                (0, 0, 0xb, 0, 0),
                (0xb, 0, 0, 1, 4),
                (0xb, 1, 3, 5, 4),
                (0xb, 2, 0, 0, 4)
            ]
        );
    }
}
