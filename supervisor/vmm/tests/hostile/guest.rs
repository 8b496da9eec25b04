//! The hostile guest's drivers: they place, start and reset devices, build chains, watch what comes of them, and print a
//! verdict per case.
//!
//! ```text
//! 0x0010_0000  code          0x0080_0000  stack, growing down
//! 0x0100_0000  rings, 64 KiB a queue: descriptors, available ring at +0x4000, used ring at +0x8000
//! 0x0180_0000  an indirect table
//! 0x0200_0000  buffers       0x0300_0000  what no device may touch
//! 0xc000_0000  BARs, 64 KiB a device
//! 0xc100_0000  window memory, which holds all that was printed: a device that prints guest memory cannot push it out
//! ```

use crate::asm::{Code, Label, Width};

/// End of the code.
pub(crate) const CODE_END: u32 = 0x70_0000;
/// Where rings are.
pub(crate) const RINGS: u32 = 0x100_0000;
/// An indirect table.
pub(crate) const TABLE: u32 = 0x180_0000;
/// Buffers.
pub(crate) const BUFFERS: u32 = 0x200_0000;
/// A page that only the guest itself writes.
pub(crate) const CANARY: u32 = 0x300_0000;
/// Bytes of guest memory.
pub(crate) const RAM: u32 = 64 << 20;
/// Where BARs begin: the 32-bit PCI window.
const BARS: u32 = 0xc000_0000;
const WINDOW: u32 = 0xc100_0000;
const STACK: u32 = 0x80_0000;
/// Numbers of slots, and where the next character goes in the window memory.
const SLOTS: u32 = 0x70_0000;
const CURSOR: u32 = 0x70_0100;
/// Vendor and device number of the window memory, as one register.
const WINDOW_IDENTITY: u32 = 0x574d_0000 | 0x4343;
const CANARY_VALUE: u32 = 0xca5e_ca5e;

/// Descriptors of every queue.
pub(crate) const SIZE: u16 = 16;

/// Descriptor flags.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// Turns of waiting. Each leaves the guest, so that devices on other threads get on; far more than an idle machine needs.
const PATIENCE: u32 = 1_000_000;
/// Turns of waiting for what need not come at all.
const GLANCE: u32 = 300;

const SERIAL: u16 = 0x3f8;
/// A port where nothing is.
const NOWHERE: u8 = 0x80;

/// Registers of the common configuration.
pub(crate) mod common {
    pub(crate) const FEATURE_SELECT: u32 = 0x08;
    pub(crate) const FEATURES: u32 = 0x0c;
    pub(crate) const CONFIG_VECTOR: u32 = 0x10;
    pub(crate) const STATUS: u32 = 0x14;
    pub(crate) const QUEUE_SELECT: u32 = 0x16;
    pub(crate) const QUEUE_SIZE: u32 = 0x18;
    pub(crate) const QUEUE_VECTOR: u32 = 0x1a;
    pub(crate) const QUEUE_ENABLE: u32 = 0x1c;
    pub(crate) const QUEUE_DESC: u32 = 0x20;
    pub(crate) const QUEUE_DRIVER: u32 = 0x28;
    pub(crate) const QUEUE_DEVICE: u32 = 0x30;
}

/// A device that the VM has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    Net,
    Block,
    Console,
    Rng,
    Balloon,
    Vsock,
    Sound,
}

impl Device {
    pub(crate) const ALL: [Self; 7] = [
        Self::Net,
        Self::Block,
        Self::Console,
        Self::Rng,
        Self::Balloon,
        Self::Vsock,
        Self::Sound,
    ];

    /// Number in the virtio standard.
    fn number(self) -> u32 {
        match self {
            Self::Net => 1,
            Self::Block => 2,
            Self::Console => 3,
            Self::Rng => 4,
            Self::Balloon => 5,
            Self::Vsock => 19,
            Self::Sound => 25,
        }
    }

    /// Queues that a driver without features sets up.
    pub(crate) fn queues(self) -> u16 {
        match self {
            Self::Block | Self::Rng => 1,
            Self::Net | Self::Console | Self::Balloon => 2,
            Self::Vsock => 3,
            Self::Sound => 4,
        }
    }

    /// Its BAR.
    pub(crate) fn bar(self) -> u32 {
        BARS + 0x1_0000 * self.number()
    }

    /// Its doorbells.
    pub(crate) fn ports(self) -> u16 {
        0xd000 + 0x100 * u16::try_from(self.number()).expect("a small number")
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Block => "blk",
            Self::Console => "console",
            Self::Rng => "rng",
            Self::Balloon => "balloon",
            Self::Vsock => "vsock",
            Self::Sound => "snd",
        }
    }
}

