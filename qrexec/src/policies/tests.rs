//! Files that change under the broker: whatever is done to them, the next look knows it.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use proptest::{prelude::*, sample::select};

use super::*;

/// Directories of a test: `own` is stronger than `shipped`; both exist.
struct House {
    dir: tempfile::TempDir,
    policies: Policies,
}

const FILE: &str = "own/10-own.policy";

impl House {
    /// Nothing in a test is done because of the time that has passed.
    fn new() -> Self {
        Self::with(Watch::new(Duration::from_secs(3600)))
    }

    fn with(watch: Option<Watch>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["own", "shipped"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let policies = Policies::with(directories(dir.path()), watch);
        let house = Self { dir, policies };
        house.write("shipped/90-default.policy", "* * @anyvm @anyvm deny\n");
        house
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn rename(&self, name: &str, text: &str) {
        self.write("own/new", text);
        fs::rename(self.path("own/new"), self.path(name)).unwrap();
    }

    /// The rules but the last, shipped one; there must be no fault.
    fn rules(&self) -> String {
        let current = self.policies.current();
        assert_eq!(current.faults(), [] as [String; 0]);
        let rules = rules(&current);
        let rest = rules.strip_suffix("* * @anyvm @anyvm deny\n").unwrap();
        rest.to_owned()
    }

    fn faults(&self) -> String {
        self.policies.current().faults().join("\n")
    }
}

fn directories(dir: &Path) -> Vec<PathBuf> {
    ["own", "shipped"].map(|name| dir.join(name)).into()
}

fn rules(standing: &Standing) -> String {
    let good = standing.good().unwrap();
    good.rules()
        .iter()
        .map(|rule| format!("{rule}\n"))
        .collect()
}

#[test]
fn changes_are_seen_and_faults_deny() {
    for watch in [Watch::new(PATIENCE), None] {
        let dir = tempfile::tempdir().unwrap();
        let (own, shipped) = (dir.path().join("own"), dir.path().join("shipped"));
        let policies = Policies::with(vec![own.clone(), shipped.clone()], watch);
        let rules = || {
            let policy = policies.current();
            assert_eq!(policy.faults(), [] as [String; 0]);
            policy.good().map(|policy| policy.rules().len())
        };
        let error = || policies.current().faults().join("\n");
        let kept = || policies.current().good().map(|policy| policy.rules().len());
        assert!(error().contains("none of the policy directories exists"));

        fs::create_dir(&shipped).unwrap();
        fs::write(
            shipped.join("90-default.policy"),
            "* * @anyvm @anyvm deny\n",
        )
        .unwrap();
        assert_eq!(rules(), Some(1));

        fs::create_dir(&own).unwrap();
        fs::write(own.join("10-own.policy"), "s * a b allow\n!include inc/x\n").unwrap();
        assert!(error().contains("10-own.policy:2"), "{}", error());
        assert_eq!(kept(), Some(1), "the last good policy holds");
        fs::create_dir(own.join("inc")).unwrap();
        fs::write(own.join("inc/x"), "s * a c allow\n").unwrap();
        assert_eq!(rules(), Some(3));
        fs::write(own.join("inc/x"), "s * a c allow\ns * a d oops\n").unwrap();
        assert!(error().contains("inc/x:2:9: 'oops'"), "{}", error());
        fs::write(own.join("inc/x"), "").unwrap();
        assert_eq!(rules(), Some(2));

        symlink("nowhere", own.join("20-link.policy")).unwrap();
        assert!(error().contains("20-link.policy"), "{}", error());
        fs::remove_file(own.join("20-link.policy")).unwrap();
        assert_eq!(rules(), Some(2));
        fs::write(own.join("Bad.policy"), "").unwrap();
        assert!(error().contains("'Bad.policy'"), "{}", error());
    }
}

#[test]
fn a_look_right_after_a_rename_sees_it() {
    let house = House::new();
    // Texts of one length, faster than any time stamp.
    for number in 0..300 {
        let text = format!("s{number:03} * a b allow\n");
        house.rename(FILE, &text);
        assert_eq!(house.rules(), text);
        assert!(house.policies.if_unchanged().is_some());
    }
}

#[test]
fn a_policy_at_rest_is_not_read_again() {
    let house = House::new();
    house.write(FILE, "s * a b allow\n");
    let first = house.policies.current();
    assert!(Arc::ptr_eq(&first, &house.policies.current()));
    assert!(Arc::ptr_eq(&first, &house.policies.if_unchanged().unwrap()));
    // Reading is no change.
    fs::read(house.path(FILE)).unwrap();
    assert!(Arc::ptr_eq(&first, &house.policies.current()));
}

#[test]
fn a_file_counts_as_it_was_until_its_writer_closes_it() {
    let house = House::new();
    let (deny, allow) = ("s * a b deny\n", "s * a c allow\n");
    house.write(FILE, deny);
    house.write("own/20-other.policy", "t * a b ask\n");
    assert_eq!(house.rules(), format!("{deny}t * a b ask\n"));
    let mut file = File::create(house.path(FILE)).unwrap();
    assert_eq!(house.rules(), format!("{deny}t * a b ask\n"), "cut off");
    file.write_all(allow.as_bytes()).unwrap();
    assert_eq!(house.rules(), format!("{deny}t * a b ask\n"), "half");
    assert!(house.policies.next_look().is_some());
    // Another file counts at once.
    house.rename("own/20-other.policy", "t * a b allow\n");
    assert_eq!(house.rules(), format!("{deny}t * a b allow\n"));
    file.write_all(deny.as_bytes()).unwrap();
    drop(file);
    assert_eq!(house.rules(), format!("{allow}{deny}t * a b allow\n"));
    assert_eq!(house.policies.next_look(), None);
    // So does the file itself when it is replaced while somebody still writes into the old one.
    let mut old = OpenOptions::new()
        .append(true)
        .open(house.path(FILE))
        .unwrap();
    old.write_all(b"oops\n").unwrap();
    assert_eq!(house.faults(), "");
    house.rename(FILE, deny);
    assert_eq!(house.rules(), format!("{deny}t * a b allow\n"));
}

#[test]
fn nobody_waits_for_a_writer_for_ever() {
    let house = House::with(Watch::new(Duration::ZERO));
    house.write(FILE, "s * a b deny\n");
    assert_eq!(house.rules(), "s * a b deny\n");
    let mut file = OpenOptions::new()
        .append(true)
        .open(house.path(FILE))
        .unwrap();
    for number in 0..3 {
        let text = format!("s{number} * a b allow\n");
        file.write_all(text.as_bytes()).unwrap();
        assert!(house.rules().ends_with(&text));
    }
}

#[test]
fn lost_events_are_made_up_for() {
    let house = House::new();
    house.write("own/noise1", "");
    house.write("own/noise2", "");
    house.write(FILE, "s * a b deny\n");
    assert_eq!(house.rules(), "s * a b deny\n");
    let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let most: usize = most.trim().parse().unwrap();
    assert!(most < 1 << 20, "a queue that no test fills");
    // Two names in turn, because equal events that follow each other are one.
    for number in 0..=most {
        let name = ["own/noise1", "own/noise2"][number % 2];
        fs::set_permissions(house.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    house.rename(FILE, "s * a b allow\n");
    assert_eq!(house.rules(), "s * a b allow\n");
    house.rename(FILE, "s * a b ask\n");
    assert_eq!(house.rules(), "s * a b ask\n");
}

#[test]
fn a_directory_that_is_replaced_is_another_one() {
    let house = House::new();
    house.write(FILE, "s * a b deny\n");
    assert_eq!(house.rules(), "s * a b deny\n");
    fs::rename(house.path("own"), house.path("old")).unwrap();
    assert_eq!(house.rules(), "");
    fs::create_dir(house.path("own")).unwrap();
    house.write(FILE, "s * a b allow\n");
    assert_eq!(house.rules(), "s * a b allow\n");
    house.rename(FILE, "s * a b ask\n");
    assert_eq!(house.rules(), "s * a b ask\n");
    // What becomes of the old one is nobody's business.
    let before = house.policies.current();
    house.write("old/10-own.policy", "oops\n");
    assert!(Arc::ptr_eq(&before, &house.policies.current()));
    // A directory above: the path leads elsewhere without a word of any watch.
    let elsewhere = house.dir.path().with_extension("elsewhere");
    fs::rename(house.dir.path(), &elsewhere).unwrap();
    assert!(
        house
            .faults()
            .contains("none of the policy directories exists")
    );
    fs::rename(&elsewhere, house.dir.path()).unwrap();
    assert_eq!(house.rules(), "s * a b ask\n");
}

#[test]
fn links_and_files_elsewhere_are_looked_at() {
    let house = House::new();
    fs::create_dir(house.path("elsewhere")).unwrap();
    for name in ["elsewhere/a", "elsewhere/b", "elsewhere/c"] {
        house.write(name, &format!("{} * a b allow\n", &name[10..]));
    }
    symlink("../elsewhere/a", house.path("own/10-link.policy")).unwrap();
    house.write("own/20-include.policy", "!include ../elsewhere/c\n");
    assert_eq!(house.rules(), "a * a b allow\nc * a b allow\n");
    // The link stays what it is, and leads to another file.
    fs::rename(house.path("elsewhere/b"), house.path("elsewhere/a")).unwrap();
    assert_eq!(house.rules(), "b * a b allow\nc * a b allow\n");
    house.write("elsewhere/c", "c * a b deny\n");
    assert_eq!(house.rules(), "b * a b allow\nc * a b deny\n");
    // A hard link is a file of the directory, written from outside of it.
    fs::hard_link(house.path("elsewhere/c"), house.path("own/30-hard.policy")).unwrap();
    assert_eq!(house.rules(), "b * a b allow\nc * a b deny\nc * a b deny\n");
    house.write("elsewhere/c", "d * a b deny\n");
    assert_eq!(house.rules(), "b * a b allow\nd * a b deny\nd * a b deny\n");
}

/// What is done to files.
#[derive(Clone, Debug)]
enum Deed {
    Write(&'static str, &'static str),
    Replace(&'static str, &'static str),
    Remove(&'static str),
    Link(&'static str, &'static str),
    HardLink(&'static str, &'static str),
    Move(&'static str, &'static str),
    MakeDirectory(&'static str),
    Permit(&'static str, u32),
}

const NAMES: [&str; 9] = [
    "own/10-own.policy",
    "own/20-more.policy",
    "own/inc/x",
    "own/inc/10-y.policy",
    "own/inc",
    "own/Bad.policy",
    "shipped/20-more.policy",
    "own",
    "outside",
];

const TEXTS: [&str; 7] = [
    "s * a b allow\n",
    "s * a b deny\nt * a b ask\n",
    "!include inc/x\n",
    "!include-dir inc\nu * a b ask\n",
    "!include ../outside\n",
    "oops\n",
    "",
];

fn deed() -> impl Strategy<Value = Deed> {
    let name = || select(NAMES.as_slice());
    let text = || select(TEXTS.as_slice());
    prop_oneof![
        3 => (name(), text()).prop_map(|(name, text)| Deed::Write(name, text)),
        3 => (name(), text()).prop_map(|(name, text)| Deed::Replace(name, text)),
        1 => name().prop_map(Deed::Remove),
        1 => (name(), name()).prop_map(|(name, to)| Deed::Link(name, to)),
        1 => (name(), name()).prop_map(|(name, to)| Deed::HardLink(name, to)),
        1 => (name(), name()).prop_map(|(name, to)| Deed::Move(name, to)),
        2 => select(["own", "own/inc", "own/10-own.policy"].as_slice()).prop_map(Deed::MakeDirectory),
        1 => (name(), select(vec![0o000, 0o600, 0o700])).prop_map(|(name, mode)| Deed::Permit(name, mode)),
    ]
}

impl Deed {
    /// Does it, as far as it can be done.
    fn attempt(&self, dir: &Path) -> std::io::Result<()> {
        match self {
            Self::Write(name, text) => fs::write(dir.join(name), text),
            Self::Replace(name, text) => {
                fs::write(dir.join("new"), text)?;
                fs::rename(dir.join("new"), dir.join(name))
            }
            Self::Remove(name) => {
                let path = dir.join(name);
                fs::remove_file(&path).or_else(|_| fs::remove_dir_all(path))
            }
            Self::Link(name, to) => symlink(dir.join(to), dir.join(name)),
            Self::HardLink(name, to) => fs::hard_link(dir.join(to), dir.join(name)),
            Self::Move(name, to) => fs::rename(dir.join(name), dir.join(to)),
            Self::MakeDirectory(name) => fs::create_dir(dir.join(name)),
            Self::Permit(name, mode) => {
                fs::set_permissions(dir.join(name), fs::Permissions::from_mode(*mode))
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One who has followed all changes knows what one knows who comes new and looks.
    #[test]
    fn no_deed_goes_unseen(deeds in prop::collection::vec(deed(), 1..30)) {
        let house = House::new();
        for (number, deed) in deeds.iter().enumerate() {
            // That nothing is done is a deed, too.
            let _ = deed.attempt(house.dir.path());
            let (ours, fresh) = (
                house.policies.current(),
                Policies::with(directories(house.dir.path()), None).current(),
            );
            prop_assert_eq!(ours.faults(), fresh.faults(), "after {:?}", &deeds[..=number]);
            if fresh.faults().is_empty() {
                prop_assert_eq!(rules(&ours), rules(&fresh), "after {:?}", &deeds[..=number]);
            }
        }
        // For the removal of the directory.
        let _ = fs::set_permissions(house.path("own"), fs::Permissions::from_mode(0o700));
    }
}
