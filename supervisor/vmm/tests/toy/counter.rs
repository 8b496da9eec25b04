//! A guest that counts: each round it asks the random number device for bytes, waits for them, adds one to a number in
//! its memory, and shows both in the window memory. It ends when it is told to.

use super::payload::{Code, End, LINE, WINDOW, image};

/// Offsets of the window memory, where the guest shows what it has.
pub(crate) const COUNT: u64 = 8;
/// The last random bytes.
pub(crate) const RANDOM: u64 = 12;
/// The first bytes of its generation.
pub(crate) const GENERATION: u64 = 16;
/// The pages of a block that it fills with their number when it starts: how many are not as they were, in every round.
pub(crate) const SPOILED: u64 = 20;

/// Where the guest keeps its number.
const NUMBER: u32 = 0x20_0000;
/// Pages that are written once and never again, each with its own address.
const BLOCK: std::ops::Range<u32> = 0x30_0000..0x34_0000;
/// Rings of a queue of one entry, and its buffer.
const DESCRIPTORS: u32 = 0x40_0000;
const AVAILABLE: u32 = 0x40_1000;
const USED: u32 = 0x40_2000;
const BUFFER: u32 = 0x40_3000;
/// Where the guest puts the device's BAR.
const BAR: u32 = 0xc100_0000;
/// And its doorbells, elsewhere than the vmm put them.
const DOORBELLS: u16 = 0xd040;
/// Where the vmm has the generation.
const GENERATION_AT: u32 = 0xf_f000;

/// The kernel image, for a VM whose random number device and window memory are these PCI functions.
pub(crate) fn elf(rng: u8, window: u8) -> Vec<u8> {
    let mut code = Code::default();
    for byte in LINE.bytes() {
        code.out_byte(0x3f8, byte);
    }
    code.place_bar(window, 0x18, WINDOW);
    code.place_bar(rng, 0x10, BAR);
    code.place_ports(rng, 0x18, DOORBELLS);
    start_device(&mut code);
    // mov edi, start; again: mov [edi], edi; add edi, 4096; cmp edi, end; jb again
    code.bytes(&[0xbf]);
    code.bytes(&BLOCK.start.to_le_bytes());
    code.bytes(&[0x89, 0x3f, 0x81, 0xc7, 0, 0x10, 0, 0, 0x81, 0xff]);
    code.bytes(&BLOCK.end.to_le_bytes());
    code.bytes(&[0x72, 0xf0]);

    let round = code.here();
    code.with_address(&[0x66, 0xff, 0x05], AVAILABLE + 2); // inc word [available.index]
    code.out_word(DOORBELLS, 0); // Notify queue 0.
    code.with_address(&[0x66, 0xa1], USED + 2); // wait: mov ax, [used.index]
    code.with_address(&[0x66, 0x3b, 0x05], AVAILABLE + 2); // cmp ax, [available.index]
    code.bytes(&[0x75, 0xf1]); // jne wait
    code.with_address(&[0xff, 0x05], NUMBER); // inc dword [NUMBER]
    // xor ebx, ebx; mov edi, start; again: cmp [edi], edi; je good; inc ebx; good: add edi, 4096; cmp edi, end; jb again
    code.bytes(&[0x31, 0xdb, 0xbf]);
    code.bytes(&BLOCK.start.to_le_bytes());
    code.bytes(&[
        0x39, 0x3f, 0x74, 0x01, 0x43, 0x81, 0xc7, 0, 0x10, 0, 0, 0x81, 0xff,
    ]);
    code.bytes(&BLOCK.end.to_le_bytes());
    code.bytes(&[0x72, 0xed]);
    code.with_address(&[0x89, 0x1d], WINDOW + 20); // mov [spoiled], ebx
    for (from, to) in [(BUFFER, 12), (GENERATION_AT, 16), (NUMBER, 8)] {
        code.with_address(&[0xa1], from); // mov eax, [from]
        code.with_address(&[0xa3], WINDOW + to); // mov [window + to], eax
    }
    code.with_address(&[0xa0], WINDOW); // mov al, [WINDOW]
    code.bytes(&[0x84, 0xc0, 0x0f, 0x84]); // test al, al; jz round
    let after = code.here() + 4;
    code.bytes(&round.wrapping_sub(after).to_le_bytes());
    code.when_al(End::PowerOff as u8, |code| {
        code.out_byte(0x600, 5 << 2 | 1 << 5);
    });
    code.when_al(End::PowerOffAfterSpoiling as u8, |code| {
        code.bytes(&[0xbf]); // mov edi, start
        code.bytes(&BLOCK.start.to_le_bytes());
        code.mov_eax(0xa5a5_a5a5);
        code.bytes(&[0xb9]); // mov ecx, count
        code.bytes(&((BLOCK.end - BLOCK.start) / 4).to_le_bytes());
        code.bytes(&[0xf3, 0xab]); // rep stosd
        code.out_byte(0x600, 5 << 2 | 1 << 5);
    });
    code.bytes(&[0xf4, 0xeb, 0xfd]); // hlt; jmp back
    image(&code.into_bytes())
}

/// Negotiates, sets up queue 0 with one entry and its one descriptor.
fn start_device(code: &mut Code) {
    for status in [0, 1, 3] {
        code.store_byte(BAR + 0x14, status);
    }
    code.store_double_word(BAR + 0x08, 1);
    code.store_double_word(BAR + 0x0c, 1); // VERSION_1 and nothing else.
    code.store_byte(BAR + 0x14, 11);
    code.store_word(BAR + 0x16, 0);
    code.store_word(BAR + 0x18, 1);
    for (register, address) in [(0x20, DESCRIPTORS), (0x28, AVAILABLE), (0x30, USED)] {
        code.store_double_word(BAR + register, address);
        code.store_double_word(BAR + register + 4, 0);
    }
    code.store_word(BAR + 0x1c, 1);
    code.store_double_word(DESCRIPTORS, BUFFER);
    code.store_double_word(DESCRIPTORS + 8, 4);
    code.store_word(DESCRIPTORS + 12, 2); // Writable.
    code.store_byte(BAR + 0x14, 15);
}