/// Descriptors, available and used ring of a queue.
pub(crate) fn ring(queue: u16) -> u32 {
    RINGS + 0x1_0000 * u32::from(queue)
}

pub(crate) fn available(queue: u16) -> u32 {
    ring(queue) + 0x4000
}

pub(crate) fn used(queue: u16) -> u32 {
    ring(queue) + 0x8000
}

/// One descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

/// A guest under construction.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) code: Code,
    print: Label,
    print_eax: Label,
    /// Where the current case goes when it finds something wrong.
    failed: Option<Label>,
    steps: u32,
}

impl Guest {
    /// A guest that has placed all its devices.
    pub(crate) fn new() -> Self {
        let mut code = Code::default();
        let (print, print_eax) = (code.label(), code.label());
        let mut guest = Self {
            code,
            print,
            print_eax,
            failed: None,
            steps: 0,
        };
        guest.code.esp(STACK);
        guest.code.fill(CANARY, 4096, CANARY_VALUE);
        guest.code.write(Width::Long, CURSOR, WINDOW);
        guest.locate(WINDOW_IDENTITY, &[(0x18, WINDOW), (0x1c, 0)], SLOTS);
        for device in Device::ALL {
            let identity = (0x1040 + device.number()) << 16 | 0x1af4;
            let ports = device.ports().into();
            let places = [(0x10, device.bar()), (0x14, 0), (0x18, ports)];
            guest.locate(identity, &places, slot(device));
        }
        guest
    }

    /// Prints a text. Uses all registers but EBX, EBP and ESP.
    pub(crate) fn say(&mut self, text: &str) {
        self.code.call(self.print);
        self.code.raw(text.as_bytes());
        self.code.raw(&[0]);
    }

    /// Finds a function on the bus, writes its registers and the one that makes it decode, and keeps where it is.
    fn locate(&mut self, identity: u32, registers: &[(u32, u32)], slot: u32) {
        let (again, found) = (self.code.label(), self.code.label());
        let code = &mut self.code;
        code.edi(0x8000_0000);
        code.place(again);
        code.edx(0xcf8);
        code.raw(&[0x89, 0xf8, 0xef]); // mov eax, edi; out dx, eax
        code.input(Width::Long, 0xcfc);
        code.compare_eax(identity);
        code.jump_equal(found);
        code.raw(&[0x81, 0xc7]); // add edi, 1 << 11
        code.raw(&(1_u32 << 11).to_le_bytes());
        code.raw(&[0x81, 0xff]); // cmp edi, end of bus 0
        code.raw(&0x8001_0000_u32.to_le_bytes());
        code.jump_below(again);
        code.place(found);
        for (register, value) in registers.iter().copied().chain([(4, 3)]) {
            code.edx(0xcf8);
            code.raw(&[0x89, 0xf8, 0x0d]); // mov eax, edi; or eax, register
            code.raw(&u32::to_le_bytes(register));
            code.raw(&[0xef]);
            code.out(Width::Long, 0xcfc, value);
        }
        code.raw(&[0x89, 0x3d]); // mov [slot], edi
        code.raw(&slot.to_le_bytes());
    }

    /// Writes a register of a device's configuration space.
    pub(crate) fn config_write(&mut self, device: Device, register: u32, width: Width, value: u32) {
        self.config_address(device, register);
        let port = 0xcfc + u16::try_from(register & 3).expect("two bits");
        self.code.out(width, port, value);
    }

    /// Reads a register of a device's configuration space into EAX.
    pub(crate) fn config_read(&mut self, device: Device, register: u32, width: Width) {
        self.config_address(device, register);
        let port = 0xcfc + u16::try_from(register & 3).expect("two bits");
        self.code.input(width, port);
    }

    fn config_address(&mut self, device: Device, register: u32) {
        self.code.read(Width::Long, slot(device));
        self.code.raw(&[0x0d]); // or eax, register
        self.code.raw(&(register & !3).to_le_bytes());
        self.code.edx(0xcf8);
        self.code.raw(&[0xef]);
    }

    pub(crate) fn register(&mut self, device: Device, register: u32, width: Width, value: u32) {
        self.code.write(width, device.bar() + register, value);
    }

    pub(crate) fn status(&mut self, device: Device, value: u32) {
        self.register(device, common::STATUS, Width::Byte, value);
    }

    /// Fails the case unless EAX is as expected.
    pub(crate) fn check_eax(&mut self, mask: u32, value: u32) {
        let failed = self.failed.expect("inside a case");
        self.steps += 1;
        self.code.raw(&[0xbd]); // mov ebp, step
        self.code.raw(&self.steps.to_le_bytes());
        self.code.and_eax(mask);
        self.code.compare_eax(value);
        self.code.jump_not_equal(failed);
    }

