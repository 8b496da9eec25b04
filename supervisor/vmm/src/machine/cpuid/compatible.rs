//! The CPU model for the widest compatibility: what every x86-64-v2 processor has, and what a guest needs to protect
//! itself, under a family, model and name that say nothing of the host. `docs/cpu-model.md` has the table for people.
//!
//! Family and model are those of old processors on purpose: a guest judges by them what it must mitigate, and one that
//! mitigates too much is slower, one that mitigates too little is open.

use kvm_bindings::kvm_cpuid_entry2;

use super::{
    ADDRESS_SIZES, AMD_CACHE, AMD_TOPOLOGY, CACHE, EXTENDED_FEATURES, FEATURES, PERFORMANCE,
    THERMAL,
};

const VENDOR: u32 = 0x0;
const CACHE_DESCRIPTORS: u32 = 0x2;
const AMD_CACHE_L1: u32 = 0x8000_0005;
const AMD_CACHE_L2: u32 = 0x8000_0006;
const STRUCTURED_FEATURES: u32 = 0x7;
const EXTENDED_STATE: u32 = 0xd;
const HYPERVISOR: u32 = 0x4000_0000;
const HYPERVISOR_FEATURES: u32 = 0x4000_0001;
const EXTENDED_VENDOR: u32 = 0x8000_0000;
const BRAND: std::ops::RangeInclusive<u32> = 0x8000_0002..=0x8000_0004;
const POWER: u32 = 0x8000_0007;

/// Highest basic leaf.
const LAST_BASIC: u32 = EXTENDED_STATE;

/// The name, padded with zeros to three leaves.
const NAME: &[u8; 48] = b"Casemate virtual CPU, x86-64-v2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// `AuthenticAMD` and `HygonGenuine` as EBX of leaf 0.
const AMD: [u32; 2] = [0x6874_7541, 0x6f67_7948];
/// Family 0x17, model 1, stepping 2.
const AMD_SIGNATURE: u32 = 0x0080_0f12;
/// Family 6, model 0x3c, stepping 3.
const INTEL_SIGNATURE: u32 = 0x0003_06c3;

/// Leaf, sub-leaf and register of features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Leaf1Ecx,
    Leaf1Edx,
    Leaf7Ebx,
    Leaf7Ecx,
    Leaf7Edx,
    ExtendedEcx,
    ExtendedEdx,
    SizesEbx,
    KvmEax,
}

use Word::{
    ExtendedEcx, ExtendedEdx, KvmEax, Leaf1Ecx, Leaf1Edx, Leaf7Ebx, Leaf7Ecx, Leaf7Edx, SizesEbx,
};

/// Features that a host must have.
const REQUIRED: [(Word, u8, &str); 20] = [
    (Leaf1Edx, 0, "fpu"),
    (Leaf1Edx, 4, "tsc"),
    (Leaf1Edx, 5, "msr"),
    (Leaf1Edx, 6, "pae"),
    (Leaf1Edx, 8, "cx8"),
    (Leaf1Edx, 9, "apic"),
    (Leaf1Edx, 13, "pge"),
    (Leaf1Edx, 15, "cmov"),
    (Leaf1Edx, 24, "fxsr"),
    (Leaf1Edx, 25, "sse"),
    (Leaf1Edx, 26, "sse2"),
    (Leaf1Ecx, 0, "sse3"),
    (Leaf1Ecx, 9, "ssse3"),
    (Leaf1Ecx, 13, "cx16"),
    (Leaf1Ecx, 19, "sse4_1"),
    (Leaf1Ecx, 20, "sse4_2"),
    (Leaf1Ecx, 23, "popcnt"),
    (ExtendedEcx, 0, "lahf_lm"),
    (ExtendedEdx, 11, "syscall"),
    (ExtendedEdx, 29, "lm"),
];

