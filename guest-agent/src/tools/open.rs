//! `qvm-open-in-vm`, `qvm-open-in-dvm`: a file or an address is opened in another VM; a file that was changed there comes
//! back, unless it is only looked at.
//!
//! What comes back is a stranger's: one regular file under the name that was sent, of bounded size, whole. It replaces
//! the original at one stroke, and only if that is still the file that was sent; otherwise it is put beside it.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use casemate_filecopy::{Choice, Outcome, Received, Rules, plain_name, receive, send_file};
use rustix::fs::{Access, CWD, RenameFlags};

use super::{
    client::{CallOptions, call},
    qvm::Meter,
};
use crate::services::{
    open_in_vm::{VIEW_ONLY, sweep},
    open_url,
};

/// How much longer than the original a returned file may be: an edited file may grow, but not fill the disk.
const MAX_GROWTH: u64 = 1 << 30;

/// Opens a file, or an address, in `target`.
pub(crate) fn open(target: &str, what: &Path, view_only: bool) -> anyhow::Result<u8> {
    let (service, verb, what) = match address(what)? {
        Some(url) => ("qubes.OpenURL".to_owned(), "send-address", url.into()),
        None => {
            let file = original(what, view_only)?;
            let argument = if view_only { VIEW_ONLY } else { "" };
            let service = format!("qubes.OpenInVM+{argument}");
            (service, "send-to-open", file.into_os_string())
        }
    };
    let mut program: Vec<OsString> = ["/proc/self/exe", verb].map(Into::into).into();
    if view_only && verb == "send-to-open" {
        program.push("--view-only".into());
    }
    program.extend(["--".into(), what]);
    call(&CallOptions::default(), target, &service, &program)
}

/// The address, if it is one and no file of that name is there.
fn address(what: &Path) -> anyhow::Result<Option<String>> {
    let Some(text) = what.to_str().filter(|text| text.contains("://")) else {
        return Ok(None);
    };
    if fs::symlink_metadata(what).is_ok() {
        return Ok(None);
    }
    open_url::check(text.as_bytes()).map(|url| Some(url.to_owned()))
}

/// The file itself, behind whatever links lead to it. What cannot be saved later is said now.
fn original(file: &Path, view_only: bool) -> anyhow::Result<PathBuf> {
    let path = fs::canonicalize(file).with_context(|| format!("cannot open {}", file.display()))?;
    ensure!(path.is_file(), "{} is not a regular file", file.display());
    let parent = path.parent().unwrap_or(Path::new("/"));
    if !view_only && rustix::fs::access(parent, Access::WRITE_OK).is_err() {
        bail!(
            "{} could not be saved where it is; open it with --view-only",
            file.display()
        );
    }
    Ok(path)
}

/// The program behind an address: the address on stdout.
pub(crate) fn send_address(url: &str) -> anyhow::Result<u8> {
    writeln!(io::stdout(), "{url}").context("the address could not be sent")?;
    Ok(0)
}

/// The program behind a file: the file on stdout; the outcome, and perhaps a changed file, on stdin.
pub(crate) fn send_to_open(file: &Path, view_only: bool) -> anyhow::Result<u8> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let name = plain_name(&name);
    let before = Original::of(file)?;
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut meter = Meter::new(&[file.to_owned()], Choice::default(), false);
    let sent = send_file(file, &name, &mut output, &mut input, &mut |sent| {
        meter.note(sent);
    });
    meter.finish();
    sent.context("the file was not opened")?;
    // The service hears the end of its input.
    drop(output);
    let null = File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    if view_only {
        // Nothing that comes is taken; the call goes on until the program there ends.
        return Ok(0);
    }
    take_back(file, &name, &before, &mut input)
}

/// The file that was sent, as it was then.
#[derive(Debug, PartialEq, Eq)]
struct Original {
    device: u64,
    inode: u64,
    length: u64,
    changed: [(i64, i64); 2],
    mode: u32,
}

