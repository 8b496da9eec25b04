//! What the lab's workstation is made of: names only, the making is in the parent module.

/// Debian release. The programs that a test brings are linked against the libraries of the machine
/// that built them, so it should not be older than that.
pub(super) const SUITE: &str = "bookworm";

/// Packages of the workstation: no desktop and no QEMU, since Casemate is both.
pub(super) const PACKAGES: [&str; 21] = [
    "udev",
    "kmod",
    "iproute2",
    "busybox-static",
    "procps",
    "util-linux",
    "e2fsprogs",
    "strace",
    "seatd",
    "libinput10",
    "libinput-bin",
    "libpixman-1-0",
    "libxkbcommon0",
    "xkb-data",
    "libudev1",
    "libseat1",
    "libgbm1",
    "libdrm2",
    "fonts-dejavu-core",
    "uidmap",
    "libgcc-s1",
];

/// Modules of the initrd: the root image and the layer over it.
pub(super) const INITRD_MODULES: [&str; 6] = [
    "virtio_pci",
    "virtio_blk",
    "crc32c_generic",
    "erofs",
    "overlay",
    "virtio_rng",
];

/// Modules of the root: KVM, display, input, shares, and what device assignment will need.
pub(super) const MODULES: [&str; 31] = [
    "kvm-amd",
    "kvm-intel",
    "virtio_console",
    "virtio_gpu",
    "virtio_input",
    "virtio_net",
    "bochs",
    "evdev",
    "uinput",
    "xhci-pci",
    "usbhid",
    "hid-generic",
    "usb-storage",
    "usbip-host",
    "9pnet_virtio",
    "9p",
    "ext4",
    "squashfs",
    "loop",
    "fuse",
    "tun",
    "veth",
    "nf_tables",
    "nft_masq",
    "nft_chain_nat",
    "vfio-pci",
    "vfio_iommu_type1",
    "nvme",
    "e1000e",
    "vhost_vsock",
    "virtio_rng",
];
