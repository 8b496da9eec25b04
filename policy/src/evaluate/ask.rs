//! The list that an ask offers to the person.

use std::borrow::Cow;

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
    let words = words(rules, source, facts);
    let mut offered = Vec::with_capacity(facts.domains.len());
    let mut look = |spot: Spot<'_>| {
        let word = words.iter().find(|word| spot.is_meant(word));
        if word.is_some_and(|word| word.offers) {
            offered.push(spot.destination());
        }
    };
    if source != Party::Admin {
        look(Spot::Admin);
    }
    let vms = || facts.vms().filter(|(_, domain)| !domain.internal);
    // A new disposable has to be started.
    if autostart {
        let own = facts.default_dispvm(source.name());
        for (template, domain) in vms() {
            let default = own == Some(template);
            // A default that is no template is found out when a disposable is made from it, as in the reference.
            if domain.template_for_dispvms || default {
                look(Spot::Disposable {
                    template,
                    domain,
                    default,
                });
            }
        }
    }
    for (name, domain) in vms() {
        if (autostart || domain.running) && source != Party::Vm(name) {
            look(Spot::Vm(name, domain));
        }
    }
    offered
}

/// What a rule says of the places that its pattern means.
struct Word<'p, 'f> {
    pattern: Cow<'p, Pattern>,
    /// The VM that the pattern names, if it exists.
    named: Option<&'f str>,
    offers: bool,
}

/// What the rules that mean this caller say, the first one first.
fn words<'p, 'f>(
    rules: impl Iterator<Item = &'p Rule>,
    source: Party<'_>,
    facts: &'f Facts,
) -> Vec<Word<'p, 'f>> {
    let mut words = Vec::new();
    for rule in rules {
        if !rule.source.matches_source(&source, facts) {
            continue;
        }
        let pattern = match rule.redirect() {
            Some(wish) => Cow::Owned(Pattern::from(wish.clone())),
            None => Cow::Borrowed(&rule.target),
        };
        let is_last = *pattern == Pattern::Everything;
        words.push(Word {
            named: match &*pattern {
                Pattern::Vm(vm) | Pattern::DisposableOf(vm) => facts.find(vm),
                _ => None,
            },
            pattern,
            offers: rule.action != Action::Deny,
        });
        if is_last {
            break;
        }
    }
    words
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

impl Spot<'_> {
    /// Whether the pattern means this place.
    fn is_meant(&self, word: &Word<'_, '_>) -> bool {
        let named = word.named;
        match (&*word.pattern, self) {
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
