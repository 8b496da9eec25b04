//! Namespaces of our own, and a root directory with nothing in it.

use std::io;

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_remount, unmount,
};
use rustix::process::{getegid, geteuid, pivot_root};
use rustix::thread::UnshareFlags;

use super::map::Mapper;
use super::{JailError, OwnUser, step};

/// A directory that the host has for sure, to mount the empty root on. Only our own mount namespace sees it covered.
const MOUNT_POINT: &str = "/proc";

/// Leaves all namespaces of the host, except the one of processes, which the next child leaves. In the new one there is
/// one user and one group: `own`, and this process is then that, or ours when there is none.
pub(super) fn unshare(own: Option<OwnUser>) -> Result<(), JailError> {
    // Outside, because only from there can the numbers of others be given.
    let mapper = own.map(Mapper::start).transpose()?;
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    rustix_unshare(
        UnshareFlags::NEWUSER
            | UnshareFlags::NEWNS
            | UnshareFlags::NEWNET
            | UnshareFlags::NEWPID
            | UnshareFlags::NEWIPC
            | UnshareFlags::NEWUTS
            | UnshareFlags::NEWCGROUP,
    )
    .map_err(JailError::Namespaces)?;
    if let Some(mapper) = mapper
        && mapper.finish()?
    {
        return Ok(());
    }
    for (file, line) in [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("{user} {user} 1")),
        ("/proc/self/gid_map", format!("{group} {group} 1")),
    ] {
        std::fs::write(file, line).map_err(JailError::Namespaces)?;
    }
    Ok(())
}

fn rustix_unshare(flags: UnshareFlags) -> io::Result<()> {
    #[expect(
        deprecated,
        reason = "its objection is to UnshareFlags::FILES, which is not used"
    )]
    Ok(rustix::thread::unshare(flags)?)
}

/// Replaces the root directory by an empty one that cannot be written. Called in the child.
pub(super) fn empty_root() -> Result<(), JailError> {
    const RESTRICTED: MountFlags = MountFlags::NOSUID
        .union(MountFlags::NODEV)
        .union(MountFlags::NOEXEC);
    // Where namespaces can be made but mean nothing (AppArmor's restriction), this is the first thing that fails.
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(|errno| JailError::Namespaces(errno.into()))?;
    step(
        "mount an empty root",
        mount(
            "none",
            MOUNT_POINT,
            "tmpfs",
            RESTRICTED,
            c"size=0,nr_inodes=2,mode=0555",
        ),
    )?;
    step("enter the empty root", rustix::process::chdir(MOUNT_POINT))?;
    // New and old root in one place: the old one is then on top and comes off.
    step("change the root", pivot_root(".", "."))?;
    step("leave the old root", unmount(".", UnmountFlags::DETACH))?;
    step("stay in the empty root", rustix::process::chdir("/"))?;
    step(
        "make the root read-only",
        mount_remount("/", RESTRICTED | MountFlags::RDONLY | MountFlags::BIND, c""),
    )
}