/// Features that are shown when the host has them: no code of an application depends on them.
const OPTIONAL: [(Word, u8, &str); 51] = [
    (Leaf1Edx, 1, "vme"),
    (Leaf1Edx, 2, "de"),
    (Leaf1Edx, 3, "pse"),
    (Leaf1Edx, 7, "mce"),
    (Leaf1Edx, 11, "sep"),
    (Leaf1Edx, 12, "mtrr"),
    (Leaf1Edx, 14, "mca"),
    (Leaf1Edx, 16, "pat"),
    (Leaf1Edx, 17, "pse36"),
    (Leaf1Edx, 19, "clflush"),
    (Leaf1Edx, 23, "mmx"),
    (Leaf1Edx, 28, "ht"),
    (Leaf1Ecx, 1, "pclmulqdq"),
    (Leaf1Ecx, 17, "pcid"),
    (Leaf1Ecx, 21, "x2apic"),
    (Leaf1Ecx, 24, "tsc_deadline_timer"),
    (Leaf1Ecx, 25, "aes"),
    (Leaf1Ecx, 26, "xsave"),
    (Leaf1Ecx, 30, "rdrand"),
    (Leaf1Ecx, 31, "hypervisor"),
    (Leaf7Ebx, 0, "fsgsbase"),
    (Leaf7Ebx, 7, "smep"),
    (Leaf7Ebx, 10, "invpcid"),
    (Leaf7Ebx, 18, "rdseed"),
    (Leaf7Ebx, 20, "smap"),
    (Leaf7Ecx, 2, "umip"),
    (Leaf7Edx, 10, "md_clear"),
    (Leaf7Edx, 26, "spec_ctrl"),
    (Leaf7Edx, 27, "intel_stibp"),
    (Leaf7Edx, 28, "flush_l1d"),
    (Leaf7Edx, 31, "spec_ctrl_ssbd"),
    (ExtendedEcx, 1, "cmp_legacy"),
    (ExtendedEcx, 8, "3dnowprefetch"),
    (ExtendedEdx, 20, "nx"),
    (ExtendedEdx, 27, "rdtscp"),
    (SizesEbx, 12, "ibpb"),
    (SizesEbx, 14, "ibrs"),
    (SizesEbx, 15, "stibp"),
    (SizesEbx, 24, "ssbd"),
    (SizesEbx, 25, "virt_ssbd"),
    (KvmEax, 0, "kvmclock (old)"),
    (KvmEax, 1, "nop_io_delay"),
    (KvmEax, 3, "kvmclock"),
    (KvmEax, 5, "steal_time"),
    (KvmEax, 6, "pv_eoi"),
    (KvmEax, 7, "pv_unhalt"),
    (KvmEax, 9, "pv_tlb_flush"),
    (KvmEax, 11, "pv_send_ipi"),
    (KvmEax, 12, "poll_control"),
    (KvmEax, 13, "pv_sched_yield"),
    (KvmEax, 24, "kvmclock_stable"),
];

/// AMD repeats these bits of leaf 1 EDX in its extended leaf: those of them that are listed above.
const REPEATED: u32 = 0x0183_f3ff;