    /// Fails the case unless memory is as expected.
    pub(crate) fn expect(&mut self, width: Width, address: u32, mask: u32, value: u32) {
        self.code.read(width, address);
        self.check_eax(mask, value);
    }

    /// Waits until memory is as expected; fails the case when that does not happen.
    pub(crate) fn wait(&mut self, address: u32, mask: u32, value: u32) {
        let done = self.code.label();
        self.poll(PATIENCE, |code| {
            code.read(Width::Long, address);
            code.and_eax(mask);
            code.compare_eax(value);
            code.jump_equal(done);
        });
        self.code.place(done);
        self.expect(Width::Long, address, mask, value);
    }

    /// Waits until memory is not as it was; fails the case when that does not happen.
    pub(crate) fn wait_not(&mut self, address: u32, mask: u32, value: u32) {
        let failed = self.failed.expect("inside a case");
        let done = self.code.label();
        self.poll(PATIENCE, |code| {
            code.read(Width::Long, address);
            code.and_eax(mask);
            code.compare_eax(value);
            code.jump_not_equal(done);
        });
        self.code.jump(failed);
        self.code.place(done);
    }

    fn poll(&mut self, turns: u32, look: impl FnOnce(&mut Code)) {
        let again = self.code.label();
        let code = &mut self.code;
        code.ecx(turns);
        code.place(again);
        look(code);
        code.raw(&[0xe6, NOWHERE, 0x49]); // out NOWHERE, al; dec ecx
        code.jump_not_equal(again);
    }

    /// Takes a device through negotiation up to FEATURES_OK, with VERSION_1 and `features` of the lower half.
    pub(crate) fn negotiate(&mut self, device: Device, features: u32) {
        self.status(device, 0);
        self.status(device, 1);
        self.status(device, 3);
        self.register(device, common::FEATURE_SELECT, Width::Long, 0);
        self.register(device, common::FEATURES, Width::Long, features);
        self.register(device, common::FEATURE_SELECT, Width::Long, 1);
        self.register(device, common::FEATURES, Width::Long, 1);
        self.status(device, 11);
        self.expect(Width::Byte, device.bar() + common::STATUS, 0xff, 11);
    }

    /// Describes a queue, its rings empty, and enables it.
    pub(crate) fn set_up(&mut self, device: Device, queue: u16) {
        for (address, len) in [
            (ring(queue), 16 * u32::from(SIZE)),
            (available(queue), 64),
            (used(queue), 256),
        ] {
            self.code.fill(address, len, 0);
        }
        self.register(device, common::QUEUE_SELECT, Width::Word, queue.into());
        self.register(device, common::QUEUE_SIZE, Width::Word, SIZE.into());
        for (register, address) in [
            (common::QUEUE_DESC, ring(queue)),
            (common::QUEUE_DRIVER, available(queue)),
            (common::QUEUE_DEVICE, used(queue)),
        ] {
            self.register(device, register, Width::Long, address);
            self.register(device, register + 4, Width::Long, 0);
        }
        self.register(device, common::QUEUE_ENABLE, Width::Word, 1);
    }

    /// Resets a device and starts it anew with empty rings.
    pub(crate) fn start(&mut self, device: Device, features: u32) {
        self.negotiate(device, features);
        for queue in 0..device.queues() {
            self.set_up(device, queue);
        }
        self.status(device, 15);
        self.expect(Width::Byte, device.bar() + common::STATUS, 0xff, 15);
    }

    pub(crate) fn descriptor(&mut self, table: u32, index: u16, descriptor: Descriptor) {
        let at = table + 16 * u32::from(index);
        let low = u32::try_from(descriptor.address & 0xffff_ffff).expect("masked");
        let high = u32::try_from(descriptor.address >> 32).expect("half");
        self.code.write(Width::Long, at, low);
        self.code.write(Width::Long, at + 4, high);
        self.code.write(Width::Long, at + 8, descriptor.len);
        let rest = u32::from(descriptor.next) << 16 | u32::from(descriptor.flags);
        self.code.write(Width::Long, at + 12, rest);
    }

    /// Puts a chain into the table and its head, 0, into the available ring.
    pub(crate) fn chain(&mut self, queue: u16, chain: &[Descriptor]) {
        for (index, descriptor) in (0_u16..).zip(chain) {
            self.descriptor(ring(queue), index, *descriptor);
        }
        self.offer(queue, &[0], 1);
    }

    /// Writes heads into the available ring, and its index.
    pub(crate) fn offer(&mut self, queue: u16, heads: &[u16], index: u16) {
        for (place, head) in (0_u32..).zip(heads) {
            let at = available(queue) + 4 + 2 * place;
            self.code.write(Width::Word, at, (*head).into());
        }
        self.code
            .write(Width::Word, available(queue) + 2, index.into());
    }

