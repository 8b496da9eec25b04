//! The list that an ask offers to the person.

use std::collections::BTreeSet;

use crate::{
    decision::{Destination, Party, Request},
    evaluate::destination,
    facts::Facts,
    rule::{Action, Rule},
    token::{Pattern, Wish},
};

/// The list of a rule with `target=`: that place, if it exists.
pub(super) fn only(wish: &Wish, source: Party<'_>, facts: &Facts) -> BTreeSet<Destination> {
    wish.look_up(facts)
        .and_then(|requested| destination(requested, source, facts))
        .into_iter()
        .collect()
}

/// The list of a rule without `target=`: every place that the rules for this caller and service let it reach.
///
/// Rules are taken from the last to the first, so that for each place the first one has the last word. A deny takes
/// away after both sides were expanded to places: one that names a template also holds for the default disposable.
pub(super) fn offered(
    rules: &[Rule],
    request: &Request<'_>,
    source: Party<'_>,
    facts: &Facts,
) -> BTreeSet<Destination> {
    let mut targets = BTreeSet::new();
    for rule in rules.iter().rev() {
        if !rule.matches_service(request.service, request.argument)
            || !rule.source.matches_source(&source, facts)
        {
            continue;
        }
        let places = match rule.redirect() {
            Some(wish) => expand(&wish.clone().into(), source, facts),
            None => expand(&rule.target, source, facts),
        };
        match rule.action {
            Action::Deny => targets.retain(|target| !places.contains(target)),
            Action::Allow { .. } | Action::Ask { .. } => targets.extend(places),
        }
    }
    targets.retain(|target| !is_internal(target, facts));
    targets
}

fn is_internal(target: &Destination, facts: &Facts) -> bool {
    match target {
        Destination::Admin => false,
        Destination::Vm(name) | Destination::Disposable { template: name } => {
            facts.domain(name).is_some_and(|domain| domain.internal)
        }
    }
}

/// Every place that a pattern means.
fn expand(pattern: &Pattern, source: Party<'_>, facts: &Facts) -> BTreeSet<Destination> {
    let vm = |name: &str| Destination::Vm(name.to_owned());
    let disposable = |name: &str| Destination::Disposable {
        template: name.to_owned(),
    };
    let default = || facts.default_dispvm(source.name()).map(disposable);
    let everywhere = || {
        let templates = facts
            .vms()
            .filter(|(_, domain)| domain.template_for_dispvms)
            .map(|(name, _)| disposable(name));
        facts
            .vms()
            .map(|(name, _)| vm(name))
            .chain(templates)
            .chain(default())
    };
    match pattern {
        Pattern::Default => BTreeSet::new(),
        Pattern::Admin => BTreeSet::from([Destination::Admin]),
        Pattern::AnyVm => everywhere().collect(),
        Pattern::Everything => everywhere().chain([Destination::Admin]).collect(),
        Pattern::Vm(reference) => facts.find(reference).map(vm).into_iter().collect(),
        Pattern::Disposable => default().into_iter().collect(),
        Pattern::DisposableOf(reference) => facts
            .find(reference)
            .filter(|name| {
                facts
                    .domain(name)
                    .is_some_and(|domain| domain.template_for_dispvms)
            })
            .map(disposable)
            .into_iter()
            .collect(),
        Pattern::DisposableTagged(tag) => facts
            .vms()
            .filter(|(_, domain)| domain.template_for_dispvms && domain.tags.contains(tag))
            .map(|(name, _)| disposable(name))
            .collect(),
        Pattern::Tagged(tag) => facts
            .vms()
            .filter(|(_, domain)| domain.tags.contains(tag))
            .map(|(name, _)| vm(name))
            .collect(),
        Pattern::OfType(kind) => facts
            .vms()
            .filter(|(_, domain)| domain.kind == *kind)
            .map(|(name, _)| vm(name))
            .collect(),
    }
}
