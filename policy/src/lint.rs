//! Rules that can be read and yet do not do what their author meant.

use std::collections::BTreeSet;

use crate::{
    facts::Facts,
    policy::Policy,
    rule::{Action, Place, Rule},
    token::{Pattern, VmRef, Wish},
};

/// One thing to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule.
    pub place: Place,
    /// The character in its line, from 1; 0 for the whole line.
    pub column: u32,
    /// What it is, and what was probably meant.
    pub text: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.place)?;
        if self.column > 0 {
            write!(f, ":{}", self.column)?;
        }
        write!(f, ": {}", self.text)
    }
}

/// The types that a VM can have.
const TYPES: [&str; 6] = [
    "AdminVM",
    "AppVM",
    "DispVM",
    "RemoteVM",
    "StandaloneVM",
    "TemplateVM",
];

/// Words that stand behind an `@`, and become the name of a VM without it.
const WORDS: [&str; 4] = ["anyvm", "default", "adminvm", "dispvm"];

impl Policy {
    /// Everything in these rules that is probably not meant, in their order. Names and tags are only looked up when
    /// there are facts.
    #[must_use]
    pub fn lint(&self, facts: Option<&Facts>) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (index, rule) in self.rules().iter().enumerate() {
            let earlier = self.rules().get(..index).unwrap_or_default();
            let mut say = |column: u32, text: String| {
                findings.push(Finding {
                    place: rule.place.clone(),
                    column,
                    text,
                });
            };
            for (column, pattern) in [
                (rule.at.source, &rule.source),
                (rule.at.target, &rule.target),
            ] {
                if let Some(text) = word(pattern, facts) {
                    say(column, text);
                }
            }
            if never_a_source(&rule.source) {
                let text = format!(
                    "'{}' never matches as a source: who calls has a name; a running disposable is '@type:DispVM'",
                    rule.source
                );
                say(rule.at.source, text);
            }
            for wish in wishes(&rule.action) {
                if let Some(text) = word(&wish.clone().into(), facts) {
                    say(rule.at.action, text);
                }
            }
            if let Some(hiding) = earlier.iter().find(|earlier| covers(earlier, rule)) {
                let text = format!("is never reached: {} decides before", hiding.place);
                say(0, text);
            }
            if let Some((wish, deny)) = passes_deny(rule, earlier) {
                let text = format!(
                    "'target={wish}' goes past the deny at {}: a redirect is not judged again",
                    deny.place
                );
                say(rule.at.action, text);
            }
            if let Some(later) = slips(rule, self.rules().get(index..).unwrap_or_default()) {
                let text = format!(
                    "a disposable slips through: '{}' is not denied here, and {} lets it pass",
                    later.1, later.0.place
                );
                say(rule.at.target, text);
            }
        }
        findings
    }
}

fn wishes(action: &Action) -> Vec<&Wish> {
    match action {
        Action::Deny => Vec::new(),
        Action::Allow { redirect, .. } => redirect.iter().collect(),
        Action::Ask {
            redirect,
            default_target,
            ..
        } => redirect.iter().chain(default_target).collect(),
    }
}

/// What is wrong with one word.
fn word(pattern: &Pattern, facts: Option<&Facts>) -> Option<String> {
    match pattern {
        Pattern::Vm(vm) | Pattern::DisposableOf(vm) => name(vm, pattern, facts),
        Pattern::OfType(kind) if !TYPES.contains(&kind.as_str()) => Some(format!(
            "there is no type '{kind}'{}",
            meant(kind, &TYPES, "")
        )),
        Pattern::Tagged(tag) | Pattern::DisposableTagged(tag) => {
            let facts = facts?;
            let tags: BTreeSet<&str> = facts
                .vms()
                .flat_map(|(_, domain)| domain.tags.iter().map(String::as_str))
                .collect();
            let known: Vec<&str> = tags.iter().copied().collect();
            (!tags.contains(tag.as_str()))
                .then(|| format!("no VM has the tag '{tag}'{}", meant(tag, &known, "")))
        }
        _ => None,
    }
}

