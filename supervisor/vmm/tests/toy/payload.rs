//! A guest of a hundred instructions, assembled here: an ELF with a PVH note that prints a line on the serial port, maps
//! the window memory, waits for a byte in it, and ends in the way that the byte says.

/// What the guest prints.
pub(crate) const LINE: &str = "hello from the toy guest\n";
/// What the guest writes at offset 4 of the window memory once it can see it.
pub(crate) const GREETING: u32 = 0x600d_600d;

/// The window memory comes after the bridge and the rng, console and vsock devices ...
pub(crate) const WINDOW_SLOT: u8 = 4;
/// ... and in a VM with every device also after two disks, a network and a balloon.
pub(crate) const WINDOW_SLOT_OF_FULL: u8 = 8;

/// How the guest ends, by the byte at offset 0 of the window memory.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum End {
    /// Sleep control register, S5.
    PowerOff = 1,
    /// FADT reset register.
    ResetRegister = 2,
    /// Command 0xfe of the keyboard controller.
    KeyboardReset = 3,
    /// An exception without a table of handlers.
    TripleFault = 4,
    /// Sleep control register, after touching every port and the whole PCI hole.
    PowerOffAfterSweep = 5,
    /// Sleep control register, after a guest that counts has overwritten the block that it looks at.
    PowerOffAfterSpoiling = 6,
}

/// What the guest does when it finds this byte at offset 0 of the window memory: one access to a port, whose number is
/// at offset 8 and whose four bytes are at offset 12. It clears the byte when it has.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Access {
    /// Reads.
    In = 6,
    /// Writes.
    Out = 7,
}

/// Where the payload is loaded and starts.
pub(crate) const BASE: u32 = 0x10_0000;
/// Where it puts the window memory: the start of the 32-bit PCI window.
pub(crate) const WINDOW: u32 = 0xc000_0000;

/// 32-bit code, one method per instruction.
#[derive(Default)]
pub(crate) struct Code(Vec<u8>);

impl Code {
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    pub(crate) fn here(&self) -> u32 {
        BASE + u32::try_from(self.0.len()).expect("short")
    }
    pub(crate) fn mov_eax(&mut self, value: u32) {
        self.bytes(&[0xb8]);
        self.bytes(&value.to_le_bytes());
    }
    fn mov_dx(&mut self, port: u16) {
        self.bytes(&[0x66, 0xba]);
        self.bytes(&port.to_le_bytes());
    }
    fn out_dword(&mut self, port: u16, value: u32) {
        self.mov_dx(port);
        self.mov_eax(value);
        self.bytes(&[0xef]);
    }
    pub(crate) fn out_byte(&mut self, port: u16, value: u8) {
        self.mov_dx(port);
        self.bytes(&[0xb0, value, 0xee]);
    }
    pub(crate) fn out_word(&mut self, port: u16, value: u16) {
        self.mov_dx(port);
        self.bytes(&[0x66, 0xb8]);
        self.bytes(&value.to_le_bytes());
        self.bytes(&[0x66, 0xef]);
    }
    /// Writes a register of PCI function `slot`.
    fn config_write(&mut self, slot: u8, register: u8, value: u32) {
        let address = 1 << 31 | u32::from(slot) << 11 | u32::from(register);
        self.out_dword(0xcf8, address);
        self.out_dword(0xcfc, value);
    }
    /// An instruction whose operand is a place in memory.
    pub(crate) fn with_address(&mut self, instruction: &[u8], address: u32) {
        self.bytes(instruction);
        self.bytes(&address.to_le_bytes());
    }
    pub(crate) fn store_byte(&mut self, address: u32, value: u8) {
        self.with_address(&[0xc6, 0x05], address);
        self.bytes(&[value]);
    }
    pub(crate) fn store_word(&mut self, address: u32, value: u16) {
        self.with_address(&[0x66, 0xc7, 0x05], address);
        self.bytes(&value.to_le_bytes());
    }
    pub(crate) fn store_double_word(&mut self, address: u32, value: u32) {
        self.with_address(&[0xc7, 0x05], address);
        self.bytes(&value.to_le_bytes());
    }
    /// Puts a 64-bit BAR of PCI function `slot` below 4 GiB and switches it on.
    pub(crate) fn place_bar(&mut self, slot: u8, register: u8, address: u32) {
        self.config_write(slot, register, address);
        self.config_write(slot, register + 4, 0);
        self.config_write(slot, 0x04, 0x2); // Memory decoding.
    }
    /// Puts a BAR of ports of PCI function `slot` somewhere and switches it on, besides memory.
    pub(crate) fn place_ports(&mut self, slot: u8, register: u8, port: u16) {
        self.config_write(slot, register, port.into());
        self.config_write(slot, 0x04, 0x3);
    }
    /// Writes zero to every port and reads it, with one, two and four bytes.
    fn sweep_ports(&mut self) {
        self.bytes(&[0xba, 0, 0, 0, 0]); // mov edx, 0
        self.bytes(&[0x31, 0xc0]); // again: xor eax, eax
        self.bytes(&[0xee, 0x66, 0xef, 0xef]); // out dx, al; out dx, ax; out dx, eax
        self.bytes(&[0xec, 0x66, 0xed, 0xed]); // in al, dx; in ax, dx; in eax, dx
        self.bytes(&[0x42, 0x81, 0xfa, 0, 0, 1, 0]); // inc edx; cmp edx, 0x10000
        self.bytes(&[0x72, 0xed]); // jb again
    }
    /// Reads and writes back memory from the PCI window to the end of the 32-bit space, in steps of 64 KiB, and reads
    /// it across alignments.
    fn sweep_hole(&mut self) {
        self.bytes(&[0xbe]); // mov esi, WINDOW
        self.bytes(&WINDOW.to_le_bytes());
        self.bytes(&[0x8b, 0x06, 0x89, 0x06]); // again: mov eax, [esi]; mov [esi], eax
        self.bytes(&[0x8a, 0x46, 0x03, 0x66, 0x8b, 0x46, 0x01]); // mov al, [esi + 3]; mov ax, [esi + 1]
        self.bytes(&[0x81, 0xc6, 0, 0, 1, 0]); // add esi, 0x10000
        self.bytes(&[0x73, 0xed]); // jnc again
    }
    /// Does `body` when AL is `value`.
    pub(crate) fn when_al(&mut self, value: u8, body: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        body(&mut inner);
        let len = u8::try_from(inner.0.len()).expect("short");
        self.bytes(&[0x3c, value, 0x75, len]); // cmp al, value; jne
        self.bytes(&inner.0);
    }
}

