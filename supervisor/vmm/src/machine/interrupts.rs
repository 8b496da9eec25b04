//! KVM's side of interrupts and notifications: message routes, interrupt lines, ioeventfds.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use casemate_devices::pci::{MsiMessage, MsiRouter, NotifyRegistrar, RouteId};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::layout;

/// Most message routes: 31 functions with a vector per queue are far below it. KVM itself allows 4096.
const MAX_ROUTES: usize = 1024;

fn io_error(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

/// Message-signalled interrupts by irqfd. All irqfds are made while devices are built, so that a running vmm only
/// ever changes the routing table.
pub(crate) struct KvmRoutes {
    vm: Arc<VmFd>,
    routes: Mutex<Routes>,
    /// Routes are only noted, until [`KvmRoutes::commit`].
    deferred: AtomicBool,
}

#[derive(Default)]
struct Routes {
    /// By their numbers.
    all: Vec<Route>,
    /// Numbers of those that no device has.
    free: Vec<u32>,
    /// No more are made.
    sealed: bool,
}

impl Routes {
    fn get_mut(&mut self, route: RouteId) -> Option<&mut Route> {
        self.all.get_mut(usize::try_from(route.0).ok()?)
    }
}

struct Route {
    signal: EventFd,
    message: Option<MsiMessage>,
    /// Was asked for before KVM knew the route.
    owed: bool,
}

impl Route {
    fn fire(&self) {
        // Fails only when the counter is full, and then the interrupt is pending.
        let _ = self.signal.write(1);
    }
}

impl KvmRoutes {
    /// No routes yet, and KVM is told of none before [`KvmRoutes::commit`]: it takes the whole table each time, and waits
    /// for all vCPUs and irqfds to see it.
    pub(crate) fn new(vm: Arc<VmFd>) -> Self {
        Self {
            vm,
            routes: Mutex::default(),
            deferred: AtomicBool::new(true),
        }
    }

    /// Sets the table once for all routes that there are, of pins and of messages, and from now on with every change;
    /// then sends the interrupts that were asked for meanwhile.
    pub(crate) fn commit(&self) -> io::Result<()> {
        let mut routes = self.lock();
        self.apply(&routes.all)?;
        self.deferred.store(false, Ordering::Release);
        for route in &mut routes.all {
            if std::mem::take(&mut route.owed) {
                route.fire();
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes routes ahead, for devices that come while the VM runs, and no others from now on: threads have their
    /// filters then, and none may register an irqfd.
    pub(crate) fn seal(&self, spare: usize) -> io::Result<()> {
        let made: Vec<_> = (0..spare)
            .map(|_| self.allocate())
            .collect::<io::Result<_>>()?;
        for route in made {
            self.release(route);
        }
        self.lock().sealed = true;
        Ok(())
    }

    /// Gives KVM the whole table, as it wants it each time.
    fn apply(&self, routes: &[Route]) -> io::Result<()> {
        let messages = (layout::FIRST_MSI_GSI..)
            .zip(routes)
            .filter_map(|(gsi, route)| Some(message_entry(gsi, route.message?)));
        let entries: Vec<_> = pin_entries().chain(messages).collect();
        let table = KvmIrqRouting::from_entries(&entries)
            .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        self.vm.set_gsi_routing(&table).map_err(io_error)
    }
}

impl MsiRouter for KvmRoutes {
    fn allocate(&self) -> io::Result<RouteId> {
        let mut routes = self.lock();
        if let Some(number) = routes.free.pop() {
            return Ok(RouteId(number));
        }
        let index = u32::try_from(routes.all.len())
            .ok()
            .filter(|_| !routes.sealed && routes.all.len() < MAX_ROUTES)
            .ok_or_else(|| io::Error::other("out of interrupt routes"))?;
        let signal = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        self.vm
            .register_irqfd(&signal, layout::FIRST_MSI_GSI + index)
            .map_err(io_error)?;
        routes.all.push(Route {
            signal,
            message: None,
            owed: false,
        });
        Ok(RouteId(index))
    }

    fn update(&self, route: RouteId, message: MsiMessage) -> io::Result<()> {
        let mut routes = self.lock();
        let entry = routes
            .get_mut(route)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let before = entry.message.replace(message);
        if self.deferred.load(Ordering::Acquire) {
            return Ok(());
        }
        let result = self.apply(&routes.all);
        if result.is_err()
            && let Some(entry) = routes.get_mut(route)
        {
            // What KVM refused must not spoil the table for the other vectors.
            entry.message = before;
        }
        result
    }

    fn trigger(&self, route: RouteId) {
        let mut routes = self.lock();
        if let Some(route) = routes.get_mut(route) {
            if self.deferred.load(Ordering::Acquire) {
                route.owed = true;
            } else {
                route.fire();
            }
        }
    }

    fn release(&self, route: RouteId) {
        let mut routes = self.lock();
        if let Some(entry) = routes.get_mut(route) {
            // KVM's table keeps the message until the next update; nobody triggers it.
            entry.message = None;
            entry.owed = false;
            routes.free.push(route.0);
        }
    }
}

/// The pins of the interrupt controllers: number n is pin n of the I/O APIC, and of the PICs below 16.
fn pin_entries() -> impl Iterator<Item = kvm_irq_routing_entry> {
    let pic = (0..16).map(|pin| {
        let chip = if pin < 8 {
            KVM_IRQCHIP_PIC_MASTER
        } else {
            KVM_IRQCHIP_PIC_SLAVE
        };
        pin_entry(pin, chip, pin % 8)
    });
    let io_apic = (0..layout::IO_APIC_PINS).map(|pin| pin_entry(pin, KVM_IRQCHIP_IOAPIC, pin));
    pic.chain(io_apic)
}

fn pin_entry(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            irqchip: kvm_irq_routing_irqchip { irqchip, pin },
        },
        ..Default::default()
    }
}

fn message_entry(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let [low, high] = halves(message.address);
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            msi: kvm_irq_routing_msi {
                address_lo: low,
                address_hi: high,
                data: message.data,
                ..Default::default()
            },
        },
        ..Default::default()
    }
}

fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

/// Queue notifications by ioeventfd, on ports: an instruction that writes to one need not be decoded.
pub(crate) struct KvmKicks(pub(crate) Arc<VmFd>);

impl NotifyRegistrar for KvmKicks {
    fn register(&self, port: u64, kick: &EventFd) -> io::Result<()> {
        self.0
            .register_ioevent(kick, &IoEventAddress::Pio(port), NoDatamatch)
            .map_err(io_error)
    }

    fn unregister(&self, port: u64, kick: &EventFd) {
        let port = IoEventAddress::Pio(port);
        if let Err(error) = self.0.unregister_ioevent(kick, &port, NoDatamatch) {
            tracing::warn!(%error, "notification was not registered");
        }
    }
}

/// An edge-triggered interrupt line of the I/O APIC.
#[derive(Debug)]
pub(crate) struct Line(EventFd);

impl Line {
    /// Connects pin `gsi`.
    pub(crate) fn new(vm: &VmFd, gsi: u32) -> io::Result<Self> {
        let signal = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        vm.register_irqfd(&signal, gsi).map_err(io_error)?;
        Ok(Self(signal))
    }

    /// One pulse.
    pub(crate) fn pulse(&self) {
        // Fails only when the counter is full, and then the interrupt is pending.
        let _ = self.0.write(1);
    }
}

impl From<Line> for EventFd {
    /// The descriptor that makes a pulse when written.
    fn from(line: Line) -> Self {
        line.0
    }
}
