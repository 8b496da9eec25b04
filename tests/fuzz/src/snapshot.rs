//! The sealed form of a saved state, built from the vmm's own source: a program has no library to link.

#[path = "../../../supervisor/vmm/src/snapshot/header.rs"]
#[allow(dead_code, unreachable_pub, reason = "the program uses all of it")]
mod header;

use header::{Origin, SnapshotId};

const KEY: [u8; 32] = [0x5a; 32];
const ORIGIN: Origin = Origin {
    build: 1,
    host: [2; 32],
    vm: 3,
    vcpus: 1,
    ram: 256 << 20,
};

/// Opens a file. What is taken is exactly what would be sealed: no other bytes mean the same.
pub fn open(file: &[u8]) {
    if let Ok((id, state)) = header::open(file, &ORIGIN, &KEY) {
        assert!(header::seal(&ORIGIN, &id, state, &KEY) == file);
    }
}

/// A good file.
pub fn seed() -> Vec<u8> {
    let id: SnapshotId = [7; 16];
    header::seal(&ORIGIN, &id, b"the state of a VM", &KEY)
}
