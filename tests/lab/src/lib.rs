//! The lab: nested KVM in a QEMU that a test drives over QMP and a virtio port.
