//! Judging a call: the first rule that matches decides.

mod ask;
mod relay;

pub use relay::Via;

use crate::{
    decision::{Decision, Denial, Destination, Party, Request, Requested, Verdict},
    facts::Facts,
    policy::Policy,
    rule::{Action, Rule},
    token::Wish,
};

impl Policy {
    /// Judges a call.
    pub fn decide(&self, request: &Request<'_>, facts: &Facts) -> Decision {
        let target = match requested(request, facts) {
            Ok(target) => target,
            Err(denial) => return denied(denial),
        };
        let source = Party::new(request.source, facts);
        let mut about = self.about(request.service, request.argument);
        let Some(rule) = about.find(|rule| {
            rule.source.matches_source(&source, facts)
                && rule.target.matches_target(&target, &source, facts)
        }) else {
            return denied(Denial::NoRule);
        };
        let verdict = match &rule.action {
            Action::Deny => Err(Denial::Rule),
            Action::Allow {
                redirect,
                user,
                autostart,
            } => allow(redirect.as_ref(), *autostart, target, source, facts).map(|target| {
                Verdict::Allow {
                    target,
                    user: user.clone(),
                    autostart: *autostart,
                }
            }),
            Action::Ask { .. } => self.ask(rule, request, source, facts),
        };
        Decision {
            notify: match &verdict {
                // These two are what the rule itself says; every other deny is news to the person.
                Ok(_) | Err(Denial::Rule | Denial::Autostart) => rule.notify,
                Err(_) => true,
            },
            verdict: verdict.unwrap_or_else(Verdict::Deny),
            rule: Some(rule.place.clone()),
        }
    }

    fn ask(
        &self,
        rule: &Rule,
        request: &Request<'_>,
        source: Party<'_>,
        facts: &Facts,
    ) -> Result<Verdict, Denial> {
        let Action::Ask {
            redirect,
            default_target,
            user,
            autostart,
        } = &rule.action
        else {
            return Err(Denial::Rule);
        };
        let targets = match redirect {
            Some(wish) => ask::only(wish, source, *autostart, facts),
            None => {
                let about = self.about(request.service, request.argument);
                ask::offered(about, source, *autostart, facts)
            }
        };
        if targets.is_empty() {
            return Err(Denial::NothingToAsk);
        }
        let default = default_target
            .as_ref()
            .and_then(|wish| destination(wish.look_up(facts).ok()?, source, facts).ok())
            .filter(|default| targets.contains(default));
        Ok(Verdict::Ask {
            targets,
            default,
            user: user.clone(),
            autostart: *autostart,
        })
    }
}

/// What is asked for, looked up.
fn requested<'f>(request: &Request<'_>, facts: &'f Facts) -> Result<Requested<'f>, Denial> {
    Wish::requested(request.target)
        .map_err(|_| Denial::InvalidTarget)?
        .look_up(facts)
}

fn denied(denial: Denial) -> Decision {
    Decision {
        verdict: Verdict::Deny(denial),
        rule: None,
        notify: true,
    }
}

fn allow(
    redirect: Option<&Wish>,
    autostart: bool,
    requested: Requested<'_>,
    source: Party<'_>,
    facts: &Facts,
) -> Result<Destination, Denial> {
    let target = match redirect {
        Some(wish) => wish.look_up(facts)?,
        None => requested,
    };
    let target = destination(target, source, facts)?;
    if !autostart && !runs(&target, facts) {
        return Err(Denial::Autostart);
    }
    if source.is(&target) {
        return Err(Denial::Loopback);
    }
    Ok(target)
}

/// The one place that is meant.
fn destination(
    requested: Requested<'_>,
    source: Party<'_>,
    facts: &Facts,
) -> Result<Destination, Denial> {
    match requested {
        Requested::Default => Err(Denial::NoTarget),
        Requested::Admin => Ok(Destination::Admin),
        Requested::Vm(name) => Ok(Destination::Vm(name.to_owned())),
        Requested::DisposableOf(template) => Ok(Destination::Disposable {
            template: template.to_owned(),
        }),
        Requested::Disposable => facts
            .default_dispvm(source.name())
            .map(|template| Destination::Disposable {
                template: template.to_owned(),
            })
            .ok_or(Denial::NoDefaultDisposable),
    }
}

/// Whether a call can go there without starting anything.
fn runs(target: &Destination, facts: &Facts) -> bool {
    match target {
        Destination::Admin => true,
        Destination::Disposable { .. } => false,
        Destination::Vm(name) => facts.domain(name).is_some_and(|domain| domain.running),
    }
}
