//! The store against a real directory: atomic revisions, one writer a volume, nothing left behind.

use std::{
    collections::BTreeMap,
    io::{Read, Seek, SeekFrom, Write},
    process::Command,
};

use super::*;
use crate::Manifest;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("casemate")).unwrap();
    (dir, store)
}

fn name(text: &str) -> VmName {
    text.parse().unwrap()
}

fn manifest() -> Manifest {
    Manifest {
        revision: 0,
        parent: None,
        created: 1,
        kernel: "6.12.0".to_owned(),
        cmdline: String::new(),
        files: BTreeMap::new(),
        packages: vec!["foot 1.13".to_owned()],
    }
}

fn build(store: &Store, template: &str, content: &[u8]) -> Revision {
    let staging = store.stage(&name(template)).unwrap();
    for file in crate::revision::FILES {
        fs::write(staging.dir().join(file), content).unwrap();
    }
    fs::write(staging.dir().join("scratch"), b"x").unwrap();
    staging.commit(manifest()).unwrap()
}

#[test]
fn a_revision_appears_whole_and_becomes_current() {
    let (_dir, store) = store();
    assert!(matches!(
        store.revision(&name("deb")),
        Err(StoreError::NoTemplate(_))
    ));
    assert_eq!(build(&store, "deb", b"one").number, 1);
    assert_eq!(build(&store, "deb", b"two").number, 2);
    let current = store.revision(&name("deb")).unwrap();
    assert_eq!(current.number, 2);
    current.verify().unwrap();
    let mut text = String::new();
    current
        .open_root()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "two");
    store.switch(&name("deb"), 1).unwrap();
    let list = store.templates().unwrap();
    assert_eq!(
        (list[0].current, list[0].revisions.as_slice()),
        (1, [1, 2].as_slice())
    );
    assert!(store.switch(&name("deb"), 9).is_err());
    assert!(!current.root_path().with_file_name("scratch").exists());
}

#[test]
fn an_abandoned_build_leaves_nothing() {
    let (dir, store) = store();
    let staging = store.stage(&name("deb")).unwrap();
    fs::write(staging.dir().join("root.img"), b"half").unwrap();
    assert!(
        matches!(store.stage(&name("deb")), Err(StoreError::Locked(_))),
        "two builds at once"
    );
    drop(staging);
    assert!(store.templates().unwrap().is_empty());
    let left = fs::read_dir(dir.path().join("casemate/templates/deb"))
        .unwrap()
        .count();
    assert_eq!(left, 1, "only the empty revisions directory");
    let incomplete = store.stage(&name("deb")).unwrap();
    assert!(incomplete.commit(manifest()).is_err());
    assert!(store.templates().unwrap().is_empty());
}

#[test]
fn damage_is_found() {
    let (_dir, store) = store();
    let revision = build(&store, "deb", b"good");
    fs::remove_file(revision.root_path()).unwrap();
    fs::write(revision.root_path(), b"evil").unwrap();
    assert!(matches!(revision.verify(), Err(StoreError::Damaged(_))));
    fs::write(revision.root_path(), b"longer").unwrap();
    assert!(matches!(revision.open_root(), Err(StoreError::Damaged(_))));
}

#[test]
fn a_volume_has_one_writer() {
    let (_dir, store) = store();
    let vm = name("work");
    assert!(matches!(
        store.open_private(&vm),
        Err(StoreError::NoVolume(_))
    ));
    store.create_private(&vm, Mebibytes(4)).unwrap();
    assert!(matches!(
        store.create_private(&vm, Mebibytes(4)),
        Err(StoreError::Exists(_))
    ));
    let first = store.open_private(&vm).unwrap();
    let copy = first.as_fd().try_clone_to_owned().unwrap();
    assert!(matches!(
        store.open_private(&vm),
        Err(StoreError::Locked(_))
    ));
    drop(first);
    assert!(
        matches!(store.open_private(&vm), Err(StoreError::Locked(_))),
        "the copy still holds it"
    );
    assert!(matches!(store.remove_vm(&vm), Err(StoreError::Locked(_))));
    drop(copy);
    store.open_private(&vm).unwrap();
    store.remove_vm(&vm).unwrap();
    store.remove_vm(&vm).unwrap();
    assert!(matches!(
        store.open_private(&vm),
        Err(StoreError::NoVolume(_))
    ));
}

#[test]
fn throwaways_have_no_name_and_are_valid_overlays() {
    let (dir, store) = store();
    let revision = build(&store, "deb", &[7; 1 << 20]);
    let mut overlay = store.throwaway_root(&revision).unwrap();
    let private = store.throwaway_private(Mebibytes(2)).unwrap();
    assert_eq!(private.metadata().unwrap().len(), 2 << 20);
    assert_eq!(
        fs::read_dir(dir.path().join("casemate/volatile"))
            .unwrap()
            .count(),
        0
    );
    let mut magic = [0; 4];
    overlay.seek(SeekFrom::Start(0)).unwrap();
    overlay.read_exact(&mut magic).unwrap();
    assert_eq!(&magic, b"QFI\xfb");
    // A second opinion, where the tool is installed: a copy under a name, checked by another implementation.
    let mut bytes = Vec::new();
    overlay.rewind().unwrap();
    overlay.read_to_end(&mut bytes).unwrap();
    let copy = dir.path().join("copy.qcow2");
    File::create(&copy).unwrap().write_all(&bytes).unwrap();
    match Command::new("qemu-img").arg("check").arg(&copy).output() {
        Ok(output) => assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
    }
}
