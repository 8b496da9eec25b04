//! The sealed form of a saved state: a fixed header, the state, and a MAC over both. Pure; also built by the fuzz targets.
//!
//! | bytes | field |
//! |---|---|
//! | 0 to 7 | `CMSTATE\0` |
//! | 8 to 11 | version of this form |
//! | 12 to 15 | length of the state |
//! | 16 to 23 | build of the vmm that wrote it |
//! | 24 to 55 | host: SHA-256 over CPU features, MSRs, microcode and kernel |
//! | 56 to 59 | id of the VM that was saved |
//! | 60 to 63 | its vCPUs |
//! | 64 to 71 | bytes of its RAM |
//! | 72 to 87 | random; the memory file has the same |
//! | 88 to ... | the state |
//! | last 32 | HMAC-SHA256 over all before |
//!
//! Numbers are little endian. The key comes with the launch and is in no file.

use ring::hmac;

const MAGIC: [u8; 8] = *b"CMSTATE\0";

/// Version of this form, and of what the state means where the build does not say it.
pub(crate) const VERSION: u32 = 2;

/// Bytes before the state.
pub(crate) const HEADER: usize = 88;

/// Bytes after it.
const MAC: usize = 32;

/// Longest file that is read: eight vCPUs need 100 KiB. A service that gives us something else costs no more than this.
pub(crate) const MAX_STATE: usize = 1024 * 1024;

/// What a state belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Which build wrote it.
    pub(crate) build: u64,
    /// What it ran on.
    pub(crate) host: [u8; 32],
    /// The VM.
    pub(crate) vm: u32,
    /// Its vCPUs.
    pub(crate) vcpus: u32,
    /// Bytes of RAM.
    pub(crate) ram: u64,
}

/// Names one snapshot; random.
pub(crate) type SnapshotId = [u8; 16];

/// Why a state is not taken. Each says what to do; a supervisor makes the snapshot anew in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// Something else.
    #[error("this is no saved state of a VM")]
    NotAState,
    /// Not all of it.
    #[error("the saved state is cut off or has something behind it; make the snapshot anew")]
    Length,
    /// Another form.
    #[error("the saved state has version {0}, this is version {VERSION}; make the snapshot anew")]
    Version(u32),
    /// Another program.
    #[error("the saved state is of another build of casemate-vmm; make the snapshot anew")]
    Build,
    /// Another machine, another kernel, or other microcode.
    #[error("the saved state is of another processor or host kernel; make the snapshot anew")]
    Host,
    /// Another VM.
    #[error("the saved state is of VM {found}, not of VM {wanted}")]
    Vm {
        /// In the file.
        found: u32,
        /// Asked for.
        wanted: u32,
    },
    /// Another size.
    #[error(
        "the saved state is of a VM with {vcpus} vCPUs and {mib} MiB; start one of the same size"
    )]
    Shape {
        /// In the file.
        vcpus: u32,
        /// In the file.
        mib: u64,
    },
    /// Changed, or sealed with another key.
    #[error("the saved state was changed, or is sealed with another key; make the snapshot anew")]
    Authentic,
}

/// Seals a state.
pub(crate) fn seal(origin: &Origin, id: &SnapshotId, state: &[u8], key: &[u8; 32]) -> Vec<u8> {
    let len = u32::try_from(state.len()).expect("far below the limit");
    let mut file = Vec::with_capacity(HEADER + state.len() + MAC);
    file.extend_from_slice(&MAGIC);
    file.extend_from_slice(&VERSION.to_le_bytes());
    file.extend_from_slice(&len.to_le_bytes());
    file.extend_from_slice(&origin.build.to_le_bytes());
    file.extend_from_slice(&origin.host);
    file.extend_from_slice(&origin.vm.to_le_bytes());
    file.extend_from_slice(&origin.vcpus.to_le_bytes());
    file.extend_from_slice(&origin.ram.to_le_bytes());
    file.extend_from_slice(id);
    file.extend_from_slice(state);
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mac = hmac::sign(&key, &file);
    file.extend_from_slice(mac.as_ref());
    file
}