/// The host cannot be made to look like the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this processor has no {0}, which the compatible CPU model needs: use the model \"host\" on it"
)]
pub(crate) struct MissingFeature(pub(crate) &'static str);

/// Bits of a word that may be shown.
fn allowed(word: Word) -> u32 {
    REQUIRED
        .iter()
        .chain(&OPTIONAL)
        .filter(|(in_word, ..)| *in_word == word)
        .fold(0, |bits, (_, bit, _)| bits | 1 << bit)
}

/// The value of a word in `entries`; zero when there is no such leaf.
fn value(entries: &[kvm_cpuid_entry2], word: Word) -> u32 {
    let leaf = |function| {
        entries
            .iter()
            .find(|entry| entry.function == function && entry.index == 0)
            .copied()
            .unwrap_or_default()
    };
    match word {
        Leaf1Ecx => leaf(FEATURES).ecx,
        Leaf1Edx => leaf(FEATURES).edx,
        Leaf7Ebx => leaf(STRUCTURED_FEATURES).ebx,
        Leaf7Ecx => leaf(STRUCTURED_FEATURES).ecx,
        Leaf7Edx => leaf(STRUCTURED_FEATURES).edx,
        ExtendedEcx => leaf(EXTENDED_FEATURES).ecx,
        ExtendedEdx => leaf(EXTENDED_FEATURES).edx,
        SizesEbx => leaf(ADDRESS_SIZES).ebx,
        KvmEax => leaf(HYPERVISOR_FEATURES).eax,
    }
}

/// Reduces what KVM supports to the model; topology comes after.
///
/// # Errors
/// [`MissingFeature`] when the host has less than the model.
pub(super) fn reduce(
    supported: &[kvm_cpuid_entry2],
) -> Result<Vec<kvm_cpuid_entry2>, MissingFeature> {
    for (word, bit, name) in REQUIRED {
        if value(supported, word) & 1 << bit == 0 {
            return Err(MissingFeature(name));
        }
    }
    let vendor = supported.iter().find(|entry| entry.function == VENDOR);
    let amd = vendor.is_some_and(|entry| AMD.contains(&entry.ebx));
    Ok(supported
        .iter()
        .filter_map(|entry| leaf(*entry, amd))
        .collect())
}

/// One leaf of the model, if the model has it.
fn leaf(mut entry: kvm_cpuid_entry2, amd: bool) -> Option<kvm_cpuid_entry2> {
    match (entry.function, entry.index) {
        (VENDOR, _) => entry.eax = entry.eax.min(LAST_BASIC),
        (FEATURES, _) => {
            entry.eax = if amd { AMD_SIGNATURE } else { INTEL_SIGNATURE };
            entry.ebx &= !0xff; // No brand index.
            entry.ecx &= allowed(Leaf1Ecx);
            entry.edx &= allowed(Leaf1Edx);
        }
        (STRUCTURED_FEATURES, 0) => {
            entry.eax = 0;
            entry.ebx &= allowed(Leaf7Ebx);
            entry.ecx &= allowed(Leaf7Ecx);
            entry.edx &= allowed(Leaf7Edx);
        }
        // x87 and SSE state only, of 512 bytes and a header of 64.
        (EXTENDED_STATE, 0) => {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0b11, 576, 576, 0);
        }
        (HYPERVISOR_FEATURES, _) => {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (entry.eax & allowed(KvmEax), 0, 0, 0);
        }
        (HYPERVISOR, _) => entry.eax = HYPERVISOR_FEATURES,
        (EXTENDED_VENDOR, _) => {
            entry.eax = entry
                .eax
                .min(if amd { AMD_TOPOLOGY } else { ADDRESS_SIZES });
        }
        (EXTENDED_FEATURES, _) => {
            entry.eax = if amd { AMD_SIGNATURE } else { 0 };
            entry.ebx = 0;
            entry.ecx &= allowed(ExtendedEcx);
            let repeated = if amd { REPEATED & allowed(Leaf1Edx) } else { 0 };
            entry.edx &= allowed(ExtendedEdx) | repeated;
        }
        (function, _) if BRAND.contains(&function) => set_brand(&mut entry),
        // An invariant TSC, when the host has one, and nothing of power management.
        (POWER, _) => {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, entry.edx & 1 << 8);
        }
        (ADDRESS_SIZES, _) => {
            entry.eax &= 0xffff; // No separate size of guest addresses.
            entry.ebx &= allowed(SizesEbx);
            entry.edx = 0;
        }
        // Sizes of caches promise nothing to a program; the rest is set with the topology.
        (
            CACHE_DESCRIPTORS | CACHE | AMD_CACHE_L1 | AMD_CACHE_L2 | AMD_CACHE | THERMAL
            | PERFORMANCE | AMD_TOPOLOGY,
            _,
        ) => {}
        _ => return None,
    }
    Some(entry)
}

