//! Row by row what a VM, its agent, or a client of the host may try at the broker: names, targets, identities, rules that
//! change, questions that are overtaken, floods, services that misbehave, and an end at every frame.
//!
//! Types, lengths and states of frames are in `qrexec/session/tests`, the person's side of a question in the compositor.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/agent.rs"]
mod agent;
mod asks;
#[path = "../support/broker.rs"]
mod broker;
mod client;
mod ends;
mod floods;
mod house;
mod killed;
mod names;
mod race;
mod reload;
mod services;
