//! Whole calls through a real broker: D-Bus over its socket, links with descriptors, agents that speak the wire. Only
//! the vmm is missing: the guest's end of a stream is the offered descriptor itself.

mod admin;
mod calls;
mod faults;
mod grants;
mod guest;
mod host;
mod kills;
mod overtaken;
mod policies;
mod relays;