fn set_brand(entry: &mut kvm_cpuid_entry2) {
    let skip = usize::try_from(entry.function - BRAND.start()).unwrap_or(0) * 16;
    let mut words = NAME
        .chunks_exact(4)
        .skip(skip / 4)
        .map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap_or_default()));
    for register in [
        &mut entry.eax,
        &mut entry.ebx,
        &mut entry.ecx,
        &mut entry.edx,
    ] {
        *register = words.next().unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::leaf as entry;
    use super::*;

    const ALL: u32 = u32::MAX;
    const INTEL: u32 = 0x756e_6547;

    /// A host with every bit set.
    fn host(vendor: u32) -> Vec<kvm_cpuid_entry2> {
        let functions = [
            1,
            2,
            3,
            4,
            5,
            6,
            7,
            9,
            0xa,
            0xd,
            0xf,
            0x10,
            0x14,
            0x1d,
            0x40000000,
            0x40000001,
            0x8000_0000,
            0x8000_0001,
            0x8000_0002,
            0x8000_0003,
            0x8000_0004,
            0x8000_0006,
            0x8000_0007,
            0x8000_0008,
            0x8000_000a,
            0x8000_001d,
            0x8000_001e,
            0x8000_001f,
            0x8000_0021,
        ];
        let mut entries = vec![entry(0, [0x20, vendor, 0, 0])];
        entries.extend(functions.map(|function| entry(function, [ALL; 4])));
        for (function, index) in [(7, 1), (7, 2), (0xd, 1), (0xd, 2), (0xd, 9)] {
            let mut more = entry(function, [ALL; 4]);
            more.index = index;
            entries.push(more);
        }
        entries
    }

    fn registers(entries: &[kvm_cpuid_entry2], function: u32) -> Option<[u32; 4]> {
        let found = entries.iter().find(|entry| entry.function == function)?;
        Some([found.eax, found.ebx, found.ecx, found.edx])
    }

    #[test]
    fn every_leaf_is_what_the_table_says() {
        for (vendor, rows) in [
            (
                INTEL,
                [
                    (
                        1,
                        Some([0x0003_06c3, 0xffff_ff00, 0xc7ba_2203, 0x178b_fbff]),
                    ),
                    (7, Some([0, 0x0014_0481, 0x4, 0x9c00_0400])),
                    (0xd, Some([3, 576, 576, 0])),
                    (0x4000_0001, Some([0x0100_3aeb, 0, 0, 0])),
                    (0x8000_0000, Some([0x8000_0008, ALL, ALL, ALL])),
                    (0x8000_0001, Some([0, 0, 0x103, 0x2810_0800])),
                    (0x8000_0007, Some([0, 0, 0, 0x100])),
                    (0x8000_0008, Some([0xffff, 0x0300_d000, ALL, 0])),
                ],
            ),
            (
                AMD[0],
                [
                    (
                        1,
                        Some([0x0080_0f12, 0xffff_ff00, 0xc7ba_2203, 0x178b_fbff]),
                    ),
                    (7, Some([0, 0x0014_0481, 0x4, 0x9c00_0400])),
                    (0xd, Some([3, 576, 576, 0])),
                    (0x4000_0001, Some([0x0100_3aeb, 0, 0, 0])),
                    (0x8000_0000, Some([0x8000_001e, ALL, ALL, ALL])),
                    (0x8000_0001, Some([0x0080_0f12, 0, 0x103, 0x2993_fbff])),
                    (0x8000_0007, Some([0, 0, 0, 0x100])),
                    (0x8000_0008, Some([0xffff, 0x0300_d000, ALL, 0])),
                ],
            ),
        ] {
            let model = reduce(&host(vendor)).expect("it has everything");
            assert_eq!(registers(&model, 0), Some([0xd, vendor, 0, 0]));
            for (function, expected) in rows {
                let found = registers(&model, function);
                assert_eq!(found, expected, "{vendor:#x} {function:#x}: {found:x?}");
            }
            for gone in [
                3,
                5,
                9,
                0xf,
                0x10,
                0x14,
                0x1d,
                0x8000_000a,
                0x8000_001f,
                0x8000_0021,
            ] {
                assert_eq!(registers(&model, gone), None, "{gone:#x}");
            }
            let more = model.iter().filter(|entry| entry.index != 0);
            assert_eq!(more.count(), 0, "no sub-leaves");
            let name: Vec<u8> = BRAND
                .flat_map(|function| registers(&model, function).expect("a name"))
                .flat_map(u32::to_le_bytes)
                .collect();
            assert_eq!(name, NAME);
        }
    }

    #[test]
    fn nothing_is_shown_that_the_host_has_not() {
        let mut least = host(INTEL);
        for entry in &mut least {
            let required = |word| {
                REQUIRED
                    .iter()
                    .filter(|(in_word, ..)| *in_word == word)
                    .fold(0, |bits, (_, bit, _)| bits | 1 << bit)
            };
            match entry.function {
                1 => (entry.ecx, entry.edx) = (required(Leaf1Ecx), required(Leaf1Edx)),
                0x8000_0001 => {
                    (entry.ecx, entry.edx) = (required(ExtendedEcx), required(ExtendedEdx));
                }
                7 | 0x8000_0008 | 0x4000_0001 => {
                    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
                }
                _ => {}
            }
        }
        let model = reduce(&least).expect("it has what is required");
        assert_eq!(registers(&model, 1).map(|leaf| leaf[2]), Some(0x0098_2201));
        assert_eq!(registers(&model, 7), Some([0; 4]));
        assert_eq!(registers(&model, 0x4000_0001), Some([0; 4]));
        for (word, bit, name) in REQUIRED {
            let mut poor = least.clone();
            for entry in &mut poor {
                match (word, entry.function) {
                    (Leaf1Ecx, 1) | (ExtendedEcx, 0x8000_0001) => entry.ecx &= !(1 << bit),
                    (Leaf1Edx, 1) | (ExtendedEdx, 0x8000_0001) => entry.edx &= !(1 << bit),
                    _ => {}
                }
            }
            assert_eq!(reduce(&poor).err(), Some(MissingFeature(name)));
        }
    }
}
