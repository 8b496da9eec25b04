//! Which of our crates may depend on which, and on which of other people's they must not depend.
//! Arrows point down only: words <- contracts <- resources <- programs, which never link each other.
//! docs/architecture.md has the drawing; a new arrow is a decision and changes this table too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use toml::Table;

use super::Finding;

/// How high a crate stands. An arrow may only go to a lower floor, or to the same floor below programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Floor {
    /// Plain words of the domain, no I/O.
    Words,
    /// What two processes say to each other, and pure decisions.
    Contracts,
    /// Owned things: devices, volumes, template builds.
    Resources,
    /// Processes. They never link each other.
    Programs,
    /// Tests and tasks; nothing of the product depends on them.
    Bench,
}

use Floor::{Bench, Contracts, Programs, Resources, Words};

/// Every crate, its floor, and all arrows that it may have to our own crates.
const CRATES: [(&str, Floor, &[&str]); 25] = [
    ("casemate-vm", Words, &[]),
    ("casemate-policy", Contracts, &[]),
    ("casemate-qrexec-wire", Contracts, &[]),
    (
        "casemate-qrexec-session",
        Contracts,
        &["casemate-qrexec-wire"],
    ),
    (
        "casemate-qrexec-stream",
        Contracts,
        &["casemate-qrexec-wire"],
    ),
    ("casemate-window-wire", Contracts, &[]),
    ("casemate-sound-wire", Contracts, &[]),
    ("casemate-link", Contracts, &["casemate-vmm-control"]),
    ("casemate-vmm-control", Contracts, &["casemate-vm"]),
    ("casemate-api", Contracts, &["casemate-vm"]),
    (
        "casemate-devices",
        Resources,
        &[
            "casemate-vmm-control",
            "casemate-link",
            "casemate-sound-wire",
        ],
    ),
    ("casemate-kernel", Resources, &[]),
    ("casemate-storage", Resources, &["casemate-vm"]),
    (
        "casemate-template-builder",
        Resources,
        &["casemate-vm", "casemate-storage"],
    ),
    (
        "casemated",
        Programs,
        &[
            "casemate-vm",
            "casemate-api",
            "casemate-vmm-control",
            "casemate-link",
            "casemate-sound-wire",
            "casemate-storage",
            "casemate-template-builder",
        ],
    ),
    (
        "casemate-cli",
        Programs,
        &[
            "casemate-vm",
            "casemate-api",
            "casemate-policy",
            "casemate-vmm-control",
            "casemate-qrexec-wire",
        ],
    ),
    (
        "casemate-vmm",
        Programs,
        &[
            "casemate-vm",
            "casemate-vmm-control",
            "casemate-link",
            "casemate-devices",
            "casemate-kernel",
        ],
    ),
    (
        "casemate-sound",
        Programs,
        &["casemate-vm", "casemate-link", "casemate-sound-wire"],
    ),
    (
        "casemate-qrexec",
        Programs,
        &[
            "casemate-vm",
            "casemate-api",
            "casemate-vmm-control",
            "casemate-link",
            "casemate-policy",
            "casemate-qrexec-session",
            "casemate-qrexec-stream",
            "casemate-qrexec-wire",
        ],
    ),
    (
        "casemate-compositor",
        Programs,
        &[
            "casemate-vm",
            "casemate-api",
            "casemate-vmm-control",
            "casemate-link",
            "casemate-window-wire",
        ],
    ),
    (
        "casemate-agent",
        Programs,
        &[
            "casemate-vm",
            "casemate-qrexec-stream",
            "casemate-qrexec-wire",
        ],
    ),
    ("casemate-windows", Programs, &["casemate-window-wire"]),
    ("casemate-lab", Bench, &["casemate-template-builder"]),
    (
        "casemate-lab-vms",
        Bench,
        &["casemate-vmm-control", "casemate-link"],
    ),
    (
        "xtask",
        Bench,
        &["casemate-vm", "casemate-lab", "casemate-lab-vms"],
    ),
];

/// What a crate must not use, itself or through one of ours, and why.
const FORBIDDEN: [(&str, &[&str], &str); 10] = [
    (
        "casemate-vm",
        &["tokio", "zbus", "rustix", "libc"],
        "words do no I/O",
    ),
    (
        "casemate-policy",
        &["tokio", "zbus", "rustix", "libc"],
        "a decision does no I/O",
    ),
    (
        "casemate-qrexec-wire",
        &["tokio", "zbus", "rustix", "libc"],
        "a wire does no I/O",
    ),
    (
        "casemate-qrexec-session",
        &["tokio", "zbus", "rustix", "libc"],
        "what was said does no I/O",
    ),
    (
        "casemate-window-wire",
        &["tokio", "zbus", "rustix", "libc"],
        "a wire does no I/O",
    ),
    (
        "casemate-sound-wire",
        &["tokio", "zbus", "rustix", "libc"],
        "a wire does no I/O",
    ),
    (
        "casemate-vmm",
        &["tokio", "zbus"],
        "the process that runs a guest has threads and eventfds only",
    ),
    (
        "casemate-vmm",
        &["pipewire"],
        "only the mixer talks to a sound server",
    ),
    (
        "casemated",
        &["pipewire"],
        "only the mixer talks to a sound server",
    ),
    (
        "casemate-compositor",
        &["kvm-ioctls", "kvm-bindings", "vm-memory"],
        "only the vmm opens KVM",
    ),
];