/// The kernel image of a VM whose window memory is PCI function `slot`.
pub(crate) fn elf(slot: u8) -> Vec<u8> {
    let mut code = Code::default();
    for byte in LINE.bytes() {
        code.out_byte(0x3f8, byte);
    }
    code.place_bar(slot, 0x18, WINDOW);
    code.store_double_word(WINDOW + 4, GREETING);
    let wait = code.here();
    code.bytes(&[0xa0]); // wait: mov al, [WINDOW]
    code.bytes(&WINDOW.to_le_bytes());
    code.bytes(&[0x84, 0xc0, 0x74, 0xf7]); // test al, al; jz wait
    for access in [Access::In, Access::Out] {
        code.when_al(access as u8, |code| {
            code.bytes(&[0x8b, 0x15]); // mov edx, [WINDOW + 8]
            code.bytes(&(WINDOW + 8).to_le_bytes());
            match access {
                Access::In => code.bytes(&[0xed, 0xa3]), // in eax, dx; mov [WINDOW + 12], eax
                Access::Out => code.bytes(&[0xa1]),      // mov eax, [WINDOW + 12]
            }
            code.bytes(&(WINDOW + 12).to_le_bytes());
            if matches!(access, Access::Out) {
                code.bytes(&[0xef]); // out dx, eax
            }
            code.bytes(&[0xc6, 0x05]); // mov byte [WINDOW], 0
            code.bytes(&WINDOW.to_le_bytes());
            code.bytes(&[0]);
            code.mov_eax(wait);
            code.bytes(&[0xff, 0xe0]); // jmp eax
        });
    }
    code.when_al(End::PowerOff as u8, |code| {
        code.out_byte(0x600, 5 << 2 | 1 << 5);
    });
    code.when_al(End::ResetRegister as u8, |code| code.out_byte(0x602, 1));
    code.when_al(End::KeyboardReset as u8, |code| code.out_byte(0x64, 0xfe));
    code.when_al(End::PowerOffAfterSweep as u8, |code| {
        code.sweep_ports();
        code.sweep_hole();
        code.out_byte(0x600, 5 << 2 | 1 << 5);
    });
    let table = code.here();
    code.when_al(End::TripleFault as u8, |code| {
        // lidt [table + 11]: six zero bytes after ud2, an empty table.
        code.bytes(&[0x0f, 0x01, 0x1d]);
        code.bytes(&(table + 4 + 7 + 2).to_le_bytes());
        code.bytes(&[0x0f, 0x0b]); // ud2
        code.bytes(&[0; 6]);
    });
    code.bytes(&[0xf4, 0xeb, 0xfd]); // hlt; jmp back
    image(&code.0)
}

/// ELF header, one segment to load, one note with the entry.
pub(crate) fn image(code: &[u8]) -> Vec<u8> {
    const HEADER: u64 = 64;
    const PROGRAM_HEADER: u64 = 56;
    let note_at = HEADER + 2 * PROGRAM_HEADER;
    let mut note = Vec::new();
    for word in [4_u32, 4, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(BASE.to_le_bytes());
    let code_at = note_at + note.len() as u64;

    let mut image = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    image.resize(16, 0);
    for half in [2_u16, 62] {
        image.extend(half.to_le_bytes()); // Executable, x86-64.
    }
    image.extend(1_u32.to_le_bytes());
    for long in [u64::from(BASE), HEADER, 0] {
        image.extend(long.to_le_bytes());
    }
    image.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 2, 0, 0, 0] {
        image.extend(half.to_le_bytes());
    }
    for (kind, offset, address, len) in [
        (1_u32, code_at, u64::from(BASE), code.len() as u64),
        (4, note_at, 0, note.len() as u64),
    ] {
        image.extend(kind.to_le_bytes());
        image.extend(5_u32.to_le_bytes());
        for long in [offset, address, address, len, len, 4] {
            image.extend(long.to_le_bytes());
        }
    }
    image.extend(note);
    image.extend(code);
    image
}
