//! Model-specific registers that a guest has no business with: row B1-3 of the test plan.

use crate::asm::{Code, Width};
use crate::guest::Guest;

/// First and last of registers that a guest may reach, and those of the local APIC. A copy of the monitor's list on purpose:
/// what is opened there has to be opened here as well.
#[rustfmt::skip]
const REACHED: [(u32, u32); 41] = [
    (0x10, 0x10), (0x17, 0x17), (0x1b, 0x1b), (0x3a, 0x3b), (0x48, 0x49), (0x8b, 0x8b), (0xce, 0xcf), (0xe1, 0xe1),
    (0xfe, 0xfe), (0x10a, 0x10b), (0x122, 0x122), (0x140, 0x140), (0x174, 0x176), (0x179, 0x17b), (0x1a0, 0x1a0),
    (0x1c4, 0x1c5), (0x1d9, 0x1d9), (0x200, 0x20f), (0x250, 0x250), (0x258, 0x259), (0x268, 0x26f), (0x277, 0x277),
    (0x2ff, 0x2ff), (0x400, 0x47f), (0x6a0, 0x6a8), (0x6e0, 0x6e0), (0x800, 0x8ff), (0xda0, 0xda0),
    (0x4b56_4d00, 0x4b56_4d08), (0xc000_0080, 0xc000_0084), (0xc000_0100, 0xc000_0103), (0xc001_0010, 0xc001_0010),
    (0xc001_0015, 0xc001_0015), (0xc001_001f, 0xc001_001f), (0xc001_0055, 0xc001_0055), (0xc001_0112, 0xc001_0113),
    (0xc001_011f, 0xc001_011f), (0xc001_0140, 0xc001_0141), (0xc001_1022, 0xc001_1022), (0xc001_1029, 0xc001_102a),
    (0xc001_102c, 0xc001_102c),
];

/// Everything else in here has to fault.
const SWEPT: [(u32, u32); 8] = [
    (0, 0x1fff),
    (0x4000_0000, 0x4000_01ff),
    (0x4b56_4d00, 0x4b56_4dff),
    (0x7fff_ffff, 0x7fff_ffff),
    (0xc000_0000, 0xc000_03ff),
    (0xc001_0000, 0xc001_13ff),
    (0xdead_beef, 0xdead_beef),
    (0xffff_fffe, 0xffff_fffe),
];

/// Segments, gates and variables of these cases, where the guest has nothing else.
const SEGMENTS: u32 = 0x72_0000;
const GATES: u32 = 0x72_0100;
const SEGMENTS_POINTER: u32 = 0x72_0400;
const GATES_POINTER: u32 = 0x72_0410;
const FAULTED: u32 = 0x72_0420;
const RESUME: u32 = 0x72_0424;
const REGISTER: u32 = 0x72_0428;

/// The gate of a general protection fault.
const PROTECTION: u32 = GATES + 13 * 8;

/// Number of cases.
pub(crate) const CASES: usize = 2;

/// All cases.
pub(crate) fn cases(guest: &mut Guest) {
    catch_faults(&mut guest.code);
    for (name, instruction) in [("read", [0x0f, 0x32]), ("write", [0x0f, 0x30])] {
        guest.case(&format!("B1-3 {name} registers"), |guest| {
            for (first, last) in denied() {
                sweep(guest, instruction, first, last);
            }
        });
    }
}

/// What is swept and not reached.
fn denied() -> Vec<(u32, u32)> {
    let mut denied = Vec::new();
    for (start, last) in SWEPT {
        let mut first = start;
        let inside = REACHED
            .iter()
            .filter(|(from, _)| (start..=last).contains(from));
        for (from, to) in inside {
            if first < *from {
                denied.push((first, from - 1));
            }
            first = to + 1;
        }
        if first <= last {
            denied.push((first, last));
        }
    }
    denied
}

/// From now on a general protection fault is noted, and the guest goes on at [`RESUME`].
fn catch_faults(code: &mut Code) {
    // Null, code and data: flat, as they are already.
    for (at, value) in [
        (8, 0xffff),
        (12, 0x00cf_9b00),
        (16, 0xffff),
        (20, 0x00cf_9300),
    ] {
        code.write(Width::Long, SEGMENTS + at, value);
    }
    for (pointer, limit, table) in [
        (SEGMENTS_POINTER, 3 * 8 - 1, SEGMENTS),
        (GATES_POINTER, 14 * 8 - 1, GATES),
    ] {
        code.write(Width::Word, pointer, limit);
        code.write(Width::Long, pointer + 2, table);
    }
    let over = code.label();
    code.call(over);
    // The handler: error code, address, segment and flags are dropped.
    code.raw(&[0x83, 0xc4, 0x10]); // add esp, 16
    code.write(Width::Long, FAULTED, 1);
    jump_to_resume(code);
    code.place(over);
    code.raw(&[0x58]); // pop eax: where the handler is
    code.raw(&[0x66, 0xa3]); // mov [PROTECTION], ax
    code.raw(&PROTECTION.to_le_bytes());
    code.write(Width::Word, PROTECTION + 2, 8);
    code.write(Width::Word, PROTECTION + 4, 0x8e00);
    code.raw(&[0xc1, 0xe8, 0x10, 0x66, 0xa3]); // shr eax, 16; mov [PROTECTION + 6], ax
    code.raw(&(PROTECTION + 6).to_le_bytes());
    code.raw(&[0x0f, 0x01, 0x15]); // lgdt
    code.raw(&SEGMENTS_POINTER.to_le_bytes());
    code.raw(&[0x0f, 0x01, 0x1d]); // lidt
    code.raw(&GATES_POINTER.to_le_bytes());
}

fn jump_to_resume(code: &mut Code) {
    code.raw(&[0xff, 0x25]); // jmp [RESUME]
    code.raw(&RESUME.to_le_bytes());
}

/// Each of these registers must fault.
fn sweep(guest: &mut Guest, instruction: [u8; 2], first: u32, last: u32) {
    let code = &mut guest.code;
    let (again, attempt, done) = (code.label(), code.label(), code.label());
    code.write(Width::Long, REGISTER, first);
    code.place(again);
    code.write(Width::Long, FAULTED, 0);
    code.raw(&[0x8b, 0x0d]); // mov ecx, [REGISTER]
    code.raw(&REGISTER.to_le_bytes());
    code.raw(&[0x31, 0xc0, 0x31, 0xd2]); // xor eax, eax; xor edx, edx
    code.call(attempt);
    guest.expect(Width::Long, FAULTED, u32::MAX, 1);
    let code = &mut guest.code;
    code.raw(&[0xff, 0x05]); // inc dword [REGISTER]
    code.raw(&REGISTER.to_le_bytes());
    code.read(Width::Long, REGISTER);
    code.compare_eax(last.wrapping_add(1));
    code.jump_not_equal(again);
    code.jump(done);
    code.place(attempt);
    code.raw(&[0x8f, 0x05]); // pop dword [RESUME]
    code.raw(&RESUME.to_le_bytes());
    code.raw(&instruction);
    jump_to_resume(code);
    code.place(done);
}
