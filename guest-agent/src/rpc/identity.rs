//! A command that becomes another account between fork and exec: one process start instead of two.
#![expect(
    unsafe_code,
    reason = "what runs between fork and exec of a process with threads must be chosen with care"
)]

use std::{os::unix::process::CommandExt, process::Command};

use rustix::{
    process::{Gid, Uid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

/// The numbers of an account.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) user: Uid,
    pub(crate) group: Gid,
    pub(crate) groups: Vec<Gid>,
}

/// Makes `command` run as `identity`. The order matters: a process that is no longer root cannot change its groups.
pub(crate) fn as_identity(command: &mut Command, identity: Identity) {
    let become_it = move || {
        let Identity {
            user,
            group,
            groups,
        } = &identity;
        set_thread_groups(groups)?;
        set_thread_res_gid(*group, *group, *group)?;
        set_thread_res_uid(*user, *user, *user)?;
        Ok(())
    };
    // SAFETY: the closure runs in the child of a fork, which has one thread. It makes three system calls with numbers that
    // were read before the fork; it allocates nothing, takes no lock and calls nothing else.
    unsafe { command.pre_exec(become_it) };
}