impl Original {
    fn of(file: &Path) -> anyhow::Result<Self> {
        let metadata =
            fs::symlink_metadata(file).with_context(|| format!("{} is gone", file.display()))?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            changed: [
                (metadata.mtime(), metadata.mtime_nsec()),
                (metadata.ctime(), metadata.ctime_nsec()),
            ],
            mode: metadata.mode(),
        })
    }
}

/// A directory for what comes back, beside the original so that it can be renamed; gone with all that is in it.
struct Beside(PathBuf);

impl Beside {
    const PREFIX: &str = ".casemate-returned-";

    fn new(file: &Path) -> anyhow::Result<Self> {
        let parent = file.parent().unwrap_or(Path::new("/"));
        sweep(parent, Self::PREFIX);
        let path = parent.join(format!("{}{}", Self::PREFIX, std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Receives the changed file, if one comes, and puts it in the original's place.
fn take_back(
    file: &Path,
    name: &str,
    before: &Original,
    input: &mut impl Read,
) -> anyhow::Result<u8> {
    let mut first = [0];
    if input.read(&mut first).context("the other VM is lost")? == 0 {
        // It was not changed.
        return Ok(0);
    }
    let beside = Beside::new(file)?;
    let root: OwnedFd = File::open(&beside.0)?.into();
    let rules = Rules {
        one_file: true,
        max_bytes: Some(before.length.saturating_add(MAX_GROWTH)),
        ..Rules::default()
    };
    let mut answer = Vec::new();
    let mut input = first.as_slice().chain(input);
    let status = receive(
        &root,
        &rules,
        &mut input,
        &mut answer,
        &mut |_: &Received| {},
    )?;
    if status != 0 {
        let outcome = Outcome::read(&mut answer.as_slice());
        let error = outcome.map_or(1, |outcome| outcome.error);
        bail!(
            "what came back for {} is not taken (error {error}); it is as it was",
            file.display()
        );
    }
    let returned = beside.0.join(name);
    let metadata = fs::symlink_metadata(&returned).with_context(|| {
        format!(
            "what came back for {} has another name; it is as it was",
            file.display()
        )
    })?;
    ensure!(metadata.is_file(), "what came back is not a file");
    // Rights are the original's; nobody else decides that a file can be run.
    fs::set_permissions(&returned, fs::Permissions::from_mode(before.mode & 0o777))?;
    File::open(&returned)?
        .sync_all()
        .context("the changed file cannot be kept")?;
    if Original::of(file).is_ok_and(|now| now == *before) {
        fs::rename(&returned, file)
            .with_context(|| format!("{} cannot be replaced", file.display()))?;
        return Ok(0);
    }
    let aside = put_aside(&returned, file)?;
    bail!(
        "{} was changed or removed meanwhile and is left as it is; what came back is {}",
        file.display(),
        aside.display()
    )
}

/// Gives the returned file a name beside the original that nobody has.
fn put_aside(returned: &Path, file: &Path) -> anyhow::Result<PathBuf> {
    /// Names that are tried.
    const TRIES: u32 = 100;
    let mut base = file.as_os_str().to_owned();
    base.push(".returned");
    for number in 0..TRIES {
        let mut name = base.clone();
        if number > 0 {
            name.push(format!(".{number}"));
        }
        let result = rustix::fs::renameat_with(CWD, returned, CWD, &name, RenameFlags::NOREPLACE);
        match result {
            Ok(()) => return Ok(name.into()),
            Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(errno).context("what came back cannot be kept"),
        }
    }
    bail!(
        "there are {TRIES} returned files beside {} already",
        file.display()
    )
}

#[cfg(test)]
mod tests {
    use casemate_filecopy::write_file;

    use super::*;

    struct Case {
        dir: tempfile::TempDir,
        file: PathBuf,
        before: Original,
    }

    impl Case {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("home")).unwrap();
            let file = dir.path().join("home/a.txt");
            fs::write(&file, "first").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
            let before = Original::of(&file).unwrap();
            Self { dir, file, before }
        }

        /// A stream with a file of this content under this name.
        fn stream(&self, name: &str, content: &str) -> Vec<u8> {
            let changed = self.dir.path().join("changed");
            fs::write(&changed, content).unwrap();
            fs::set_permissions(&changed, fs::Permissions::from_mode(0o755)).unwrap();
            let mut stream = Vec::new();
            write_file(&changed, name, &mut stream).unwrap();
            stream
        }

        fn take(&self, stream: &[u8]) -> anyhow::Result<u8> {
            take_back(&self.file, "a.txt", &self.before, &mut &*stream)
        }

        fn home(&self) -> Vec<String> {
            let entries = fs::read_dir(self.dir.path().join("home")).unwrap();
            let mut names: Vec<_> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }
    }

    #[test]
    fn a_changed_file_replaces_the_original_with_its_rights() {
        let case = Case::new();
        assert_eq!(case.take(&[]).unwrap(), 0);
        assert_eq!(fs::read_to_string(&case.file).unwrap(), "first");
        let stream = case.stream("a.txt", "second");
        assert_eq!(case.take(&stream).unwrap(), 0);
        assert_eq!(fs::read_to_string(&case.file).unwrap(), "second");
        let mode = fs::metadata(&case.file).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
        assert_eq!(case.home(), ["a.txt"]);
    }

    #[test]
    fn hostile_answers_change_nothing() {
        let case = Case::new();
        let whole = case.stream("a.txt", "second");
        let two = [&whole[..whole.len() - 32], &case.stream("b.txt", "x")].concat();
        let huge = {
            let mut stream = whole.clone();
            stream[8..16].copy_from_slice(&(MAX_GROWTH + 6).to_le_bytes());
            stream
        };
        let kind = |mode: u32| {
            let mut stream = whole.clone();
            stream[4..8].copy_from_slice(&mode.to_le_bytes());
            stream
        };
        for (what, stream) in [
            ("one byte", whole[..1].to_vec()),
            ("no end", whole[..whole.len() - 32].to_vec()),
            ("half", whole[..40].to_vec()),
            ("another name", case.stream("b.txt", "x")),
            ("a path", case.stream("../a.txt", "x")),
            ("two files", two),
            ("too long", huge),
            ("a link", kind(0o120_777)),
            ("a directory", kind(0o040_755)),
            ("a device", kind(0o020_644)),
            ("noise", vec![0xff; 100]),
            ("zeros", vec![0; 32]),
        ] {
            let error = case.take(&stream).unwrap_err().to_string();
            assert!(error.contains("a.txt"), "{what}: {error}");
            assert_eq!(fs::read_to_string(&case.file).unwrap(), "first", "{what}");
            assert_eq!(case.home(), ["a.txt"], "{what}");
        }
    }

    #[test]
    fn an_original_that_changed_meanwhile_is_kept_and_so_is_what_came_back() {
        let case = Case::new();
        fs::write(&case.file, "mine").unwrap();
        for name in ["a.txt.returned", "a.txt.returned.1"] {
            let error = case.take(&case.stream("a.txt", "theirs")).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            let returned = case.file.with_file_name(name);
            assert_eq!(fs::read_to_string(returned).unwrap(), "theirs");
            assert_eq!(fs::read_to_string(&case.file).unwrap(), "mine");
        }
        fs::remove_file(&case.file).unwrap();
        std::os::unix::fs::symlink("elsewhere", &case.file).unwrap();
        assert!(case.take(&case.stream("a.txt", "theirs")).is_err());
        assert!(!case.file.with_file_name("elsewhere").exists());
    }

    #[test]
    fn addresses_and_files() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(address(dir.path()).unwrap(), None);
        let url = address(Path::new("https://example.org/a")).unwrap();
        assert_eq!(url.as_deref(), Some("https://example.org/a"));
        assert!(address(Path::new("file:///etc/passwd")).is_err());
        assert!(original(dir.path(), true).is_err());
        let file = dir.path().join("f");
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink("f", dir.path().join("l")).unwrap();
        assert_eq!(
            original(&dir.path().join("l"), false).unwrap(),
            fs::canonicalize(file).unwrap()
        );
    }
}