    pub(crate) fn kick(&mut self, device: Device, queue: u16) {
        let port = device.ports() + 4 * queue;
        self.code.out(Width::Word, port, queue.into());
    }

    /// Gives the device time, until it completes something on the queue or calls for a reset.
    pub(crate) fn settle(&mut self, device: Device, queue: u16) {
        let done = self.code.label();
        self.poll(GLANCE, |code| {
            code.read(Width::Word, used(queue) + 2);
            code.compare_eax(0);
            code.jump_not_equal(done);
            code.read(Width::Byte, device.bar() + common::STATUS);
            code.and_eax(64);
            code.jump_not_equal(done);
        });
        self.code.place(done);
    }

    /// Prints what came of a hostile act: the device's status and the used index, in hexadecimal.
    pub(crate) fn tell(&mut self, device: Device, queue: u16) {
        self.say(" status=");
        self.code.read(Width::Byte, device.bar() + common::STATUS);
        self.code.call(self.print_eax);
        self.say(" used=");
        self.code.read(Width::Word, used(queue) + 2);
        self.code.call(self.print_eax);
    }

    /// Fails the case when what no device may touch was touched.
    pub(crate) fn check_canary(&mut self) {
        for at in (0..4096).step_by(512) {
            self.expect(Width::Long, CANARY + at, u32::MAX, CANARY_VALUE);
        }
    }

    /// One case: its name, `body`, and "ok" or where it failed. One line of the console.
    pub(crate) fn case(&mut self, name: &str, body: impl FnOnce(&mut Self)) {
        let (failed, next) = (self.code.label(), self.code.label());
        self.say(&format!("case {name}:"));
        self.failed = Some(failed);
        self.steps = 0;
        body(self);
        self.failed = None;
        self.say(" ok\n");
        self.code.jump(next);
        self.code.place(failed);
        self.code.raw(&[0x50]); // push eax
        self.say(" FAILED at step ");
        self.code.raw(&[0x89, 0xe8]); // mov eax, ebp
        self.code.call(self.print_eax);
        self.say(" with ");
        self.code.raw(&[0x58]); // pop eax
        self.code.call(self.print_eax);
        self.say("\n");
        self.code.place(next);
    }

    /// The code: it says that it is through and switches the machine off.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.say("all cases done\n");
        self.code.out(Width::Byte, 0x600, 5 << 2 | 1 << 5);
        self.code.raw(&[0xf4, 0xeb, 0xfd]); // hlt; jmp back
        // print: the text follows the call.
        let (again, done) = (self.code.label(), self.code.label());
        let code = &mut self.code;
        code.place(self.print);
        code.raw(&[0x5e]); // pop esi
        code.edx(SERIAL.into());
        code.place(again);
        code.raw(&[0x8a, 0x06, 0x46, 0x84, 0xc0]); // mov al, [esi]; inc esi; test al, al
        code.jump_equal(done);
        code.raw(&[0xee, 0x8b, 0x3d]); // out dx, al; mov edi, [CURSOR]
        code.raw(&CURSOR.to_le_bytes());
        code.raw(&[0x88, 0x07, 0xff, 0x05]); // mov [edi], al; inc dword [CURSOR]
        code.raw(&CURSOR.to_le_bytes());
        code.jump(again);
        code.place(done);
        code.raw(&[0xff, 0xe6]); // jmp esi
        // print_eax: eight digits, the highest first.
        let (digit, letter) = (code.label(), code.label());
        code.place(self.print_eax);
        code.raw(&[0x89, 0xc7]); // mov edi, eax
        code.edx(SERIAL.into());
        code.ecx(8);
        code.place(digit);
        code.raw(&[0xc1, 0xc7, 0x04, 0x89, 0xf8]); // rol edi, 4; mov eax, edi
        code.and_eax(15);
        code.raw(&[0x04, b'0', 0x3c, b'9' + 1]); // add al, '0'; cmp al, '9' + 1
        code.jump_below(letter);
        code.raw(&[0x04, b'a' - b'9' - 1]); // add al, ...
        code.place(letter);
        code.raw(&[0xee, 0x8b, 0x35]); // out dx, al; mov esi, [CURSOR]
        code.raw(&CURSOR.to_le_bytes());
        code.raw(&[0x88, 0x06, 0xff, 0x05]); // mov [esi], al; inc dword [CURSOR]
        code.raw(&CURSOR.to_le_bytes());
        code.raw(&[0x49]); // dec ecx
        code.jump_not_equal(digit);
        code.ret();
        self.code.finish()
    }
}

/// Where the number of a device's slot is kept.
fn slot(device: Device) -> u32 {
    SLOTS + 4 * device.number()
}
