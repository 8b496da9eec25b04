//! 32-bit code without paging: what the hostile guest is written in. One method per instruction or small loop; nothing
//! here knows a device.

use crate::payload::BASE;

/// A place in the code that may be jumped to before it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// Code as it grows.
#[derive(Debug, Default)]
pub(crate) struct Code {
    bytes: Vec<u8>,
    labels: Vec<Option<usize>>,
    /// Where a 32-bit distance to a label is missing.
    open: Vec<(usize, Label)>,
}

/// Width of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    Byte,
    Word,
    Long,
}

impl Code {
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn long(&mut self, opcode: &[u8], value: u32) {
        self.raw(opcode);
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    pub(crate) fn place(&mut self, label: Label) {
        assert_eq!(self.labels[label.0], None, "a label has one place");
        self.labels[label.0] = Some(self.bytes.len());
    }

    fn branch(&mut self, opcode: &[u8], to: Label) {
        self.long(opcode, 0);
        self.open.push((self.bytes.len() - 4, to));
    }

    pub(crate) fn jump(&mut self, to: Label) {
        self.branch(&[0xe9], to);
    }

    pub(crate) fn jump_equal(&mut self, to: Label) {
        self.branch(&[0x0f, 0x84], to);
    }

    pub(crate) fn jump_not_equal(&mut self, to: Label) {
        self.branch(&[0x0f, 0x85], to);
    }

    pub(crate) fn jump_below(&mut self, to: Label) {
        self.branch(&[0x0f, 0x82], to);
    }

    pub(crate) fn call(&mut self, to: Label) {
        self.branch(&[0xe8], to);
    }

    pub(crate) fn ret(&mut self) {
        self.raw(&[0xc3]);
    }

    pub(crate) fn eax(&mut self, value: u32) {
        self.long(&[0xb8], value);
    }

    pub(crate) fn ecx(&mut self, value: u32) {
        self.long(&[0xb9], value);
    }

    pub(crate) fn edx(&mut self, value: u32) {
        self.long(&[0xba], value);
    }

    pub(crate) fn ebx(&mut self, value: u32) {
        self.long(&[0xbb], value);
    }

    pub(crate) fn esp(&mut self, value: u32) {
        self.long(&[0xbc], value);
    }

    pub(crate) fn esi(&mut self, value: u32) {
        self.long(&[0xbe], value);
    }

    pub(crate) fn edi(&mut self, value: u32) {
        self.long(&[0xbf], value);
    }

    /// Writes a constant.
    pub(crate) fn write(&mut self, width: Width, address: u32, value: u32) {
        let [b0, b1, _, _] = value.to_le_bytes();
        match width {
            Width::Byte => {
                self.long(&[0xc6, 0x05], address);
                self.raw(&[b0]);
            }
            Width::Word => {
                self.long(&[0x66, 0xc7, 0x05], address);
                self.raw(&[b0, b1]);
            }
            Width::Long => {
                self.long(&[0xc7, 0x05], address);
                self.raw(&value.to_le_bytes());
            }
        }
    }

    /// Reads into EAX, what is above the width being zero.
    pub(crate) fn read(&mut self, width: Width, address: u32) {
        match width {
            Width::Byte => self.long(&[0x0f, 0xb6, 0x05], address),
            Width::Word => self.long(&[0x0f, 0xb7, 0x05], address),
            Width::Long => self.long(&[0xa1], address),
        }
    }

    pub(crate) fn and_eax(&mut self, mask: u32) {
        self.long(&[0x25], mask);
    }

    pub(crate) fn compare_eax(&mut self, value: u32) {
        self.long(&[0x3d], value);
    }

    pub(crate) fn out(&mut self, width: Width, port: u16, value: u32) {
        self.edx(port.into());
        self.eax(value);
        self.raw(match width {
            Width::Byte => &[0xee],
            Width::Word => &[0x66, 0xef],
            Width::Long => &[0xef],
        });
    }

    /// Reads a port into EAX, what is above the width being zero.
    pub(crate) fn input(&mut self, width: Width, port: u16) {
        self.edx(port.into());
        self.eax(0);
        self.raw(match width {
            Width::Byte => &[0xec],
            Width::Word => &[0x66, 0xed],
            Width::Long => &[0xed],
        });
    }

    /// Fills memory with a 32-bit value.
    pub(crate) fn fill(&mut self, address: u32, len: u32, value: u32) {
        self.edi(address);
        self.ecx(len / 4);
        self.eax(value);
        self.raw(&[0xf3, 0xab]); // rep stosd
    }

    /// Does `body` `count` times; it must leave EBX alone.
    pub(crate) fn repeat(&mut self, count: u32, body: impl FnOnce(&mut Self)) {
        self.ebx(count);
        let again = self.label();
        self.place(again);
        body(self);
        self.raw(&[0x4b]); // dec ebx
        self.jump_not_equal(again);
    }

    /// The code, loaded at [`BASE`].
    pub(crate) fn finish(mut self) -> Vec<u8> {
        for (at, label) in std::mem::take(&mut self.open) {
            let to = self.labels[label.0].expect("every label is placed");
            let distance =
                i32::try_from(to).expect("short") - i32::try_from(at + 4).expect("short");
            self.bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
        }
        assert!(
            BASE as usize + self.bytes.len() <= crate::guest::CODE_END as usize,
            "too many cases for one boot"
        );
        self.bytes
    }
}
