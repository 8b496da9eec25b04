//! Test doubles of what the vmm provides.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use crate::lock;
use crate::pci::{MsiMessage, MsiRouter, NotifyRegistrar, RouteId};

/// Remembers interrupts sent.
#[derive(Default)]
pub(crate) struct FakeRouter {
    routes: Mutex<Vec<Option<MsiMessage>>>,
    sent: Mutex<Vec<(u32, MsiMessage)>>,
    updates: AtomicUsize,
    refuse: AtomicBool,
}

impl FakeRouter {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Route numbers and messages, in order.
    pub(crate) fn sent(&self) -> Vec<(u32, MsiMessage)> {
        lock(&self.sent).clone()
    }

    /// Times that the router was asked to update.
    pub(crate) fn updates(&self) -> usize {
        self.updates.load(Ordering::Relaxed)
    }

    pub(crate) fn refuse(&self, refuse: bool) {
        self.refuse.store(refuse, Ordering::Relaxed);
    }
}

impl MsiRouter for FakeRouter {
    fn allocate(&self) -> io::Result<RouteId> {
        let mut routes = lock(&self.routes);
        routes.push(None);
        Ok(RouteId(
            u32::try_from(routes.len() - 1).expect("few routes"),
        ))
    }

    fn update(&self, route: RouteId, message: MsiMessage) -> io::Result<()> {
        self.updates.fetch_add(1, Ordering::Relaxed);
        if self.refuse.load(Ordering::Relaxed) {
            return Err(io::Error::other("refused"));
        }
        lock(&self.routes)[usize::try_from(route.0).expect("small")] = Some(message);
        Ok(())
    }

    fn trigger(&self, route: RouteId) {
        let message = lock(&self.routes)[usize::try_from(route.0).expect("small")];
        lock(&self.sent).push((route.0, message.expect("routed before triggered")));
    }
}

/// Remembers which addresses are watched.
#[derive(Default)]
pub(crate) struct FakeNotify {
    watched: Mutex<Vec<u64>>,
}

impl FakeNotify {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn watched(&self) -> Vec<u64> {
        lock(&self.watched).clone()
    }
}

impl NotifyRegistrar for FakeNotify {
    fn register(&self, address: u64, _kick: &EventFd) -> io::Result<()> {
        lock(&self.watched).push(address);
        Ok(())
    }

    fn unregister(&self, address: u64, _kick: &EventFd) {
        lock(&self.watched).retain(|watched| *watched != address);
    }
}
