//! Numbers that are never given twice: VM ids, names of disposables, and the UUID of each VM.
//!
//! All of it is one small file, written before a number is used, so a crash skips numbers and never repeats one.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Mutex,
};

use casemate_vm::{VmId, VmName};
use serde::{Deserialize, Serialize};

use crate::{durable, located, refusal::Refusal};

/// Ids below this mean other things to vsock.
const FIRST_ID: u32 = 3;

/// Names of disposables are a walk over four digits by this prime, so that none comes twice and none is guessed from
/// the one before by adding one.
const STRIDE: u32 = 7919;
const DIGITS: u32 = 10_000;

/// The file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    next_id: u32,
    disposable_seed: u32,
    disposables: u32,
    #[serde(default)]
    uuids: BTreeMap<VmName, String>,
}

/// The giver of numbers.
#[derive(Debug)]
pub(crate) struct Ids {
    path: PathBuf,
    /// Shared by the drivers of all VMs; held for one small write at a time.
    file: Mutex<File>,
}

impl Ids {
    /// Reads the file or begins a new one.
    pub(crate) fn open(state: &Path) -> Result<Self, Refusal> {
        let path = state.join("ids.toml");
        let file = located::read_optional(&path).map_err(|error| {
            Refusal::failed(format!(
                "{error}; without it numbers could be given twice. Restore the file, or stop all VMs and remove it"
            ))
        })?;
        let file = match file {
            Some(file) => file,
            None => File {
                next_id: FIRST_ID,
                disposable_seed: u32::from_le_bytes(random()?) % DIGITS,
                disposables: 0,
                uuids: BTreeMap::new(),
            },
        };
        Ok(Self {
            path,
            file: Mutex::new(file),
        })
    }

    /// The id of a VM that is about to start.
    pub(crate) fn next_id(&self) -> Result<VmId, Refusal> {
        self.change(|file| {
            let id = file.next_id.max(FIRST_ID);
            // Two billion starts: beyond it vsock's own numbers begin.
            file.next_id = id
                .checked_add(1)
                .filter(|next| *next < u32::MAX / 2)
                .ok_or_else(|| Refusal::failed("all VM ids are used up; remove ids.toml"))?;
            Ok(VmId(id))
        })
    }

    /// A name for a new disposable.
    pub(crate) fn next_disposable(&self) -> Result<VmName, Refusal> {
        self.change(|file| {
            let count = file.disposables;
            file.disposables = count
                .checked_add(1)
                .ok_or_else(|| Refusal::failed("all names of disposables are used up"))?;
            let step =
                u64::from(count % DIGITS) * u64::from(STRIDE) + u64::from(file.disposable_seed);
            let number = step % u64::from(DIGITS) + u64::from(count / DIGITS) * u64::from(DIGITS);
            format!("disp{number:04}")
                .parse()
                .map_err(|error| Refusal::failed(format!("{error}")))
        })
    }

    /// The UUID of a VM or template, made at the first question.
    pub(crate) fn uuid(&self, name: &VmName) -> Result<String, Refusal> {
        if let Some(uuid) = self.lock().uuids.get(name) {
            return Ok(uuid.clone());
        }
        let fresh = new_uuid()?;
        self.change(|file| Ok(file.uuids.entry(name.clone()).or_insert(fresh).clone()))
    }

    /// Forgets a removed VM, so that a later one of the same name is another.
    pub(crate) fn forget(&self, name: &VmName) -> Result<(), Refusal> {
        if !self.lock().uuids.contains_key(name) {
            return Ok(());
        }
        self.change(|file| {
            file.uuids.remove(name);
            Ok(())
        })
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut File) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut file = self.lock();
        let mut changed = file.clone();
        let value = change(&mut changed)?;
        let text = toml::to_string(&changed).map_err(|error| Refusal::failed(error.to_string()))?;
        durable::replace(&self.path, &text).map_err(|error| {
            Refusal::io(format!("cannot write {}", self.path.display()), &error)
        })?;
        *file = changed;
        Ok(value)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, File> {
        // A panic cannot leave the file half-changed: `change` assigns it whole.
        self.file
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A random (version 4) UUID.
pub(crate) fn new_uuid() -> Result<String, Refusal> {
    let bytes: [u8; 16] = random()?;
    let number =
        u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{number:032x}");
    let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
    let texts: Vec<&str> = parts
        .iter()
        .filter_map(|(start, end)| hex.get(*start..*end))
        .collect();
    Ok(texts.join("-"))
}

/// Random bytes of the kernel.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| Refusal::io("no random numbers", &errno.into()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn nothing_is_given_twice_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (mut ids, mut names) = (HashSet::new(), HashSet::new());
        for _ in 0..3 {
            let giver = Ids::open(dir.path()).unwrap();
            for _ in 0..20 {
                let id = giver.next_id().unwrap();
                assert!(id.0 >= FIRST_ID);
                assert!(ids.insert(id));
                assert!(names.insert(giver.next_disposable().unwrap()));
            }
        }
    }

    #[test]
    fn a_walk_over_all_four_digits_repeats_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let giver = Ids::open(dir.path()).unwrap();
        let walked: HashSet<u64> = (0..DIGITS)
            .map(|count| u64::from(count) * u64::from(STRIDE) % u64::from(DIGITS))
            .collect();
        assert_eq!(walked.len(), 10_000);
        let mut file = giver.file.lock().unwrap();
        file.disposables = DIGITS;
        drop(file);
        assert!(giver.next_disposable().unwrap().as_str().len() > "disp9999".len());
    }

    #[test]
    fn a_uuid_stays_until_the_vm_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let name: VmName = "work".parse().unwrap();
        let first = Ids::open(dir.path()).unwrap().uuid(&name).unwrap();
        let giver = Ids::open(dir.path()).unwrap();
        assert_eq!(giver.uuid(&name).unwrap(), first);
        giver.forget(&name).unwrap();
        let second = giver.uuid(&name).unwrap();
        assert_ne!(second, first);
        assert_eq!(second.len(), 36);
        assert_eq!(second.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&second.as_bytes()[19]));
    }

    #[test]
    fn a_damaged_file_is_not_guessed_over() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ids.toml"), "next-id = \"x\"").unwrap();
        let error = Ids::open(dir.path()).unwrap_err();
        assert!(error.text.contains("ids.toml:1:"), "{error}");
    }
}
