//! Decisions before and after, in as few lines as say it.

use std::collections::{BTreeMap, BTreeSet};

use casemate_policy::{Change, Decision, Destination, Facts, Verdict};

use crate::verbs::policy::reach::shown;

/// Stands for every VM that could be in a column.
const ALL: &str = "everything";

/// FROM, SERVICE, TO, BEFORE, AFTER. Sources and targets of which the same is to be said share a line.
pub(super) fn rows(changes: &[Change], facts: &Facts) -> Vec<[String; 5]> {
    let askable = facts.askable();
    let mut targets: BTreeMap<(String, &str, String, String), BTreeSet<&str>> = BTreeMap::new();
    for change in changes {
        let service = format!("{}{}", change.service, shown(&change.argument));
        let (before, after) = words(&change.old, &change.new, &change.target);
        targets
            .entry((service, &change.source, before, after))
            .or_default()
            .insert(&change.target);
    }
    let mut sources: BTreeMap<(String, String, String, String), BTreeSet<&str>> = BTreeMap::new();
    for ((service, source, before, after), targets) in targets {
        let to_all = askable
            .iter()
            .all(|target| target == source || targets.contains(target.as_str()));
        let targets = if to_all {
            ALL.to_owned()
        } else {
            joined(targets.into_iter().map(|target| match target {
                "" => "@default",
                target => target,
            }))
        };
        sources
            .entry((service, targets, before, after))
            .or_default()
            .insert(source);
    }
    let row = |((service, targets, before, after), sources): (_, BTreeSet<&str>)| {
        let from_all = facts
            .domains
            .keys()
            .all(|name| sources.contains(name.as_str()));
        let sources = if from_all && sources.len() > 1 {
            ALL.to_owned()
        } else {
            joined(sources)
        };
        [sources, service, targets, before, after]
    };
    sources.into_iter().map(row).collect()
}

fn joined<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// Both decisions, with what tells one from the other.
fn words(old: &Decision, new: &Decision, target: &str) -> (String, String) {
    let (mut before, mut after) = (word(&old.verdict, target), word(&new.verdict, target));
    if let (
        Verdict::Ask {
            targets: old,
            default: old_default,
            ..
        },
        Verdict::Ask {
            targets: new,
            default: new_default,
            ..
        },
    ) = (&old.verdict, &new.verdict)
    {
        let only = |a: &[Destination], b: &[Destination]| {
            let only = a.iter().filter(|place| !b.contains(place));
            only.map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        for (list, text, word) in [
            (only(new, old), &mut after, "also"),
            (only(old, new), &mut before, "also"),
        ] {
            if !list.is_empty() {
                *text += &format!(", {word} {list}");
            }
        }
        if old_default != new_default {
            for (default, text) in [(old_default, &mut before), (new_default, &mut after)] {
                *text += &match default {
                    Some(default) => format!(", first {default}"),
                    None => ", none first".to_owned(),
                };
            }
        }
    }
    if old.notify != new.notify && old.verdict.word() == new.verdict.word() {
        for (decision, text) in [(old, &mut before), (new, &mut after)] {
            *text += if decision.notify {
                ", is told"
            } else {
                ", is not told"
            };
        }
    }
    (before, after)
}

fn word(verdict: &Verdict, target: &str) -> String {
    let mut text = verdict.word().to_owned();
    let (place, user, autostart) = match verdict {
        Verdict::Deny(_) => (None, &None, true),
        Verdict::Allow {
            target: place,
            user,
            autostart,
        } => (Some(place.to_string()), user, *autostart),
        Verdict::Ask {
            user, autostart, ..
        } => (None, user, *autostart),
    };
    if let Some(place) = place.filter(|place| place != target) {
        text += &format!(" in {place}");
    }
    if let Some(user) = user {
        text += &format!(" as {user}");
    }
    if !autostart {
        text += " if it runs";
    }
    text
}
