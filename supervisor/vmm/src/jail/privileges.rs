//! What this process may do, made as little as a process can have.

use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope,
};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
    set_no_new_privs,
};

use super::{JailError, step};

/// Most descriptors: two links of 512 offered streams each, which a service makes, are the largest part of it.
const MAX_DESCRIPTORS: u64 = 2048;

/// What a vmm may map besides its guest's memory and its windows', in bytes: the program, stacks, streams, tables of
/// overlays, with much room. Bounds what it takes where it has no control group.
const OWN_ADDRESS_SPACE: u64 = 1 << 30;

/// A limit that cannot be raised again.
fn fixed(value: u64) -> Rlimit {
    Rlimit {
        current: Some(value),
        maximum: Some(value),
    }
}

/// No core files, message queues or real-time priority, and a bounded number of descriptors.
pub(super) fn limit_resources() -> Result<(), JailError> {
    step("forbid core files", setrlimit(Resource::Core, fixed(0)))?;
    step(
        "forbid message queues",
        setrlimit(Resource::Msgqueue, fixed(0)),
    )?;
    step(
        "forbid real-time priority",
        setrlimit(Resource::Rtprio, fixed(0)),
    )?;
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
    let descriptors = hard.unwrap_or(MAX_DESCRIPTORS).min(MAX_DESCRIPTORS);
    step(
        "limit descriptors",
        setrlimit(Resource::Nofile, fixed(descriptors)),
    )
}

/// Bounds what may be mapped; `guest` is what the guest sees, in bytes. To be called before any of that is mapped.
pub(super) fn limit_memory(guest: u64) -> Result<(), JailError> {
    let limit = guest.saturating_add(OWN_ADDRESS_SPACE);
    let hard = rustix::process::getrlimit(Resource::As).maximum;
    let limit = hard.unwrap_or(limit).min(limit);
    step("limit memory", setrlimit(Resource::As, fixed(limit)))
}

/// Gives up every capability, and every way to get one.
pub(super) fn drop_capabilities() -> Result<(), JailError> {
    // These two need CAP_SETPCAP, which a user has only in a namespace of their own. Without it there is nothing to
    // lose but bits that no_new_privs makes useless.
    for bit in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Err(Errno::INVAL | Errno::PERM) => break,
            result => step("drop a capability for good", result)?,
        }
    }
    let bits = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    match set_capabilities_secure_bits(bits) {
        Err(Errno::PERM) => {}
        result => step("lock secure bits", result)?,
    }
    step("clear ambient capabilities", clear_ambient_capability_set())?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    step("drop capabilities", set_capabilities(None, none))?;
    step("forbid new privileges", set_no_new_privs(true))
}

/// Landlock with no rule at all: no path, no port, no abstract socket, no signal to the outside. Descriptors that are
/// open stay usable. A kernel without landlock is not an error, because the empty root says the same.
pub(super) fn forbid_paths() -> Result<(), JailError> {
    let abi = ABI::V6;
    let restrict = || {
        Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(abi))?
            .handle_access(AccessNet::from_all(abi))?
            .scope(Scope::from_all(abi))?
            .create()?
            .restrict_self()
    };
    let status = step(
        "forbid paths",
        restrict().map_err(|error: landlock::RulesetError| io::Error::other(error)),
    )?;
    if status.ruleset == landlock::RulesetStatus::NotEnforced {
        tracing::debug!("this kernel has no landlock");
    }
    Ok(())
}

/// Nobody may attach to this process or read its memory, not even its own user.
pub(super) fn hide_memory() -> Result<(), JailError> {
    step(
        "become undumpable",
        set_dumpable_behavior(DumpableBehavior::NotDumpable),
    )
}
