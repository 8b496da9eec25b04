//! What the person allowed for a while: calls that policy asks about and that go on without a question.
//!
//! A grant is for one service and argument of one VM as it runs now, for what it asked for and the target that was
//! chosen. It never overrides a rule: policy judges each call, and a grant only answers its question. It is kept in
//! memory only, ends by a clock that runs on while the machine sleeps and that nobody can set, and with the instance of
//! either VM.

use std::{collections::BTreeMap, time::Duration};

use casemate_policy::Destination;
use casemate_vm::VmName;
use rustix::time::{ClockId, clock_gettime};

use crate::limits::{GRANT_LIFE, MAX_GRANTS};

/// A point in time: since the machine booted, its sleep included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(Duration);

impl Moment {
    pub(crate) fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or_default();
        Self(Duration::new(seconds, nanoseconds))
    }

    fn after(self, life: Duration) -> Self {
        Self(self.0.saturating_add(life))
    }

    /// How long from `now` until this; nothing when it is over.
    pub(crate) fn left(self, now: Self) -> Duration {
        self.0.saturating_sub(now.0)
    }
}

/// A VM as it runs now: the number of its session is not that of any other, earlier or later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    pub(crate) name: String,
    pub(crate) number: u64,
}

/// Which calls a grant is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) source: Instance,
    /// The remote VM that the source speaks for.
    pub(crate) remote: Option<VmName>,
    /// With its argument, all of it.
    pub(crate) service: String,
    /// What the caller asked for, which the person saw.
    pub(crate) requested: String,
}

impl Key {
    /// Who is judged.
    pub(crate) fn judged(&self) -> &str {
        let remote = self.remote.as_ref().map(VmName::as_str);
        remote.unwrap_or(&self.source.name)
    }
}

/// Where such calls may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Chosen {
    Vm(Instance),
    /// A new disposable each time, of this template.
    Disposable {
        template: String,
        uuid: Option<String>,
    },
}

impl Chosen {
    /// As policy names it.
    pub(crate) fn destination(&self) -> Destination {
        match self {
            Self::Vm(instance) => Destination::Vm(instance.name.clone()),
            Self::Disposable { template, .. } => Destination::Disposable {
                template: template.clone(),
            },
        }
    }
}

/// One grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) id: u64,
    pub(crate) key: Key,
    pub(crate) chosen: Chosen,
    pub(crate) until: Moment,
}

/// Those that hold.
#[derive(Debug, Default)]
pub(crate) struct Grants(BTreeMap<u64, Grant>);

impl Grants {
    /// Takes a grant in; one for the same calls is replaced, and the oldest of a VM that has too many gives way.
    pub(crate) fn add(&mut self, id: u64, key: Key, chosen: Chosen, now: Moment) {
        self.sweep(now);
        self.forget(&key);
        let of_source = |(id, grant): (&u64, &Grant)| {
            (grant.key.source.number == key.source.number).then_some(*id)
        };
        let same: Vec<u64> = self.0.iter().filter_map(of_source).collect();
        // Numbers only grow, so the first is the oldest.
        let too_many = (same.len() + 1).saturating_sub(MAX_GRANTS);
        for oldest in same.iter().take(too_many) {
            self.0.remove(oldest);
        }
        let until = now.after(GRANT_LIFE);
        let grant = Grant {
            id,
            key,
            chosen,
            until,
        };
        self.0.insert(id, grant);
    }

    /// The grant for these calls.
    pub(crate) fn find(&mut self, key: &Key, now: Moment) -> Option<Grant> {
        self.sweep(now);
        self.0.values().find(|grant| grant.key == *key).cloned()
    }

    /// Whether there is none, not even one whose time is over.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Drops the grant for these calls.
    pub(crate) fn forget(&mut self, key: &Key) {
        self.0.retain(|_, grant| grant.key != *key);
    }

    /// Drops one; says whether it was there.
    pub(crate) fn revoke(&mut self, id: u64, now: Moment) -> bool {
        self.sweep(now);
        self.0.remove(&id).is_some()
    }

    /// Drops all; says how many there were.
    pub(crate) fn revoke_all(&mut self, now: Moment) -> usize {
        self.sweep(now);
        let count = self.0.len();
        self.0.clear();
        count
    }

    /// A VM has ended: drops what is for it, as source or target.
    pub(crate) fn ended(&mut self, number: u64) {
        self.0.retain(|_, grant| {
            let of_target =
                matches!(&grant.chosen, Chosen::Vm(instance) if instance.number == number);
            grant.key.source.number != number && !of_target
        });
    }

    /// All that hold, oldest first.
    pub(crate) fn list(&mut self, now: Moment) -> Vec<Grant> {
        self.sweep(now);
        self.0.values().cloned().collect()
    }

    fn sweep(&mut self, now: Moment) {
        self.0.retain(|_, grant| grant.until > now);
    }

