//! What a saved vCPU needs to find again: the same processor features, registers and microcode, and the same host kernel,
//! because what KVM emulates is part of the machine.

use kvm_bindings::{Msrs, kvm_cpuid_entry2, kvm_msr_entry};
use kvm_ioctls::Kvm;
use ring::digest;

use super::cpuid;

/// A number for all of it; differs when anything does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostId(pub(crate) [u8; 32]);

/// The processor's microcode revision.
const MICROCODE: u32 = 0x8b;

impl HostId {
    /// Of this host, for VMs with `vcpus` vCPUs.
    pub(super) fn of(kvm: &Kvm, supported: &[kvm_cpuid_entry2], msrs: &[u32], vcpus: u8) -> Self {
        // As a vCPU has them: what KVM lists also says on which core it was asked.
        let topology = cpuid::Topology {
            index: 0,
            count: vcpus,
            tsc_deadline: true,
        };
        let mut hash = digest::Context::new(&digest::SHA256);
        for leaf in cpuid::normalise(supported, topology) {
            for word in [
                leaf.function,
                leaf.index,
                leaf.flags,
                leaf.eax,
                leaf.ebx,
                leaf.ecx,
                leaf.edx,
            ] {
                hash.update(&word.to_le_bytes());
            }
        }
        for index in msrs {
            hash.update(&index.to_le_bytes());
        }
        hash.update(&microcode(kvm).to_le_bytes());
        let system = rustix::system::uname();
        for text in [system.release(), system.version(), system.machine()] {
            hash.update(text.to_bytes_with_nul());
        }
        let mut id = [0; 32];
        id.copy_from_slice(hash.finish().as_ref());
        Self(id)
    }
}

/// The revision, or zero where KVM does not tell.
fn microcode(kvm: &Kvm) -> u64 {
    let entry = kvm_msr_entry {
        index: MICROCODE,
        ..Default::default()
    };
    let mut msrs = Msrs::from_entries(&[entry]).expect("one entry");
    match kvm.get_msrs(&mut msrs) {
        Ok(1) => msrs.as_slice().first().map_or(0, |msr| msr.data),
        _ => 0,
    }
}
