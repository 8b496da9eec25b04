//! Broken chains and rings, the same for every queue: rows B2-1 to B2-5 and B2-7 of the test plan.

use crate::asm::Width;
use crate::guest::{
    Descriptor, Device, Guest, INDIRECT, NEXT, RAM, SIZE, TABLE, WRITE, available, common, ring,
    used,
};
use crate::proof::good;

/// Feature bits of every device's rings.
const INDIRECT_DESC: u32 = 1 << 28;

/// A queue under attack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) device: Device,
    pub(crate) queue: u16,
}

pub(crate) const TARGETS: [Target; 13] = [
    Target::new(Device::Block, 0),
    Target::new(Device::Rng, 0),
    Target::new(Device::Console, 0),
    Target::new(Device::Console, 1),
    Target::new(Device::Vsock, 0),
    Target::new(Device::Vsock, 1),
    Target::new(Device::Vsock, 2),
    Target::new(Device::Net, 0),
    Target::new(Device::Net, 1),
    Target::new(Device::Balloon, 0),
    Target::new(Device::Sound, 0),
    Target::new(Device::Sound, 2),
    Target::new(Device::Sound, 3),
];

impl Target {
    const fn new(device: Device, queue: u16) -> Self {
        Self { device, queue }
    }

    /// Whether the device looks at a chain as soon as it is there, not only when it has something to say.
    fn filled_by_driver(self) -> bool {
        match self.device {
            Device::Block | Device::Rng | Device::Balloon => true,
            // A message for a stream that is not prepared comes back at once.
            Device::Sound => true,
            Device::Console | Device::Vsock | Device::Net => self.queue == 1,
        }
    }
}

/// What a driver does wrong.
#[derive(Clone, Debug)]
struct Act {
    chain: Vec<Descriptor>,
    table: Vec<Descriptor>,
    heads: Vec<u16>,
    index: u16,
    features: u32,
    /// Words written elsewhere before the kick.
    pokes: Vec<(u32, u32)>,
}

impl Act {
    fn new(target: Target) -> Self {
        Self {
            chain: good(target.device, target.queue),
            table: Vec::new(),
            heads: vec![0],
            index: 1,
            features: 0,
            pokes: Vec::new(),
        }
    }

    /// Another address and length for the descriptor that carries the data.
    fn with_data(mut self, address: u64, len: u32) -> Self {
        let at = usize::from(self.chain.len() > 1);
        self.chain[at].address = address;
        self.chain[at].len = len;
        self
    }

    /// The chain behind one indirect descriptor.
    fn indirect(mut self, len: u32, flags: u16) -> Self {
        self.table = std::mem::take(&mut self.chain);
        self.chain = vec![Descriptor {
            address: TABLE.into(),
            len,
            flags: INDIRECT | flags,
            next: 0,
        }];
        self.features = INDIRECT_DESC;
        self
    }
}

/// What must come of an act on a queue that the driver fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The rings themselves make no sense: the device stops and asks for a reset.
    Broken,
    /// Something is wrong with one chain: it comes back, and the device goes on.
    Returned,
    /// One of both.
    Either,
}

use Outcome::{Broken, Either, Returned};

