//! Host PCI devices of a passthrough VM: from the descriptors that were inherited to functions on the guest's bus.
//!
//! In this order, and whoever fails ends the launch before the guest runs, which gives everything back:
//!
//! 1. the group is viable: all its devices belong to vfio, or to nobody;
//! 2. it is in our container, and the container has our IOMMU model;
//! 3. the guest's memory is mapped, at the guest's addresses, and nothing else;
//! 4. the device is reset, or refused when it cannot be;
//! 5. the guest's view is made, registers are mapped, interrupts connected.
//!
//! At the end of the VM, however it ends, the kernel does the reverse when the descriptors are closed: bus mastering and
//! interrupts off, reset, and then the container's mappings go.

mod calls;
mod hardware;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use casemate_devices::event_loop::EventLoop;
use casemate_devices::pci::{BarIndex, MsiRouter, Msix};
use casemate_devices::vfio::{BarInfo, DeviceInfo, Hardware, Vectors, VfioPci, plan};
use casemate_vm::PciAddress;
use kvm_ioctls::VmFd;
use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET, VFIO_GROUP_FLAGS_VIABLE,
    VFIO_PCI_CONFIG_REGION_INDEX,
};

use crate::machine::{ASSIGNED_SLOTS, Machine};
use hardware::{Keep, KernelDevice, Line, Regions};

/// What was inherited.
#[derive(Debug)]
pub(crate) struct Assigned {
    /// The container, new.
    pub(crate) container: OwnedFd,
    /// Each group with those of its devices that the guest gets.
    pub(crate) groups: Vec<(OwnedFd, Vec<PciAddress>)>,
}

/// What functions are made with.
pub(crate) struct Host<'a> {
    /// Whose memory and slots they use.
    pub(crate) machine: &'a Machine,
    /// Their routes.
    pub(crate) router: Arc<dyn MsiRouter>,
    /// Passes their interrupts on, and ends them.
    pub(crate) event_loop: &'a EventLoop,
}

/// A function, and its interrupt line if it has one: connected when it is known in which slot it is.
pub(crate) type Attached = (VfioPci, Option<Line>);

/// Takes all devices over.
///
/// # Errors
/// The first one that cannot be given to the guest, by its address, and why.
pub(crate) fn attach(assigned: Assigned, host: &Host<'_>) -> Result<Vec<Attached>> {
    let Assigned { container, groups } = assigned;
    if !calls::is_usable(&container).context("the VFIO container")? {
        bail!("this kernel's VFIO has no type 1 IOMMU, version 2");
    }
    let (files, wanted): (Vec<_>, Vec<_>) = groups.into_iter().unzip();
    for (file, addresses) in files.iter().zip(&wanted) {
        let names: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        take_group(&container, file)
            .with_context(|| format!("the IOMMU group of {}", names.join(", ")))?;
    }
    calls::set_iommu(&container).context("the IOMMU of the assigned devices")?;
    calls::map_memory(&container, &host.machine.memory)
        .context("cannot pin the VM's memory for its devices: is the limit of locked memory at least as large?")?;
    let keep = Arc::new(Keep {
        _container: container,
        groups: files,
    });
    let mut functions = Vec::new();
    let mut slot = ASSIGNED_SLOTS;
    for (file, addresses) in keep.groups.iter().zip(&wanted) {
        for address in addresses {
            let function = attach_device(file, *address, host, &keep, &mut slot)
                .with_context(|| format!("device {address}"))?;
            functions.push(function);
        }
    }
    Ok(functions)
}

fn take_group(container: &OwnedFd, group: &OwnedFd) -> Result<()> {
    let flags = calls::group_flags(group)?;
    if flags & VFIO_GROUP_FLAGS_VIABLE == 0 {
        bail!(
            "another device of it is still used by the host: give the VM the whole group or nothing"
        );
    }
    calls::set_container(group, container)
        .context("it is taken already, or interrupts of its devices cannot be isolated")
}

fn attach_device(
    group: &OwnedFd,
    address: PciAddress,
    host: &Host<'_>,
    keep: &Arc<Keep>,
    slot: &mut u32,
) -> Result<Attached> {
    let name = CString::new(address.to_string())?;
    let device = calls::device(group, &name).context("is not a device of its group")?;
    let flags = calls::device_flags(&device)?;
    if flags & VFIO_DEVICE_FLAGS_PCI == 0 {
        bail!("is no PCI device");
    }
    let resets = flags & VFIO_DEVICE_FLAGS_RESET != 0;
    if resets {
        // What it did before is not the guest's business, and must not go on.
        calls::reset(&device).context("was not reset")?;
    }
    let config = calls::region(&device, VFIO_PCI_CONFIG_REGION_INDEX)?;
    let (info, bars) = describe(&device, config.offset, resets)?;
    let layout = plan(&info)?;
    let first_slot = *slot;
    *slot += u32::try_from(layout.pieces.len())?;
    let (mut msix, mut watch, mut line) = (None, None, None);
    if let Some(place) = &layout.msix {
        let table = Arc::new(Msix::new(Arc::clone(&host.router), place.vectors)?);
        let vectors = Vectors::new(Arc::clone(&table))?;
        calls::enable_msix(&device, vectors.descriptors()).context("its interrupts")?;
        watch = Some(vectors.watch(host.event_loop)?);
        msix = Some(table);
    } else {
        line = Some(Line::new(&device).context("its interrupt line")?);
    }
    let kept = line.as_ref().map(Line::another).transpose()?;
    let vectors = layout.msix.as_ref().map_or(0, |msix| msix.vectors);
    let regions = Regions {
        config: config.offset,
        bars,
    };
    let vm: Arc<VmFd> = Arc::clone(&host.machine.vm);
    let hardware = KernelDevice::new(
        vm,
        device,
        regions,
        kept,
        &layout.pieces,
        first_slot,
        Arc::clone(keep),
    )
    .context("its registers")?;
    let grave = host.event_loop.clone();
    let retire = move |hardware: Box<dyn Hardware>| {
        let watched_by = grave.clone();
        grave.run_job(Box::new(move || {
            drop(hardware);
            if let Some(watch) = watch {
                watched_by.remove(watch);
            }
        }));
    };
    tracing::info!(%address, vectors, "assigned");
    let function = VfioPci::new(layout, msix, Box::new(hardware), Box::new(retire))?;
    Ok((function, line))
}

type Bars = BTreeMap<BarIndex, std::ops::Range<u64>>;

fn describe(device: &OwnedFd, config_at: u64, resets: bool) -> Result<(DeviceInfo, Bars)> {
    let mut config = [0; 256];
    let read = rustix::io::pread(device, &mut config, config_at)?;
    if read != config.len() {
        bail!("has no configuration space");
    }
    let mut bars = Vec::new();
    let mut places = Bars::new();
    for bar in BarIndex::ALL {
        let region = calls::region(device, bar.number().into())?;
        if region.len == 0 {
            continue;
        }
        places.insert(bar, region.offset..region.offset.saturating_add(region.len));
        bars.push(BarInfo {
            bar,
            len: region.len,
            mappable: region.mappable,
        });
    }
    let info = DeviceInfo {
        config,
        bars,
        vectors: calls::msix_vectors(device)?,
        line: calls::has_line(device)?,
        resets,
    };
    Ok((info, places))
}