#[derive(Debug)]
struct Crate {
    name: String,
    manifest: PathBuf,
    /// Normal and build dependencies. What only tests use may point anywhere but upwards to programs.
    needs: BTreeSet<String>,
    test_needs: BTreeSet<String>,
}

pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let workspace: Table = read(&root.join("Cargo.toml"))?;
    let members = workspace
        .get("workspace")
        .and_then(|workspace| workspace.get("members"))
        .and_then(|members| members.as_array())
        .context("the workspace has no members")?;
    let mut crates = Vec::new();
    for member in members.iter().filter_map(|member| member.as_str()) {
        let manifest = Path::new(member).join("Cargo.toml");
        crates.push(parse(&read(&root.join(&manifest))?, manifest)?);
    }
    Ok(judge(&crates))
}

fn read(path: &Path) -> Result<Table> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.parse()
        .with_context(|| format!("cannot parse {}", path.display()))
}

fn parse(manifest: &Table, path: PathBuf) -> Result<Crate> {
    let name = manifest
        .get("package")
        .and_then(|package| package.get("name"));
    let name = name
        .and_then(|name| name.as_str())
        .context("a member has no name")?
        .to_owned();
    let keys = |sections: &[&str]| -> BTreeSet<String> {
        let tables = sections
            .iter()
            .filter_map(|section| manifest.get(*section)?.as_table());
        tables.flat_map(|table| table.keys().cloned()).collect()
    };
    Ok(Crate {
        name,
        manifest: path,
        needs: keys(&["dependencies", "build-dependencies"]),
        test_needs: keys(&["dev-dependencies"]),
    })
}

fn judge(crates: &[Crate]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let known: BTreeMap<&str, (Floor, &[&str])> = CRATES
        .iter()
        .map(|(name, floor, arrows)| (*name, (*floor, *arrows)))
        .collect();
    let by_name: BTreeMap<&str, &Crate> = crates
        .iter()
        .map(|member| (member.name.as_str(), member))
        .collect();
    for member in crates {
        let mut add = |what: String| {
            findings.push(Finding {
                path: member.manifest.clone(),
                line: None,
                what,
            });
        };
        let Some((floor, arrows)) = known.get(member.name.as_str()) else {
            add(format!(
                "{} is not in the table of crates; give it a floor and its arrows",
                member.name
            ));
            continue;
        };
        for need in member
            .needs
            .iter()
            .filter(|need| by_name.contains_key(need.as_str()))
        {
            if !arrows.contains(&need.as_str()) {
                add(format!(
                    "a new arrow: {} -> {need}; decide on it and add it to the table",
                    member.name
                ));
            }
        }
        for need in &member.test_needs {
            let above = known
                .get(need.as_str())
                .is_some_and(|(other, _)| other > floor);
            if above {
                add(format!("its tests use {need}, which stands above it"));
            }
        }
        for (_, names, reason) in FORBIDDEN.iter().filter(|(name, _, _)| *name == member.name) {
            for (name, by) in used(member, &by_name) {
                if names.contains(&name.as_str()) {
                    add(format!(
                        "{} must not use {name} (here through {by}): {reason}",
                        member.name
                    ));
                }
            }
        }
    }
    findings
}

/// All foreign crates that a crate uses, and which of ours names each.
fn used(member: &Crate, by_name: &BTreeMap<&str, &Crate>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![member];
    let mut seen = BTreeSet::new();
    while let Some(next) = waiting.pop() {
        if !seen.insert(next.name.as_str()) {
            continue;
        }
        for need in &next.needs {
            match by_name.get(need.as_str()) {
                Some(ours) => waiting.push(ours),
                None => {
                    found.insert(need.clone(), next.name.clone());
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, needs: &[&str]) -> Crate {
        Crate {
            name: name.to_owned(),
            manifest: PathBuf::from("Cargo.toml"),
            needs: needs.iter().map(|&need| need.to_owned()).collect(),
            test_needs: BTreeSet::new(),
        }
    }

    #[test]
    fn the_table_itself_points_down() {
        let floors: BTreeMap<_, _> = CRATES
            .iter()
            .map(|(name, floor, _)| (*name, *floor))
            .collect();
        for (name, floor, arrows) in CRATES {
            for arrow in arrows {
                let below = floors[arrow];
                assert!(
                    below < floor || (below == floor && floor < Programs) || floor == Bench,
                    "{name} -> {arrow}"
                );
                assert!(below != Programs, "{name} links the program {arrow}");
            }
        }
    }

    #[test]
    fn new_arrows_and_forbidden_crates_are_found() {
        let api = || member("casemate-api", &["casemate-vm", "zbus"]);
        let vm = || member("casemate-vm", &["serde"]);
        let table: [(Vec<Crate>, &str); 4] = [
            (
                vec![vm(), api(), member("casemate-vmm", &["casemate-api"])],
                "zbus (here through casemate-api)",
            ),
            (
                vec![vm(), api(), member("casemate-policy", &["casemate-vm"])],
                "casemate-policy -> casemate-vm",
            ),
            (
                vec![vm(), member("casemate-strange", &[])],
                "not in the table",
            ),
            (
                vec![
                    vm(),
                    api(),
                    member("casemate-cli", &["casemate-api", "clap"]),
                ],
                "",
            ),
        ];
        for (crates, expected) in table {
            let findings = judge(&crates);
            assert_eq!(findings.is_empty(), expected.is_empty(), "{findings:?}");
            let found = findings
                .iter()
                .any(|finding| finding.what.contains(expected));
            assert!(found || expected.is_empty(), "{findings:?}");
        }
    }
}
