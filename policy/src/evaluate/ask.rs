//! The list that an ask offers to the person.

use crate::{
    decision::{Destination, Party},
    evaluate::{destination, runs},
    facts::{Domain, Facts},
    rule::{Action, Rule},
    token::{Pattern, Wish},
};

/// The list of a rule with `target=`: that place, if it exists.
pub(super) fn only(
    wish: &Wish,
    source: Party<'_>,
    autostart: bool,
    facts: &Facts,
) -> Vec<Destination> {
    wish.look_up(facts)
        .and_then(|requested| destination(requested, source, facts))
        .into_iter()
        .filter(|target| !source.is(target) && (autostart || runs(target, facts)))
        .collect()
}

/// The list of a rule without `target=`: every place that `rules`, those about the call in their order, let the caller
/// reach. Sorted.
///
/// The first rule that means a place has the last word on it, whatever was asked for. Patterns are compared with places
/// after both were looked up: a deny that names a template also holds for the default disposable.
pub(super) fn offered<'p>(
    rules: impl Iterator<Item = &'p Rule>,
    source: Party<'_>,
    autostart: bool,
    facts: &Facts,
) -> Vec<Destination> {
    let mut spots = spots(source, autostart, facts);
    let mut open = spots.len();
    for rule in rules {
        if open == 0 {
            break;
        }
        if !rule.source.matches_source(&source, facts) {
            continue;
        }
        let redirect = rule.redirect().cloned().map(Pattern::from);
        let pattern = redirect.as_ref().unwrap_or(&rule.target);
        let named = match pattern {
            Pattern::Vm(vm) | Pattern::DisposableOf(vm) => facts.find(vm),
            _ => None,
        };
        let word = match rule.action {
            Action::Deny => Word::Denied,
            Action::Allow { .. } | Action::Ask { .. } => Word::Offered,
        };
        for (spot, state) in &mut spots {
            if *state == Word::Open && spot.is_meant(pattern, named) {
                *state = word;
                open -= 1;
            }
        }
    }
    let offered = spots.iter().filter(|(_, state)| *state == Word::Offered);
    offered.map(|(spot, _)| spot.destination()).collect()
}

/// What was said about a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// Nothing yet.
    Open,
    Offered,
    Denied,
}

/// A place that could be offered.
enum Spot<'f> {
    Admin,
    Vm(&'f str, &'f Domain),
    Disposable {
        template: &'f str,
        domain: &'f Domain,
        /// Whether it is what the caller gets for `@dispvm`.
        default: bool,
    },
}

/// Every place but those that are never offered, in the order of [`Destination`].
fn spots<'f>(source: Party<'_>, autostart: bool, facts: &'f Facts) -> Vec<(Spot<'f>, Word)> {
    let default = facts.default_dispvm(source.name());
    let vms = || facts.vms().filter(|(_, domain)| !domain.internal);
    let admin = (source != Party::Admin).then_some(Spot::Admin);
    // A new disposable has to be started.
    let disposables = vms()
        .filter(|_| autostart)
        .filter_map(|(template, domain)| {
            let default = default == Some(template);
            // A default that is no template is found out when a disposable is made from it, as in the reference.
            (domain.template_for_dispvms || default).then_some(Spot::Disposable {
                template,
                domain,
                default,
            })
        });
    let others =
        vms().filter(|(name, domain)| (autostart || domain.running) && source != Party::Vm(name));
    let others = others.map(|(name, domain)| Spot::Vm(name, domain));
    let spots = admin.into_iter().chain(disposables).chain(others);
    spots.map(|spot| (spot, Word::Open)).collect()
}

impl Spot<'_> {
    /// Whether a pattern means this place; `named` is the VM that the pattern names, if it exists.
    fn is_meant(&self, pattern: &Pattern, named: Option<&str>) -> bool {
        match (pattern, self) {
            (Pattern::Everything, _) | (Pattern::Admin, Self::Admin) => true,
            (Pattern::AnyVm, spot) => !matches!(spot, Self::Admin),
            (Pattern::Vm(_), Self::Vm(name, _)) => named == Some(*name),
            (Pattern::Tagged(tag), Self::Vm(_, domain)) => domain.tags.contains(tag),
            (Pattern::OfType(kind), Self::Vm(_, domain)) => domain.kind == *kind,
            (Pattern::Disposable, Self::Disposable { default, .. }) => *default,
            (
                Pattern::DisposableOf(_),
                Self::Disposable {
                    template, domain, ..
                },
            ) => domain.template_for_dispvms && named == Some(*template),
            (Pattern::DisposableTagged(tag), Self::Disposable { domain, .. }) => {
                domain.template_for_dispvms && domain.tags.contains(tag)
            }
            _ => false,
        }
    }

    fn destination(&self) -> Destination {
        match self {
            Self::Admin => Destination::Admin,
            Self::Vm(name, _) => Destination::Vm((*name).to_owned()),
            Self::Disposable { template, .. } => Destination::Disposable {
                template: (*template).to_owned(),
            },
        }
    }
}
