//! Tasks of the repository: cargo xtask demo, test, ci, tidy, lab.

fn main() {}
