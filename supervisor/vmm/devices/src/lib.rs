//! PCI bus, virtio-pci transport and the devices of a workstation VM.
