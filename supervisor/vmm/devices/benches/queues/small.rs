//! What a kick costs by itself, and the small devices.

use std::hint::black_box;
use std::sync::Arc;

use casemate_devices::console::{Console, ConsoleSink};
use casemate_devices::rng::{MonotonicClock, Rng};
use criterion::{Criterion, Throughput};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::driver::{BUFFERS, Driver};

/// Prints nowhere.
struct Nowhere;

impl ConsoleSink for Nowhere {
    fn write(&self, bytes: &[u8]) {
        black_box(bytes);
    }
}

const TRANSMIT: usize = 1;
const LINE: u32 = 80;

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("doorbell");
    let rng = Rng::new(Box::new(MonotonicClock::new())).expect("timer");
    let driver = Driver::new(rng);
    group.bench_function("device", |bencher| bencher.iter(|| driver.kick(0)));
    let eventfd = EventFd::new(EFD_NONBLOCK).expect("eventfd");
    group.bench_function("eventfd written and read", |bencher| {
        bencher.iter(|| {
            eventfd.write(1).expect("not full");
            eventfd.read().expect("not empty")
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("console line of 80 B");
    group.throughput(Throughput::Bytes(LINE.into()));
    let mut driver = Driver::new(Console::new(Arc::new(Nowhere)));
    driver.describe(TRANSMIT, 0, &[(BUFFERS, LINE, 0, 0)]);
    group.bench_function("device", |bencher| {
        bencher.iter(|| {
            driver.offer(TRANSMIT, [0]);
            driver.kick(TRANSMIT);
        });
    });
    group.finish();
}