/// The name of a case, what must come of it, and how its act is made of a good one.
type Row = (&'static str, Outcome, fn(Target, Act) -> Act);

#[rustfmt::skip]
const ROWS: [Row; 36] = [
    ("B2-1 chain that points to itself", Returned, |_, mut act| { let last = act.chain.len() - 1; act.chain[last].flags |= NEXT; act.chain[last].next = u16::try_from(last).expect("short"); act }),
    ("B2-1 chain of two in a circle", Returned, |_, mut act| { let flags = act.chain[0].flags | NEXT; act.chain.truncate(1); act.chain[0].flags = flags; act.chain[0].next = 1; let second = Descriptor { next: 0, ..act.chain[0] }; act.chain.push(second); act }),
    ("B2-1 circle of the whole table", Returned, |_, mut act| { let first = act.chain[0]; act.chain = (0..SIZE).map(|index| Descriptor { flags: first.flags | NEXT, next: (index + 1) % SIZE, ..first }).collect(); act }),
    ("B2-1 chain as long as the queue", Returned, |_, mut act| { let first = act.chain[0]; act.chain = (0..SIZE).map(|index| Descriptor { len: 1, flags: (first.flags & WRITE) | if index + 1 < SIZE { NEXT } else { 0 }, next: index + 1, ..first }).collect(); act }),
    ("B2-2 next is the size", Returned, |_, mut act| { act.chain[0].flags |= NEXT; act.chain[0].next = SIZE; act }),
    ("B2-2 next is 0xffff", Returned, |_, mut act| { act.chain[0].flags |= NEXT; act.chain[0].next = 0xffff; act }),
    ("B2-2 head is the size", Broken, |_, mut act| { act.heads = vec![SIZE]; act }),
    ("B2-2 head is 0xffff", Broken, |_, mut act| { act.heads = vec![0xffff]; act }),
    ("B2-2 the same head everywhere", Either, |_, mut act| { act.heads = vec![0; SIZE.into()]; act.index = SIZE; act }),
    ("B2-2 index ahead by one more than the size", Broken, |_, mut act| { act.index = SIZE + 1; act }),
    ("B2-2 index ahead by 0x8000", Broken, |_, mut act| { act.index = 0x8000; act }),
    ("B2-2 index back by one", Broken, |_, mut act| { act.index = 0xffff; act }),
    ("B2-3 at the last byte of memory", Returned, |_, act| act.with_data(u64::from(RAM) - 1, 1)),
    ("B2-3 over the end of memory", Returned, |_, act| act.with_data(u64::from(RAM) - 8, 512)),
    ("B2-3 at the end of memory", Returned, |_, act| act.with_data(RAM.into(), 512)),
    ("B2-3 in the hole", Returned, |_, act| act.with_data(0xd000_0000, 512)),
    ("B2-3 in a BAR", Returned, |target, act| act.with_data(target.device.bar().into(), 512)),
    ("B2-3 in the local APIC", Returned, |_, act| act.with_data(0xfee0_0000, 512)),
    ("B2-3 in the descriptor table", Returned, |target, act| act.with_data(ring(target.queue).into(), 512)),
    ("B2-3 in the used ring", Returned, |target, act| act.with_data(used(target.queue).into(), 512)),
    ("B2-3 at the end of all addresses", Returned, |_, act| act.with_data(0xffff_ffff_ffff_ff00, 256)),
    ("B2-3 wraps around", Returned, |_, act| act.with_data(0xffff_ffff_ffff_ff00, 512)),
    ("B2-3 nothing long", Returned, |_, act| act.with_data(0x200_0000, 0)),
    ("B2-3 4 GiB long", Returned, |_, act| act.with_data(0x200_0000, u32::MAX)),
    ("B2-3 more than 4 GiB in all", Returned, |_, mut act| { let at = usize::from(act.chain.len() > 1); let one = Descriptor { len: 0x9000_0000, flags: act.chain[at].flags | NEXT, ..act.chain[at] }; let at = u16::try_from(at).expect("short"); act.chain.truncate(at.into()); act.chain.extend([Descriptor { next: at + 1, ..one }, Descriptor { flags: one.flags & !NEXT, ..one }]); act }),
    ("B2-4 indirect without the feature", Returned, |_, act| { let mut act = act.indirect(48, 0); act.features = 0; act }),
    ("B2-4 indirect in indirect", Returned, |_, act| { let mut act = act.indirect(48, 0); act.table[0].flags |= INDIRECT; act }),
    ("B2-4 indirect with next", Returned, |_, act| act.indirect(48, NEXT)),
    ("B2-4 indirect of 47 bytes", Returned, |_, act| act.indirect(47, 0)),
    ("B2-4 indirect of no bytes", Returned, |_, act| act.indirect(0, 0)),
    ("B2-4 indirect over the end of memory", Returned, |_, act| { let mut act = act.indirect(48, 0); act.chain[0].address = u64::from(RAM) - 16; act }),
    ("B2-4 indirect of a million bytes", Returned, |_, act| act.indirect(1 << 20, 0)),
    ("B2-4 indirect that is its own table", Returned, |target, act| { let mut act = act.indirect(48, 0); act.chain[0].address = ring(target.queue).into(); act }),
    ("B2-5 all directions turned", Returned, |_, mut act| { for one in &mut act.chain { one.flags ^= WRITE; } act }),
    ("B2-5 unknown flags", Returned, |_, mut act| { for one in &mut act.chain { one.flags |= 0xfff8; } act }),
    ("B2-7 used ring written by the driver", Returned, |target, mut act| { act.pokes = vec![(used(target.queue), 0x7777_ffff), (used(target.queue) + 4, u32::MAX), (available(target.queue), 0x0001_0001)]; act }),
];

/// Number of cases per target.
pub(crate) const CASES: usize = ROWS.len();

/// One case: the act, some time, and then the device does its work after a reset.
pub(crate) fn case(guest: &mut Guest, target: Target, row: usize) {
    let (name, outcome, make) = ROWS[row];
    let Target { device, queue } = target;
    guest.case(&format!("{}{queue} {name}", device.name()), |guest| {
        let act = make(target, Act::new(target));
        guest.start(device, 0);
        guest.contents(device, queue);
        if act.features != 0 {
            guest.offered(device, act.features);
        }
        for (index, descriptor) in (0_u16..).zip(&act.table) {
            guest.descriptor(TABLE, index, *descriptor);
        }
        for (index, descriptor) in (0_u16..).zip(&act.chain) {
            guest.descriptor(ring(queue), index, *descriptor);
        }
        guest.offer(queue, &act.heads, act.index);
        for (address, value) in act.pokes {
            guest.code.write(Width::Long, address, value);
        }
        guest.kick(device, queue);
        if (device, queue) == (Device::Vsock, 0) {
            // A request to nobody, so that there is an answer to be put into the broken chain.
            guest.contents(device, 1);
            guest.chain(1, &good(device, 1));
            guest.kick(device, 1);
        }
        guest.settle(device, queue);
        guest.tell(device, queue);
        if target.filled_by_driver() {
            let status = device.bar() + common::STATUS;
            match outcome {
                Either => {}
                Broken => guest.wait(status & !3, 0x40, 0x40),
                Returned => {
                    guest.wait_not(used(queue), 0xffff_0000, 0);
                    guest.expect(Width::Byte, status, 0xff, 15);
                }
            }
        }
        guest.check_canary();
        guest.prove(device);
    });
}

impl Guest {
    /// Starts the device again with those of `features` that it offers.
    fn offered(&mut self, device: Device, features: u32) {
        let (without, done) = (self.code.label(), self.code.label());
        self.register(device, 0, Width::Long, 0);
        self.code.read(Width::Long, device.bar() + 4);
        self.code.and_eax(features);
        self.code.compare_eax(features);
        self.code.jump_not_equal(without);
        self.start(device, features);
        self.code.jump(done);
        self.code.place(without);
        self.start(device, 0);
        self.code.place(done);
    }
}
