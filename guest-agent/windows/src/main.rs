//! In the VM, as the user: Wayland compositor for its apps, forwards flat windows.

fn main() {}
