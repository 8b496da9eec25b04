//! The supervisor: VM definitions and life cycle, volumes, D-Bus API; parses no guest bytes.

fn main() {}
