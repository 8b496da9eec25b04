//! Stands in for what the vmm provides, and insists on what those interfaces promise to it.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use casemate_devices::console::ConsoleSink;
use casemate_devices::pci::{MsiMessage, MsiRouter, NotifyRegistrar, RouteId};
use casemate_devices::virtio::Interrupt;
use casemate_devices::window_memory::SlotMapper;
use vmm_sys_util::eventfd::EventFd;

/// Messages and places with this bit are refused, as a kernel may.
const REFUSED: u64 = 1 << 36;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Interrupt routes.
#[derive(Debug, Default)]
pub struct Router {
    routes: Mutex<Vec<Option<MsiMessage>>>,
    sent: Mutex<Vec<usize>>,
}

impl Router {
    /// Takes the routes that were triggered since the last call.
    pub fn take_sent(&self) -> Vec<usize> {
        std::mem::take(&mut *lock(&self.sent))
    }
}

fn index(route: RouteId) -> usize {
    usize::try_from(route.0).expect("routes are few")
}

impl MsiRouter for Router {
    fn allocate(&self) -> io::Result<RouteId> {
        let mut routes = lock(&self.routes);
        routes.push(None);
        let index = routes.len().checked_sub(1).expect("just pushed");
        Ok(RouteId(u32::try_from(index).expect("routes are few")))
    }

    fn update(&self, route: RouteId, message: MsiMessage) -> io::Result<()> {
        let routed = &mut lock(&self.routes)[index(route)];
        assert_ne!(
            *routed,
            Some(message),
            "a costly update that changes nothing"
        );
        if message.address & REFUSED != 0 {
            return Err(io::Error::other("refused"));
        }
        *routed = Some(message);
        Ok(())
    }

    fn trigger(&self, route: RouteId) {
        let index = index(route);
        assert!(
            lock(&self.routes)[index].is_some(),
            "triggered before it was routed"
        );
        lock(&self.sent).push(index);
    }
}

/// Watched notification addresses.
#[derive(Debug)]
pub struct Notify {
    windows: Vec<Range<u64>>,
    watched: Mutex<BTreeSet<u64>>,
}

impl Notify {
    /// Addresses outside of `windows` are never asked for.
    pub fn new(windows: Vec<Range<u64>>) -> Self {
        let watched = Mutex::default();
        Self { windows, watched }
    }
}

impl NotifyRegistrar for Notify {
    fn register(&self, address: u64, _kick: &EventFd) -> io::Result<()> {
        assert!(self.windows.iter().any(|window| window.contains(&address)));
        assert!(lock(&self.watched).insert(address), "watched twice");
        Ok(())
    }

    fn unregister(&self, address: u64, _kick: &EventFd) {
        assert!(lock(&self.watched).remove(&address), "was not watched");
    }
}

/// The place of the window memory.
#[derive(Debug)]
pub struct Mapper {
    windows: Vec<Range<u64>>,
    len: u64,
    mapped: Mutex<bool>,
}

impl Mapper {
    /// For a memory of `len` bytes, which is never asked for outside of `windows`.
    pub fn new(windows: Vec<Range<u64>>, len: u64) -> Self {
        let mapped = Mutex::default();
        Self {
            windows,
            len,
            mapped,
        }
    }
}

impl SlotMapper for Mapper {
    fn map(&self, address: u64) -> io::Result<()> {
        let end = address.checked_add(self.len).expect("it does not wrap");
        let inside = |window: &Range<u64>| address >= window.start && end <= window.end;
        assert!(
            self.windows.iter().any(inside),
            "mapped over something else"
        );
        assert!(address.is_multiple_of(self.len), "not aligned");
        let mut mapped = lock(&self.mapped);
        assert!(!*mapped, "mapped twice");
        if address & REFUSED != 0 {
            return Err(io::Error::other("refused"));
        }
        *mapped = true;
        Ok(())
    }

    fn unmap(&self) {
        assert!(std::mem::take(&mut *lock(&self.mapped)), "was not mapped");
    }
}

/// Takes signals and forgets them.
#[derive(Debug)]
pub struct Silence;

impl Interrupt for Silence {
    fn signal(&self) {}
    fn config_changed(&self) {}
    fn needs_reset(&self) {}
}

impl ConsoleSink for Silence {
    fn write(&self, bytes: &[u8]) {
        assert!(!bytes.is_empty(), "nothing to print");
    }
}
