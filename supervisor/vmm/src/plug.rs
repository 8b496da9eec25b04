//! Devices that come and go while the guest runs.
//!
//! One thread beside those of the first disks serves whatever is plugged in later, because no thread can be started
//! once filters are on. On it disks are opened, too, so that a slow one delays neither the guest's other devices nor
//! the control socket; what came of it is news for the main loop.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use casemate_devices::event_loop::EventLoop;
use casemate_devices::pci::{HotPlug, PciFunction, PciRoot, Slot};
use casemate_devices::virtio::{HostServices, VirtioDevice, VirtioPci};
use casemate_vmm_control::Event;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::devices::open_disk;
use crate::inherited::{DiskFiles, InheritedDisk};
use crate::machine::Line;

/// What happened on other threads, for the supervisor to hear; and a bell that rings then.
#[derive(Debug)]
struct News {
    events: Mutex<Vec<Event>>,
    bell: EventFd,
}

impl News {
    fn say(&self, event: Event) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(event);
        // Fails only when the counter is full, and then it rings.
        let _ = self.bell.write(1);
    }
}

/// Plugs and unplugs devices of one VM.
#[derive(Debug)]
pub(crate) struct Plugs {
    controller: Arc<HotPlug>,
    event_loop: EventLoop,
    services: HostServices,
    news: Arc<News>,
}

impl Plugs {
    /// Devices on `root` that are served by `event_loop`; `line` tells the guest.
    pub(crate) fn new(
        root: &Arc<PciRoot>,
        line: Line,
        services: HostServices,
        event_loop: EventLoop,
    ) -> io::Result<Self> {
        let news = Arc::new(News {
            events: Mutex::default(),
            bell: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        });
        let heard = Arc::clone(&news);
        let ejected = move |slot: Slot| {
            heard.say(Event::DeviceRemoved {
                slot: slot.number(),
            });
        };
        Ok(Self {
            controller: HotPlug::new(Arc::clone(root), line.into(), Box::new(ejected)),
            event_loop,
            services,
            news,
        })
    }

    /// The controller, for the port bus.
    pub(crate) fn controller(&self) -> &Arc<HotPlug> {
        &self.controller
    }

    /// Readable when there is news.
    pub(crate) fn bell(&self) -> &EventFd {
        &self.news.bell
    }

    /// What happened since the last call.
    pub(crate) fn take_news(&self) -> Vec<Event> {
        let _ = self.news.bell.read();
        let mut events = self
            .news
            .events
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *events)
    }

    /// Plugs a raw disk in, which becomes news when it is done or has failed.
    ///
    /// # Errors
    /// When it did not come with exactly one descriptor.
    pub(crate) fn add_disk(
        &self,
        serial: String,
        read_only: bool,
        descriptors: Vec<OwnedFd>,
    ) -> Result<()> {
        let count = descriptors.len();
        let Ok([file]) = <[OwnedFd; 1]>::try_from(descriptors) else {
            bail!("a disk comes with one descriptor, not {count}");
        };
        let disk = InheritedDisk {
            files: DiskFiles::Raw(file),
            serial: serial.clone(),
            read_only,
        };
        let (controller, services) = (Arc::clone(&self.controller), self.services.clone());
        let (event_loop, news) = (self.event_loop.clone(), Arc::clone(&self.news));
        self.event_loop.run_job(Box::new(move || {
            let added = add(disk, &controller, &event_loop, services);
            news.say(match added {
                Ok(slot) => Event::DeviceAdded {
                    slot: slot.number(),
                    serial,
                },
                Err(error) => Event::Failed {
                    what: format!("disk {serial}: {error:#}"),
                },
            });
        }));
        Ok(())
    }

    /// Puts a function on the bus before the guest runs, which can be asked back like one that was plugged in.
    ///
    /// # Errors
    /// When slots or addresses are used up.
    pub(crate) fn adopt(&self, function: impl PciFunction + 'static) -> Result<Slot> {
        Ok(self.controller.adopt(Arc::new(Mutex::new(function)))?)
    }

    /// Asks the guest for what is in a slot.
    ///
    /// # Errors
    /// When nothing was plugged in there.
    pub(crate) fn ask_back(&self, slot: u8) -> Result<()> {
        let slot = Slot::new(slot).context("PCI slots are 1 to 31")?;
        Ok(self.controller.ask_back(slot)?)
    }
}

fn add(
    disk: InheritedDisk,
    controller: &HotPlug,
    event_loop: &EventLoop,
    services: HostServices,
) -> Result<Slot> {
    let block = open_disk(disk, vec![event_loop.clone()])?;
    let device: Arc<Mutex<dyn VirtioDevice>> = Arc::new(Mutex::new(block));
    let function = VirtioPci::new(device, event_loop, services)?;
    Ok(controller.add(Arc::new(Mutex::new(function)))?)
}
