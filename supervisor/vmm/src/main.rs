//! One VM: KVM, vCPUs, devices, jail; opens no path once jailed.

fn main() {}
