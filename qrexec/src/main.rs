//! The broker: control stream of every VM, policy, prompts, pairing of data streams.

fn main() {}
