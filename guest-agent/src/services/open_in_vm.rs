//! `qubes.OpenInVM`: one file in, opened by the program for its type, gone when that program ends.
//!
//! The file comes as a file copy stream with one entry. Unless the call's argument is `view-only`, a file that the
//! program changed goes back behind the outcome, as a stream of the same kind; nothing goes back of one that it did not.

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    thread,
};

use anyhow::{Context, bail, ensure};
use casemate_filecopy::{Rules, write_file};
use nix::sys::signal::{SigSet, Signal};

use super::{
    filecopy::{self, status::Status},
    handler, session,
};

/// Argument of a call whose caller takes nothing back.
pub(crate) const VIEW_ONLY: &str = "view-only";

/// Receives the file, opens it, waits.
pub(crate) fn run() -> anyhow::Result<u8> {
    let view_only = match filecopy::argument().as_str() {
        "" => false,
        VIEW_ONLY => true,
        _ => bail!("the argument is not known; it can be {VIEW_ONLY}"),
    };
    let dir = private_directory()?;
    remove_on_signals(&dir).context("cannot take signals")?;
    let result = receive_and_open(&dir, view_only);
    // The VM may live on; the stranger's file does not.
    remove(&dir);
    result
}

fn receive_and_open(dir: &Path, view_only: bool) -> anyhow::Result<u8> {
    let rules = Rules {
        one_file: true,
        ..Rules::default()
    };
    let source = env::var("QREXEC_REMOTE_DOMAIN").unwrap_or_default();
    let status = filecopy::into(dir, &rules, &mut Status::new(&source, dir))?;
    if status != 0 {
        return Ok(status);
    }
    let entry = fs::read_dir(dir)
        .context("cannot list what came")?
        .next()
        .context("no file came")??;
    let name = entry.file_name();
    let name = name.to_str().context("the file has no usable name")?;
    let file = entry.path();
    let mode = if view_only { 0o400 } else { 0o600 };
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).context("cannot set rights")?;
    if view_only {
        // An editor says at once that nothing can be saved, not when the person has written a page.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o500)).context("cannot set rights")?;
    }
    let before = State::of(&file)?;
    session::wait();
    let mut command = handler::for_file(&file, view_only)?;
    let program = command.get_program().display().to_string();
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    if !view_only {
        give_back(&file, name, &before)?;
    }
    Ok(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1))
}

/// What changes with a file's content.
#[derive(Debug, PartialEq, Eq)]
struct State {
    inode: u64,
    length: u64,
    time: (i64, i64),
}

impl State {
    fn of(file: &Path) -> anyhow::Result<Self> {
        let metadata = fs::symlink_metadata(file).context("the file is gone")?;
        ensure!(metadata.is_file(), "the file has become something else");
        Ok(Self {
            inode: metadata.ino(),
            length: metadata.len(),
            time: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

fn give_back(file: &Path, name: &str, before: &State) -> anyhow::Result<()> {
    if State::of(file)? != *before {
        write_file(file, name, &mut io::stdout().lock())
            .context("the changed file could not be sent back")?;
    }
    Ok(())
}

/// A caller that is lost ends this process group. The program ends of itself then; the file is removed here.
fn remove_on_signals(dir: &Path) -> nix::Result<()> {
    let mut ends = SigSet::empty();
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        ends.add(signal);
    }
    ends.thread_block()?;
    let dir = dir.to_owned();
    thread::spawn(move || {
        if let Ok(signal) = ends.wait() {
            remove(&dir);
            // Now as it would have been.
            let _ = ends.thread_unblock();
            let _ = nix::sys::signal::raise(signal);
        }
    });
    Ok(())
}

fn remove(dir: &Path) {
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    if let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(dir = %dir.display(), %error, "a received file could not be removed");
    }
}

/// Removes what killed processes left: directories in `base` whose name is `prefix` and the number of no process.
pub(crate) fn sweep(base: &Path, prefix: &str) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(prefix));
        let Some(number) = number.and_then(|number| number.parse::<u32>().ok()) else {
            continue;
        };
        if !Path::new("/proc").join(number.to_string()).exists() {
            remove(&entry.path());
        }
    }
}

/// Beginning of the name of a directory for one file.
const PREFIX: &str = "casemate-open-";

fn private_directory() -> anyhow::Result<PathBuf> {
    let base = env::var_os("XDG_RUNTIME_DIR").map_or_else(env::temp_dir, PathBuf::from);
    sweep(&base, PREFIX);
    let dir = base.join(format!("{PREFIX}{}", std::process::id()));
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_dead_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let own = format!("a-{}", std::process::id());
        for name in [own.as_str(), "a-4194999", "a-x", "b-4194999"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("f"), "").unwrap();
        }
        sweep(dir.path(), "a-");
        for (name, kept) in [
            (own.as_str(), true),
            ("a-4194999", false),
            ("a-x", true),
            ("b-4194999", true),
        ] {
            assert_eq!(dir.path().join(name).exists(), kept, "{name}");
        }
    }
}
