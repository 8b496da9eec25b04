//! The policy that decides which VM may call which service where; parser and evaluator.
//!
//! Pure: does no I/O and reads no clock. The same rules, request and facts give the same decision. Files come
//! through a callback ([`Files`]), facts about VMs as plain data ([`Facts`]). Whatever is not understood, not
//! found or not matched ends in a deny.
//!
//! The language is that of Qubes OS 4.1 to 4.3. The outcome is that of the reference except
//! where it crashes or contradicts its manual:
//!
//! * a deny of a disposable also holds in the list that an ask offers;
//! * `@tag:` and `@type:` never match the admin domain, under none of its names;
//! * VMs are compared by identity, whether name or UUID was written;
//! * a rule about a template that is gone, or about a default disposable of a VM that has none, does not match
//!   (the reference stops judging);
//! * `ask target=` is looked up before a person is asked.
#![deny(missing_docs)]

mod decision;
mod evaluate;
mod explain;
mod facts;
mod files;
mod lint;
mod parse;
mod policy;
mod reach;
mod rule;
mod standing;
mod token;

pub use decision::{Decision, Denial, Destination, Request, Verdict};
pub use evaluate::Via;
pub use explain::{Explanation, Mismatch, Passed};
pub use facts::{Domain, Facts};
pub use files::{Files, PolicyFile, Refused, select};
pub use lint::Finding;
pub use parse::{PolicyError, Problem, Reading};
pub use policy::Policy;
pub use reach::{ANY, Change, Way};
pub use rule::{Action, Columns, Place, Rule};
pub use standing::Standing;
pub use token::{InvalidToken, Pattern, VmRef, Wish};