/// Checks everything; returns the state and the snapshot's id. The plain fields come first, only so that the reason is
/// the one that helps: nothing is believed before the MAC is right.
pub(crate) fn open<'a>(
    file: &'a [u8],
    expected: &Origin,
    key: &[u8; 32],
) -> Result<(SnapshotId, &'a [u8]), Refused> {
    if !file.starts_with(&MAGIC) {
        return Err(Refused::NotAState);
    }
    let mut fields = Fields(file.get(MAGIC.len()..HEADER).ok_or(Refused::Length)?);
    let version = u32::from_le_bytes(fields.take()?);
    if version != VERSION {
        return Err(Refused::Version(version));
    }
    let len = usize::try_from(u32::from_le_bytes(fields.take()?)).map_err(|_| Refused::Length)?;
    let found = Origin {
        build: u64::from_le_bytes(fields.take()?),
        host: fields.take()?,
        vm: u32::from_le_bytes(fields.take()?),
        vcpus: u32::from_le_bytes(fields.take()?),
        ram: u64::from_le_bytes(fields.take()?),
    };
    let id = fields.take()?;
    if found.build != expected.build {
        return Err(Refused::Build);
    }
    if found.host != expected.host {
        return Err(Refused::Host);
    }
    if found.vm != expected.vm {
        return Err(Refused::Vm {
            found: found.vm,
            wanted: expected.vm,
        });
    }
    if found != *expected {
        return Err(Refused::Shape {
            vcpus: found.vcpus,
            mib: found.ram >> 20,
        });
    }
    let (sealed, mac) = file.split_last_chunk::<MAC>().ok_or(Refused::Length)?;
    let state = sealed.get(HEADER..).ok_or(Refused::Length)?;
    if state.len() != len {
        return Err(Refused::Length);
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::verify(&key, sealed, mac).map_err(|_| Refused::Authentic)?;
    Ok((id, state))
}

/// What is left of the header.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        let (field, rest) = self.0.split_first_chunk().ok_or(Refused::Length)?;
        self.0 = rest;
        Ok(*field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Origin = Origin {
        build: 0x1122_3344_5566_7788,
        host: [7; 32],
        vm: 9,
        vcpus: 2,
        ram: 256 << 20,
    };
    const ID: SnapshotId = [3; 16];
    const KEY: [u8; 32] = [5; 32];

    fn sealed() -> Vec<u8> {
        let state: Vec<u8> = (0..4096_u32)
            .map(|index| index.to_le_bytes()[0] ^ index.to_le_bytes()[1])
            .collect();
        seal(&ORIGIN, &ID, &state, &KEY)
    }

    #[test]
    fn what_was_sealed_is_opened() {
        let file = sealed();
        let (id, state) = open(&file, &ORIGIN, &KEY).expect("as it was sealed");
        assert_eq!((id, state.len()), (ID, 4096));
    }

    #[test]
    fn every_changed_bit_is_found() {
        let file = sealed();
        for index in 0..file.len() {
            for bit in 0..8 {
                let mut changed = file.clone();
                changed[index] ^= 1 << bit;
                let result = open(&changed, &ORIGIN, &KEY);
                assert!(result.is_err(), "byte {index}, bit {bit}");
            }
        }
    }

    #[test]
    fn every_other_length_is_found() {
        let file = sealed();
        for len in 0..file.len() {
            assert!(open(&file[..len], &ORIGIN, &KEY).is_err(), "{len} bytes");
        }
        for more in [1, 31, 32, 4096] {
            let longer = [file.as_slice(), &vec![0; more]].concat();
            assert_eq!(open(&longer, &ORIGIN, &KEY), Err(Refused::Length));
        }
        // A header that agrees with the new length is not authentic.
        let mut cut = file[..file.len() - 512].to_vec();
        cut[12..16].copy_from_slice(&(4096_u32 - 512).to_le_bytes());
        assert_eq!(open(&cut, &ORIGIN, &KEY), Err(Refused::Authentic));
    }

    #[test]
    fn the_reason_is_the_one_that_helps() {
        let file = sealed();
        let with = |at: usize, byte: u8| {
            let mut changed = file.clone();
            changed[at] = byte;
            changed
        };
        for (file, expected) in [
            (with(0, b'X'), Refused::NotAState),
            (with(8, 1), Refused::Version(1)),
            (with(16, 0), Refused::Build),
            (with(24, 0), Refused::Host),
            (
                with(56, 1),
                Refused::Vm {
                    found: 1,
                    wanted: 9,
                },
            ),
            (with(60, 4), Refused::Shape { vcpus: 4, mib: 256 }),
            (with(72, 0), Refused::Authentic),
            (with(HEADER, 0xff), Refused::Authentic),
        ] {
            assert_eq!(open(&file, &ORIGIN, &KEY), Err(expected));
        }
        assert_eq!(open(&file, &ORIGIN, &[6; 32]), Err(Refused::Authentic));
    }
}
