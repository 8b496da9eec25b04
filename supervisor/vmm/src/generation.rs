//! Tells a guest that it is a clone: 16 random bytes in its memory that are others after every restore, and an interrupt.
//! Its kernel mixes them into its random numbers, so that two clones do not have the same.

use std::io;

use casemate_devices::virtio::Memory;
use vm_memory::{Bytes as _, GuestAddress};

use crate::machine::layout;
use crate::snapshot::random;

/// Writes a new generation. Before any vCPU runs; the interrupt comes after it.
pub(crate) fn renew(memory: &Memory) -> io::Result<()> {
    let mut generation = [0; 16];
    random(&mut generation)?;
    memory
        .write_slice(&generation, GuestAddress(layout::GENERATION))
        .map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_generation_comes_twice() {
        let memory = crate::machine::memory::allocate(casemate_vm::RamSize::MIN, 1 << 36, None)
            .expect("memory");
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            renew(&memory).expect("the kernel has random bytes");
            let mut bytes = [0; 16];
            let at = GuestAddress(layout::GENERATION);
            memory.read_slice(&mut bytes, at).expect("in memory");
            assert!(seen.insert(bytes));
        }
    }
}
