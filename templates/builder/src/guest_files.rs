//! Our own files in the guest: `install.toml` beside them says which goes where.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::BuildError;

/// `guest-agent/guest-files/install.toml`. Unknown keys are errors.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Install {
    /// Files to copy.
    #[serde(default)]
    file: Vec<InstallFile>,
    /// Symbolic links to make.
    #[serde(default)]
    link: Vec<InstallLink>,
    /// Directories to make.
    #[serde(default)]
    directory: Vec<InstallDirectory>,
    /// systemd units to start at boot.
    #[serde(default)]
    units: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InstallFile {
    /// Relative to the folder of `install.toml`, or `program:NAME` for one of our guest programs.
    source: String,
    /// Absolute path in the guest.
    target: String,
    /// Octal, as text.
    mode: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InstallLink {
    /// Absolute path of the link in the guest.
    link: String,
    /// What it points to, as written.
    target: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InstallDirectory {
    /// Absolute path in the guest.
    target: String,
    /// Octal, as text.
    mode: String,
}

/// Lays the guest files out below `tree` as they will lie below `/`.
pub(crate) fn lay_out(guest_files: &Path, programs: &Path, tree: &Path) -> Result<(), BuildError> {
    let list = guest_files.join("install.toml");
    let text = fs::read_to_string(&list).map_err(|_| BuildError::MissingProgram(list.clone()))?;
    let install: Install = toml::from_str(&text).map_err(|error| BuildError::Recipe {
        path: list.clone(),
        what: error.to_string().trim().to_owned(),
    })?;
    for directory in &install.directory {
        let target = below(tree, &directory.target)?;
        fs::create_dir_all(&target)
            .map_err(BuildError::io(format!("cannot make {}", target.display())))?;
        set_mode(&target, &directory.mode)?;
    }
    for file in &install.file {
        let source = match file.source.strip_prefix("program:") {
            Some(program) => programs.join(program),
            None => guest_files.join(&file.source),
        };
        if !source.is_file() {
            return Err(BuildError::MissingProgram(source));
        }
        let target = below(tree, &file.target)?;
        parents(&target)?;
        fs::copy(&source, &target)
            .map_err(BuildError::io(format!("cannot copy {}", source.display())))?;
        set_mode(&target, &file.mode)?;
    }
    for link in &install.link {
        make_link(&link.target, &below(tree, &link.link)?)?;
    }
    for unit in &install.units {
        let wants = below(tree, "/etc/systemd/system/multi-user.target.wants")?;
        make_link(
            &format!("/usr/lib/systemd/system/{unit}"),
            &wants.join(unit),
        )?;
    }
    Ok(())
}

/// Masks units in `tree`, as `systemctl mask` does.
pub(crate) fn mask(units: &[String], tree: &Path) -> Result<(), BuildError> {
    for unit in units {
        make_link("/dev/null", &tree.join("etc/systemd/system").join(unit))?;
    }
    Ok(())
}

fn below(tree: &Path, absolute: &str) -> Result<PathBuf, BuildError> {
    match absolute.strip_prefix('/') {
        Some(relative)
            if !relative
                .split('/')
                .any(|part| part == ".." || part.is_empty()) =>
        {
            Ok(tree.join(relative))
        }
        _ => Err(BuildError::Unexpected(format!(
            "install.toml: '{absolute}' is not a plain absolute path"
        ))),
    }
}

fn make_link(target: &str, link: &Path) -> Result<(), BuildError> {
    parents(link)?;
    symlink(target, link).map_err(BuildError::io(format!("cannot link {}", link.display())))
}

fn parents(path: &Path) -> Result<(), BuildError> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    fs::create_dir_all(parent).map_err(BuildError::io(format!("cannot make {}", parent.display())))
}

fn set_mode(path: &Path, octal: &str) -> Result<(), BuildError> {
    let mode = u32::from_str_radix(octal, 8).map_err(|_| {
        BuildError::Unexpected(format!("install.toml: '{octal}' is not an octal mode"))
    })?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(BuildError::io(format!(
        "cannot set the mode of {}",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_links_and_units_are_laid_out() {
        let dir = tempfile::tempdir().unwrap();
        let (files, programs, tree) = (
            dir.path().join("f"),
            dir.path().join("p"),
            dir.path().join("t"),
        );
        for made in [&files, &programs, &tree] {
            fs::create_dir(made).unwrap();
        }
        fs::write(programs.join("agent"), "elf").unwrap();
        fs::write(files.join("a.service"), "[Unit]").unwrap();
        let text = r#"
            units = ["a.service"]
            [[file]]
            source = "program:agent"
            target = "/usr/lib/casemate/agent"
            mode = "0755"
            [[file]]
            source = "a.service"
            target = "/usr/lib/systemd/system/a.service"
            mode = "0644"
            [[link]]
            link = "/usr/bin/qvm-copy"
            target = "../lib/casemate/agent"
        "#;
        fs::write(files.join("install.toml"), text).unwrap();
        lay_out(&files, &programs, &tree).unwrap();
        mask(&["b.timer".to_owned()], &tree).unwrap();
        let mode = fs::metadata(tree.join("usr/lib/casemate/agent"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755);
        assert!(tree.join("usr/bin/qvm-copy").exists());
        assert!(
            tree.join("etc/systemd/system/multi-user.target.wants/a.service")
                .is_symlink()
        );
        assert_eq!(
            fs::read_link(tree.join("etc/systemd/system/b.timer")).unwrap(),
            Path::new("/dev/null")
        );
    }

    #[test]
    fn paths_stay_below_the_tree() {
        for bad in ["relative", "/../etc", "/a//b", "/"] {
            assert!(below(Path::new("/t"), bad).is_err(), "{bad}");
        }
    }
}
