//! The pages that a clone is given before it runs, built from the vmm's own source: a program has no library to link.

#[path = "../../../supervisor/vmm/src/snapshot/working_set.rs"]
#[allow(dead_code, unreachable_pub, reason = "the program uses all of it")]
mod format;

use format::WorkingSet;

const RAM: u64 = 256 << 20;

/// Reads a file. What is taken is exactly what would be written, and nothing beyond the memory.
pub fn parse(file: &[u8]) {
    if let Ok(set) = WorkingSet::parse(file, RAM) {
        assert!(set.to_bytes() == file);
        let mut last = 0;
        for range in set.ranges() {
            assert!(last <= range.start && range.start < range.end && range.end <= RAM);
            last = range.end;
        }
    }
}

/// A good file.
pub fn seed() -> Vec<u8> {
    WorkingSet::of(vec![0, 1, 2, 4096, 65_535])
        .expect("five pages")
        .to_bytes()
}