    /// What holds between any two operations.
    #[cfg(test)]
    fn verify_invariants(&self, now: Moment) {
        for (id, grant) in &self.0 {
            assert_eq!(*id, grant.id);
            assert!(grant.until > now, "{grant:?} is over");
            assert!(
                grant.until <= now.after(GRANT_LIFE),
                "{grant:?} lives too long"
            );
            let same_calls = self.0.values().filter(|other| other.key == grant.key);
            assert_eq!(same_calls.count(), 1, "{grant:?}");
            let source = grant.key.source.number;
            let of_source = self
                .0
                .values()
                .filter(|other| other.key.source.number == source);
            assert!(of_source.count() <= MAX_GRANTS, "{grant:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(number: u64) -> Instance {
        Instance {
            name: format!("vm{}", number % 4),
            number,
        }
    }

    fn key(source: u64, service: u64) -> Key {
        Key {
            source: instance(source),
            remote: None,
            service: format!("s+{service}"),
            requested: String::new(),
        }
    }

    fn seconds(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    #[test]
    fn a_grant_holds_until_its_time_is_over_and_not_a_moment_longer() {
        let mut grants = Grants::default();
        let chosen = Chosen::Vm(instance(2));
        grants.add(7, key(1, 1), chosen.clone(), seconds(100));
        let last = Moment(Duration::from_millis(699_999));
        assert_eq!(grants.find(&key(1, 1), last).unwrap().chosen, chosen);
        assert_eq!(grants.list(last)[0].until.left(last).as_millis(), 1);
        for other in [
            key(3, 1),
            key(1, 2),
            Key {
                requested: "vm2".to_owned(),
                ..key(1, 1)
            },
            Key {
                remote: "far".parse().ok(),
                ..key(1, 1)
            },
            // The same VM started again.
            key(5, 1),
        ] {
            assert_eq!(grants.find(&other, last), None, "{other:?}");
        }
        assert_eq!(grants.find(&key(1, 1), seconds(700)), None);
        assert_eq!(grants.list(seconds(0)), [], "it does not come back");
    }

    #[test]
    fn a_new_answer_takes_the_place_of_the_old_one_and_the_oldest_gives_way() {
        let mut grants = Grants::default();
        let now = seconds(5);
        grants.add(1, key(1, 1), Chosen::Vm(instance(2)), now);
        grants.add(2, key(1, 1), Chosen::Vm(instance(3)), now);
        assert_eq!(grants.find(&key(1, 1), now).unwrap().id, 2);
        grants.add(3, key(9, 0), Chosen::Vm(instance(3)), now);
        for number in 0..u64::try_from(MAX_GRANTS).unwrap() {
            grants.add(
                10 + number,
                key(1, 100 + number),
                Chosen::Vm(instance(2)),
                now,
            );
            grants.verify_invariants(now);
        }
        assert_eq!(grants.find(&key(1, 1), now), None);
        assert_eq!(grants.find(&key(9, 0), now).unwrap().id, 3, "another's");
        assert_eq!(grants.list(now).len(), MAX_GRANTS + 1);
    }

    /// Random operations against a list that is searched from scratch.
    #[test]
    fn any_list_of_operations_leaves_what_a_plain_model_leaves() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        for _ in 0..50 {
            let mut grants = Grants::default();
            let mut model: Vec<Grant> = Vec::new();
            let mut now = seconds(random(1000));
            for id in 0..300 {
                now = now.after(Duration::from_secs(random(60)));
                model.retain(|grant| grant.until > now);
                let (source, service) = (random(6), random(5));
                match random(8) {
                    0..=3 => {
                        let chosen = match random(4) {
                            0 => Chosen::Disposable {
                                template: "t".to_owned(),
                                uuid: None,
                            },
                            _ => Chosen::Vm(instance(random(6))),
                        };
                        grants.add(id, key(source, service), chosen.clone(), now);
                        model.retain(|grant| grant.key != key(source, service));
                        model.push(Grant {
                            id,
                            key: key(source, service),
                            chosen,
                            until: now.after(GRANT_LIFE),
                        });
                    }
                    4 => {
                        grants.ended(source);
                        model.retain(|grant| {
                            let target = match &grant.chosen {
                                Chosen::Vm(instance) => Some(instance.number),
                                Chosen::Disposable { .. } => None,
                            };
                            grant.key.source.number != source && target != Some(source)
                        });
                    }
                    5 => {
                        let wanted = random(id + 1);
                        let was = model.len();
                        model.retain(|grant| grant.id != wanted);
                        assert_eq!(grants.revoke(wanted, now), model.len() < was);
                    }
                    6 => {
                        grants.forget(&key(source, service));
                        model.retain(|grant| grant.key != key(source, service));
                    }
                    _ if random(40) == 0 => {
                        assert_eq!(grants.revoke_all(now), model.len());
                        model.clear();
                    }
                    _ => {}
                }
                let found = grants.find(&key(source, service), now);
                let expected = model.iter().find(|grant| grant.key == key(source, service));
                assert_eq!(found.as_ref(), expected);
                grants.verify_invariants(now);
            }
            assert_eq!(grants.list(now), model);
        }
    }
}
