//! A system call filter as a program for the kernel's packet filter.
//!
//! The allowed numbers are searched by halving and not one after the other: the kernel runs a filter for every number that
//! there is when it is installed, once per thread, and that is a fifth of what a restored VM costs.
//!
//! ```text
//! another architecture -> end the process
//! number >= middle?    -> right half, else left half, and so on
//! this number?         -> test its arguments -> allow, or trap
//! none of them         -> trap
//! ```

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, sock_filter};

/// What holds of the low 32 bits of an argument, counted from 0: under the mask they are this value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Argument {
    pub(super) index: u8,
    pub(super) mask: u32,
    pub(super) value: u32,
}

/// Alternatives, of each of which everything must hold. None at all: any use is allowed.
pub(super) type Uses = Vec<Vec<Argument>>;

/// A rule with more tests than a jump can leap over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tests of system call {0} do not fit into a filter")]
pub(crate) struct TooLong(u32);

/// Numbers searched in a row when so few are left.
const ROW: usize = 2;

/// `AUDIT_ARCH_X86_64` (linux/audit.h).
const ARCHITECTURE: u32 = 0xc000_003e;
/// Places in `struct seccomp_data` (linux/seccomp.h). Of an argument the low half comes first.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;

// linux/bpf_common.h: class, size or operation, and source of the operand.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

const ALLOW: sock_filter = statement(RETURN, libc::SECCOMP_RET_ALLOW);
const TRAP: sock_filter = statement(RETURN, libc::SECCOMP_RET_TRAP);
const END_PROCESS: sock_filter = statement(RETURN, libc::SECCOMP_RET_KILL_PROCESS);

const fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// The filter that allows these numbers.
///
/// # Errors
/// [`TooLong`].
pub(super) fn assemble(rules: &BTreeMap<u32, Uses>) -> Result<BpfProgram, TooLong> {
    let mut program = vec![
        statement(LOAD, ARCHITECTURE_AT),
        sock_filter {
            jt: 1,
            ..statement(IF_EQUAL, ARCHITECTURE)
        },
        END_PROCESS,
        statement(LOAD, NUMBER_AT),
    ];
    let sorted: Vec<_> = rules.iter().map(|(number, uses)| (*number, uses)).collect();
    program.extend(search(&sorted)?);
    Ok(program)
}

/// From the number, which is loaded, to the verdict. `rules` are in ascending order.
fn search(rules: &[(u32, &Uses)]) -> Result<BpfProgram, TooLong> {
    let (left, right) = rules.split_at(rules.len() / 2);
    let Some((middle, _)) = right.first().filter(|_| rules.len() > ROW) else {
        let mut row = Vec::new();
        for (number, uses) in rules {
            let verdict = judge(uses).ok_or(TooLong(*number))?;
            row.push(sock_filter {
                jf: leap(&verdict).ok_or(TooLong(*number))?,
                ..statement(IF_EQUAL, *number)
            });
            row.extend(verdict);
        }
        row.push(TRAP);
        return Ok(row);
    };
    let left = search(left)?;
    let mut program = match leap(&left) {
        Some(jt) => vec![sock_filter {
            jt,
            ..statement(IF_AT_LEAST, *middle)
        }],
        None => {
            let len = u32::try_from(left.len()).map_err(|_| TooLong(*middle))?;
            vec![
                sock_filter {
                    jf: 1,
                    ..statement(IF_AT_LEAST, *middle)
                },
                statement(JUMP, len),
            ]
        }
    };
    program.extend(left);
    program.extend(search(right)?);
    Ok(program)
}

/// The tests of one call's arguments, up to its verdict; `None` when they are too many.
fn judge(uses: &Uses) -> Option<BpfProgram> {
    if uses.is_empty() {
        return Some(vec![ALLOW]);
    }
    let mut program = Vec::new();
    for arguments in uses {
        // From the last test to the first, because each one jumps over all that follow.
        let mut rest = vec![ALLOW];
        for argument in arguments.iter().rev() {
            let mut test = vec![statement(
                LOAD,
                ARGUMENTS_AT + 8 * u32::from(argument.index),
            )];
            if argument.mask != u32::MAX {
                test.push(statement(AND, argument.mask));
            }
            test.push(sock_filter {
                jf: leap(&rest)?,
                ..statement(IF_EQUAL, argument.value & argument.mask)
            });
            test.extend(rest);
            rest = test;
        }
        program.extend(rest);
    }
    program.push(TRAP);
    Some(program)
}

/// The jump over a piece, when it is short enough for one.
fn leap(over: &[sock_filter]) -> Option<u8> {
    u8::try_from(over.len()).ok()
}

#[cfg(test)]
mod tests;
