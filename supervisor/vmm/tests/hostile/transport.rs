//! Ports, holes, configuration space and the transport's registers: rows B1 and B2-8 to B2-10 of the test plan.

use crate::asm::Width;
use crate::guest::{BUFFERS, Device, Guest, RAM, SIZE, available, common, ring, used};
use crate::proof::good;

/// A case of a device: its name, and what it does before the device has to work.
type Row = (&'static str, fn(&mut Guest, Device));

/// What every device has to bear.
#[rustfmt::skip]
const ROWS: [Row; 26] = [
    ("B2-8 queue size 0", |guest, device| odd_queue(guest, device, common::QUEUE_SIZE, 0)),
    ("B2-8 queue size 3", |guest, device| odd_queue(guest, device, common::QUEUE_SIZE, 3)),
    ("B2-8 queue size 0x8000", |guest, device| odd_queue(guest, device, common::QUEUE_SIZE, 0x8000)),
    ("B2-8 queue size 0xffff", |guest, device| odd_queue(guest, device, common::QUEUE_SIZE, 0xffff)),
    ("B2-8 descriptors in a BAR", |guest, device| odd_ring(guest, device, common::QUEUE_DESC, device.bar())),
    ("B2-8 descriptors at the end of memory", |guest, device| odd_ring(guest, device, common::QUEUE_DESC, RAM - 16)),
    ("B2-8 descriptors not aligned", |guest, device| odd_ring(guest, device, common::QUEUE_DESC, ring(0) + 7)),
    ("B2-8 available ring not aligned", |guest, device| odd_ring(guest, device, common::QUEUE_DRIVER, available(0) + 1)),
    ("B2-8 used ring not aligned", |guest, device| odd_ring(guest, device, common::QUEUE_DEVICE, used(0) + 2)),
    ("B2-8 available ring in the hole", |guest, device| odd_ring(guest, device, common::QUEUE_DRIVER, 0xe000_0000)),
    ("B2-8 used ring over the local APIC", |guest, device| odd_ring(guest, device, common::QUEUE_DEVICE, 0xfee0_0000)),
    ("B2-8 all rings in one place", |guest, device| { odd_ring(guest, device, common::QUEUE_DRIVER, ring(0)); odd_ring(guest, device, common::QUEUE_DEVICE, ring(0)); }),
    ("B2-8 no queue enabled", |guest, device| { guest.negotiate(device, 0); guest.status(device, 15); work(guest, device); }),
    ("B2-8 everything changed after the start", |guest, device| { guest.start(device, 0); for (register, value) in [(common::QUEUE_SIZE, 1), (common::QUEUE_ENABLE, 0)] { guest.register(device, common::QUEUE_SELECT, Width::Word, 0); guest.register(device, register, Width::Word, value); } for register in [common::QUEUE_DESC, common::QUEUE_DRIVER, common::QUEUE_DEVICE, common::FEATURES] { guest.register(device, register, Width::Long, 0xfff0_0000); } guest.expect(Width::Word, device.bar() + common::QUEUE_SIZE, 0xffff, SIZE.into()); guest.expect(Width::Word, device.bar() + common::QUEUE_ENABLE, 0xffff, 1); guest.expect(Width::Long, device.bar() + common::QUEUE_DESC, u32::MAX, ring(0)); work(guest, device); }),
    ("B2-8 registers of queue 0xffff", |guest, device| { guest.negotiate(device, 0); guest.register(device, common::QUEUE_SELECT, Width::Word, 0xffff); for register in (common::QUEUE_SIZE..0x38).step_by(2) { guest.register(device, register, Width::Word, 1); } for register in (common::QUEUE_DESC..0x38).step_by(4) { guest.register(device, register, Width::Long, 1); } guest.expect(Width::Word, device.bar() + common::QUEUE_SIZE, 0xffff, 0); guest.expect(Width::Word, device.bar() + common::QUEUE_ENABLE, 0xffff, 0); }),
    ("B2-9 status out of order", |guest, device| { guest.status(device, 0); for value in [4, 8, 2, 12, 64, 15, 0x1f, 7, 143] { guest.status(device, value); guest.status(device, 0); guest.expect(Width::Byte, device.bar() + common::STATUS, 0xff, 0); } }),
    ("B2-9 started without FEATURES_OK", |guest, device| { guest.status(device, 0); guest.status(device, 1); guest.status(device, 3); for queue in 0..device.queues() { guest.set_up(device, queue); } guest.status(device, 7); guest.expect(Width::Byte, device.bar() + common::STATUS, 0xff, 3); work(guest, device); }),
    ("B2-9 features that nobody offered", |guest, device| { guest.status(device, 0); guest.status(device, 1); guest.status(device, 3); for half in [0, 1, 2, u32::MAX] { guest.register(device, common::FEATURE_SELECT, Width::Long, half); guest.register(device, common::FEATURES, Width::Long, u32::MAX); } guest.status(device, 11); guest.expect(Width::Byte, device.bar() + common::STATUS, 8, 0); }),
    ("B2-9 failed, then kicked", |guest, device| { guest.start(device, 0); guest.status(device, 143); work(guest, device); }),
    ("B2-9 started twice", |guest, device| { guest.start(device, 0); guest.status(device, 15); guest.status(device, 15); work(guest, device); }),
    ("B2-9 kicked before the start and after a reset", |guest, device| { guest.negotiate(device, 0); guest.set_up(device, 0); work(guest, device); guest.status(device, 0); work(guest, device); }),
    ("B2-9 two hundred resets with work under way", |guest, device| { guest.code.ebx(200); let again = guest.code.label(); guest.code.place(again); guest.start(device, 0); work_now(guest, device); guest.code.raw(&[0x4b]); guest.code.jump_not_equal(again); }),
    ("B2-9 storm of kicks", |guest, device| { guest.start(device, 0); let at = device.ports(); guest.code.repeat(20_000, |code| code.out(Width::Word, at, 0)); for queue in 0..64 { guest.kick(device, queue); } }),
    ("B2-10 vectors beyond the table", |guest, device| { guest.negotiate(device, 0); guest.register(device, common::CONFIG_VECTOR, Width::Word, 0x7ff); guest.expect(Width::Word, device.bar() + common::CONFIG_VECTOR, 0xffff, 0xffff); guest.register(device, common::QUEUE_VECTOR, Width::Word, 0xfffe); guest.expect(Width::Word, device.bar() + common::QUEUE_VECTOR, 0xffff, 0xffff); }),
    ("B2-10 vector table and pending bits, every width", |guest, device| { for at in [0x4000, 0x4ff0, 0x4ffc, 0x5000, 0x5ffc, 0x6000, 0x7ffc] { for (width, step) in [(Width::Byte, 3), (Width::Word, 1), (Width::Word, 2), (Width::Long, 0), (Width::Long, 2)] { guest.register(device, at + step, width, u32::MAX); guest.code.read(width, device.bar() + at + step); } } for at in (0x4000..0x4100).step_by(4) { guest.register(device, at, Width::Long, 1); } }),
    ("B2-10 every register of the BAR written with ones", |guest, device| { guest.start(device, 0); for at in (0..0x40).chain(0x1000..0x1008).chain(0x2000..0x2080) { if at != common::STATUS { guest.register(device, at, Width::Byte, 0xff); guest.register(device, at, Width::Long, u32::MAX); } } }),
];

/// Number of cases per device.
pub(crate) const CASES: usize = ROWS.len();

/// One case of a device.
pub(crate) fn case(guest: &mut Guest, device: Device, row: usize) {
    let (name, act) = ROWS[row];
    guest.case(&format!("{} {name}", device.name()), |guest| {
        act(guest, device);
        guest.check_canary();
        guest.prove(device);
    });
}

/// Sets a device up with a strange number in a register of its first queue, and starts it.
fn odd_queue(guest: &mut Guest, device: Device, register: u32, value: u32) {
    guest.negotiate(device, 0);
    for queue in (0..device.queues()).rev() {
        guest.set_up(device, queue);
    }
    guest.register(device, common::QUEUE_ENABLE, Width::Word, 0);
    guest.register(device, register, Width::Word, value);
    guest.register(device, common::QUEUE_ENABLE, Width::Word, 1);
    guest.status(device, 15);
    work(guest, device);
}

fn odd_ring(guest: &mut Guest, device: Device, register: u32, address: u32) {
    guest.negotiate(device, 0);
    for queue in (0..device.queues()).rev() {
        guest.set_up(device, queue);
    }
    guest.register(device, common::QUEUE_ENABLE, Width::Word, 0);
    guest.register(device, register, Width::Long, address);
    guest.register(device, common::QUEUE_ENABLE, Width::Word, 1);
    guest.status(device, 15);
    work(guest, device);
}

/// Offers a good request and kicks every queue, whatever state the device is in.
fn work_now(guest: &mut Guest, device: Device) {
    guest.contents(device, 0);
    guest.chain(0, &good(device, 0));
    for queue in 0..device.queues() {
        guest.kick(device, queue);
    }
}

fn work(guest: &mut Guest, device: Device) {
    work_now(guest, device);
    guest.settle(device, 0);
}

/// Cases that are of no single device, or move one; each ends with a device that works.
#[rustfmt::skip]
const MACHINE: [Row; 16] = [
    ("B1-1 ports of nobody, every width", |guest, _| { for port in (0x700..0xcf0_u16).step_by(7) { for width in [Width::Byte, Width::Word, Width::Long] { guest.code.out(width, port, u32::MAX); guest.code.input(width, port); let ones = match width { Width::Byte => 0xff, Width::Word => 0xffff, Width::Long => u32::MAX }; guest.check_eax(ones, ones); } } }),
    ("B1-2 the hole, every width and alignment", |guest, _| { for at in (0xd000_0000..0xeec0_0000_u32).step_by(0x0100_0000) { for (width, step) in [(Width::Byte, 3), (Width::Word, 1), (Width::Long, 0), (Width::Long, 2)] { guest.code.write(width, at + step, 0); guest.code.read(width, at + step); } guest.expect(Width::Long, at, u32::MAX, u32::MAX); } }),
    ("B1-2 before and after every page of the BAR", |guest, device| { for at in (0..0x9000).step_by(0x1000) { for step in [0_u32, 1, 2, 3] { for width in [Width::Byte, Width::Word, Width::Long] { guest.code.read(width, device.bar() + at - step); } } } }),
    ("B1-4 a long string of output", |guest, _| { for width in [Width::Byte, Width::Word, Width::Long] { guest.code.esi(BUFFERS + 0x10_0000); guest.code.ecx(4096); guest.code.edx(0xcf4); guest.code.raw(match width { Width::Byte => &[0xf3, 0x6e], Width::Word => &[0xf3, 0x66, 0x6f], Width::Long => &[0xf3, 0x6f] }); } }),
    ("B2-10 BAR sized at every offset", |guest, device| { for register in (0x10..0x28).step_by(4) { guest.config_write(device, register, Width::Long, u32::MAX); guest.config_read(device, register, Width::Long); } for register in 0x10..0x28 { guest.config_write(device, register, Width::Byte, 0xff); } restore(guest, device); }),
    ("B2-10 BAR over memory", |guest, device| { moved(guest, device, BUFFERS); guest.check_canary(); restore(guest, device); }),
    ("B2-10 BAR over another BAR", |guest, device| { let other = if device == Device::Rng { Device::Block } else { Device::Rng }; moved(guest, device, other.bar()); restore(guest, device); guest.prove(other); }),
    ("B2-10 BAR over the APICs", |guest, device| { moved(guest, device, 0xfec0_0000); moved(guest, device, 0xfee0_0000); restore(guest, device); }),
    ("B2-10 BAR over configuration space", |guest, device| { moved(guest, device, 0xeec0_0000); moved(guest, device, 0xffff_8000); moved(guest, device, 0); restore(guest, device); }),
    ("B2-10 doorbells over ports of the machine", |guest, device| { for port in [0, 0x40, 0x3c0, 0x600, 0xcc0, 0xbfc0] { moved_ports(guest, device, port); } for port in [0x1_0000, 0xffff_ffc0] { guest.config_write(device, 0x18, Width::Long, port); } restore(guest, device); }),
    ("B2-10 doorbells over those of another", |guest, device| { let other = if device == Device::Rng { Device::Block } else { Device::Rng }; moved_ports(guest, device, other.ports()); restore(guest, device); guest.prove(other); }),
    ("B2-10 decoding off and on while it works", |guest, device| { guest.start(device, 0); for _ in 0..20 { work_now(guest, device); guest.config_write(device, 4, Width::Word, 0); guest.config_write(device, 4, Width::Word, 3); } }),
    ("B2-10 access window with a bad place", |guest, device| { for (bar, offset, len) in [(0, 0x14, 4), (1, 0, 4), (5, 0, 1), (0xff, 0, 4), (0, 0x8000, 4), (0, u32::MAX, 4), (0, 0x7ffe, 4), (0, 0, 3), (0, 0, 0), (0, 0x14, u32::MAX)] { access(guest, device, bar, offset, len); } }),
    ("B2-10 every byte of configuration space written with ones", |guest, device| { for register in 0..0x100 { guest.config_write(device, register, Width::Byte, 0xff); } for register in (0..0x100).step_by(4) { guest.config_write(device, register, Width::Long, 0); guest.config_read(device, register, Width::Long); } restore(guest, device); }),
    ("B2-10 vectors switched on, masked and off", |guest, device| { for value in [0x8000, 0xc000, 0, 0xffff, 0] { for register in (0x40..0x100).step_by(4) { guest.config_write(device, register + 2, Width::Word, value); } guest.start(device, 0); work(guest, device); } restore(guest, device); }),
    ("B1 addresses of buses and functions that are not there", |guest, _| { for address in [0x8001_0000_u32, 0x80ff_ff00, 0xffff_ffff, 0x8000_0700, 0x0000_0000, 0x8000_f800] { guest.code.out(Width::Long, 0xcf8, address); guest.code.input(Width::Long, 0xcfc); guest.code.out(Width::Long, 0xcfc, u32::MAX); guest.code.out(Width::Byte, 0xcf9, 0); } }),
];

/// Number of cases of the machine.
pub(crate) const MACHINE_CASES: usize = MACHINE.len();

/// One case of the machine, with `device` as the one that is moved and has to work afterwards.
pub(crate) fn machine_case(guest: &mut Guest, device: Device, row: usize) {
    let (name, act) = MACHINE[row];
    guest.case(&format!("machine ({}) {name}", device.name()), |guest| {
        act(guest, device);
        guest.check_canary();
        guest.prove(device);
    });
}

/// Puts the BAR of a device elsewhere, and lets it decode there.
fn moved(guest: &mut Guest, device: Device, address: u32) {
    guest.config_write(device, 4, Width::Word, 0);
    guest.config_write(device, 0x10, Width::Long, address);
    guest.config_write(device, 4, Width::Word, 3);
    guest.config_read(device, 0x10, Width::Long);
}

/// Puts the doorbells of a device elsewhere and rings them there, with zeroes.
fn moved_ports(guest: &mut Guest, device: Device, port: u16) {
    guest.config_write(device, 0x18, Width::Long, port.into());
    guest.config_read(device, 0x18, Width::Long);
    for width in [Width::Byte, Width::Word, Width::Long] {
        guest.code.out(width, port, 0);
        guest.code.out(width, port + 8, 0);
    }
}

fn restore(guest: &mut Guest, device: Device) {
    guest.config_write(device, 4, Width::Word, 0);
    guest.config_write(device, 0x14, Width::Long, 0);
    guest.config_write(device, 0x10, Width::Long, device.bar());
    guest.config_write(device, 0x18, Width::Long, device.ports().into());
    guest.config_write(device, 4, Width::Word, 3);
}

/// Uses the access capability, wherever it is: the last vendor capability, of type 5.
fn access(guest: &mut Guest, device: Device, bar: u32, offset: u32, len: u32) {
    // Its place follows from the capabilities before it; all are tried that could be it.
    for start in (0x40..0xe8).step_by(4) {
        let skip = guest.code.label();
        guest.config_read(device, start, Width::Long);
        guest.code.and_eax(0xff00_00ff);
        guest.code.compare_eax(0x0500_0009);
        guest.code.jump_not_equal(skip);
        guest.config_write(device, start + 4, Width::Byte, bar);
        guest.config_write(device, start + 8, Width::Long, offset);
        guest.config_write(device, start + 12, Width::Long, len);
        guest.config_write(device, start + 16, Width::Long, u32::MAX);
        guest.config_read(device, start + 16, Width::Long);
        guest.config_read(device, start + 16, Width::Byte);
        guest.code.place(skip);
    }
}