fn name(vm: &VmRef, pattern: &Pattern, facts: Option<&Facts>) -> Option<String> {
    let text = vm.to_string();
    if let VmRef::Name(name) = vm {
        let bare = name.trim_start_matches(['$', '@']).to_ascii_lowercase();
        if let Some(word) = WORDS.iter().find(|word| **word == bare) {
            return Some(format!(
                "'{name}' is the name of a VM here; '@{word}' was meant"
            ));
        }
        let first = name.starts_with(|c: char| c.is_ascii_alphabetic());
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if !first || !name.chars().all(plain) {
            return Some(format!(
                "'{name}' can be no VM's name, so the rule never matches; a name, '*' or a word with '@' was meant"
            ));
        }
    }
    let facts = facts?;
    let known: Vec<&str> = facts.vms().map(|(name, _)| name).collect();
    match facts.find(vm) {
        None => Some(format!(
            "there is no VM '{text}'{}",
            meant(&text, &known, "")
        )),
        Some(found) => {
            let disposable = matches!(pattern, Pattern::DisposableOf(_));
            let usable = facts
                .domain(found)
                .is_some_and(|domain| domain.template_for_dispvms);
            (disposable && !usable).then(|| format!("no disposables are made from '{text}'"))
        }
    }
}

/// The nearest of the known words, as the end of a sentence.
fn meant(word: &str, known: &[&str], prefix: &str) -> String {
    known
        .iter()
        .map(|known| (distance(word, known), known))
        .filter(|(distance, _)| *distance <= 2)
        .min()
        .map(|(_, known)| format!("; '{prefix}{known}' was perhaps meant"))
        .unwrap_or_default()
}

/// Least number of characters to change, add or take away.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let change = row.get(j).copied().unwrap_or(0) + usize::from(x != *y);
            let take = row.get(j + 1).copied().unwrap_or(0) + 1;
            let add = next.last().copied().unwrap_or(0) + 1;
            next.push(change.min(take).min(add));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

fn never_a_source(pattern: &Pattern) -> bool {
    matches!(
        pattern,
        Pattern::DisposableOf(_) | Pattern::DisposableTagged(_)
    )
}

/// Whether everything that `inner` matches is matched by `outer` too, whatever VMs there are.
fn includes(outer: &Pattern, inner: &Pattern) -> bool {
    match (outer, inner) {
        (Pattern::Everything, _) => true,
        (Pattern::AnyVm, inner) => !matches!(inner, Pattern::Everything | Pattern::Admin),
        (outer, inner) => outer == inner,
    }
}

fn includes_service(outer: &Rule, inner: &Rule) -> bool {
    (outer.service.is_none() || outer.service == inner.service)
        && (outer.argument.is_none() || outer.argument == inner.argument)
}

fn covers(outer: &Rule, inner: &Rule) -> bool {
    includes_service(outer, inner)
        && includes(&outer.source, &inner.source)
        && includes(&outer.target, &inner.target)
}

/// An earlier deny of the place that a rule redirects to.
fn passes_deny<'a>(rule: &'a Rule, earlier: &'a [Rule]) -> Option<(&'a Wish, &'a Rule)> {
    let wish = rule.redirect()?;
    let place: Pattern = wish.clone().into();
    earlier
        .iter()
        .find(|deny| {
            deny.action == Action::Deny
                && includes_service(deny, rule)
                && (includes(&deny.source, &rule.source) || includes(&rule.source, &deny.source))
                && includes(&deny.target, &place)
        })
        .map(|deny| (wish, deny))
}

/// For a deny of one way to say a disposable: a later rule that lets the other way pass.
fn slips<'a>(deny: &Rule, later: &'a [Rule]) -> Option<(&'a Rule, Pattern)> {
    if deny.action != Action::Deny {
        return None;
    }
    let other = match &deny.target {
        // A named template is another word than the default, which may be the same one.
        Pattern::Disposable => Pattern::DisposableOf(VmRef::Name("NAME".to_owned())),
        Pattern::OfType(kind) if kind == "DispVM" => Pattern::Disposable,
        Pattern::DisposableOf(VmRef::Uuid(_)) => Pattern::Disposable,
        _ => return None,
    };
    let passes = |rule: &&Rule| {
        includes_service(rule, deny)
            && (includes(&rule.source, &deny.source) || includes(&deny.source, &rule.source))
            && includes(&rule.target, &other)
    };
    let first = later.iter().find(passes)?;
    (first.action != Action::Deny).then_some((first, other))
}
