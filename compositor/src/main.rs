//! Windows of all VMs, borders, prompts, input; parses no Wayland from a VM.

fn main() {}
