//! Each device's queue, driven in this process, beside the same bytes moved by plain system calls.
//!
//! `cargo bench -p casemate-devices`. Every group has a row `device` and a row for what one would do without a device.

mod blk;
mod driver;
mod net;
mod small;
mod vsock;

use criterion::{criterion_group, criterion_main};

criterion_group!(benches, blk::bench, vsock::bench, net::bench, small::bench);
criterion_main!(benches);
