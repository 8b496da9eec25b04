//! All rules in their order, found by their service.

use std::collections::HashMap;

use crate::{
    files::{Files, PolicyFile},
    parse::{PolicyError, Reading},
    rule::Rule,
};

/// A whole policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// In the order in which they are tried.
    rules: Vec<Rule>,
    /// Places in `rules` of those that name a service.
    named: HashMap<String, Vec<usize>>,
    /// Places in `rules` of those for every service.
    every: Vec<usize>,
}

impl Policy {
    /// Reads a policy. One error anywhere and there is none: half a policy could allow what the other half denies.
    ///
    /// # Errors
    /// The first [`PolicyError`].
    pub fn read(top: &[PolicyFile], files: &impl Files) -> Result<Self, PolicyError> {
        Reading::new(top, files).policy()
    }

    /// The rules, in the order in which they are tried.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Adds a rule behind all others.
    pub(crate) fn push(&mut self, rule: Rule) {
        let place = self.rules.len();
        match &rule.service {
            None => self.every.push(place),
            Some(service) => match self.named.get_mut(service) {
                Some(places) => places.push(place),
                None => {
                    self.named.insert(service.clone(), vec![place]);
                }
            },
        }
        self.rules.push(rule);
    }

    /// The rules about a call of a service, in their order.
    pub(crate) fn about<'p>(
        &'p self,
        service: &str,
        argument: &str,
    ) -> impl Iterator<Item = &'p Rule> {
        let mut named = self.named.get(service).map_or(&[][..], Vec::as_slice);
        let mut every = self.every.as_slice();
        let next = move || {
            let from_named = match (named.first(), every.first()) {
                (Some(named), Some(every)) => named < every,
                (named, _) => named.is_some(),
            };
            let list = if from_named { &mut named } else { &mut every };
            let (first, rest) = list.split_first()?;
            *list = rest;
            self.rules.get(*first)
        };
        std::iter::from_fn(next).filter(move |rule| rule.matches_argument(argument))
    }
}
