//! Finding what stands behind a service name, and its configuration (specification of qrexec, 1.5 and 1.6).

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use casemate_qrexec_wire::{ServiceCall, limits::MAX_SERVICE_NAME};

use super::{config::ServiceConfig, tcp};

/// Why there is nothing to run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LookupError {
    /// No such service: exit code 127.
    Missing,
    /// Something is there that cannot be run, or its configuration is wrong: exit code 125.
    Broken(String),
}

/// What stands behind a service name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// A program to start.
    Program(PathBuf),
    /// A Unix socket to connect to.
    Socket(PathBuf),
    /// A TCP address to connect to.
    Tcp(SocketAddr),
}

/// A call as the host wrote it: a service that can be a file name, and an argument if there was a `+`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    full: &'a str,
}

impl<'a> Call<'a> {
    /// Checks a call. The host has done so already; here it becomes a path.
    ///
    /// # Errors
    /// [`LookupError::Broken`].
    pub(crate) fn parse(full: &'a str) -> Result<Self, LookupError> {
        full.parse::<ServiceCall>()
            .map_err(|error| LookupError::Broken(error.to_string()))?;
        Ok(Self { full })
    }

    /// Service and argument as they came.
    pub(crate) fn full(self) -> &'a str {
        self.full
    }

    /// The argument; `None` when there was no `+`.
    pub(crate) fn argument(self) -> Option<&'a str> {
        self.full.split_once('+').map(|(_, argument)| argument)
    }

    /// The names that are looked for, in this order. A name that no file can have is not looked for.
    fn names(self) -> impl Iterator<Item = String> {
        let service = self.full.split('+').next().unwrap_or(self.full);
        let specific = match self.argument() {
            Some(argument) => format!("{service}+{argument}"),
            // A call without an argument looks for `svc+` first.
            None => format!("{service}+"),
        };
        [specific, service.to_owned()]
            .into_iter()
            .filter(|name| name.len() <= MAX_SERVICE_NAME)
    }

    /// `svc+arg` in every directory, only then `svc` in every directory.
    fn find<T>(
        self,
        dirs: &[PathBuf],
        mut at: impl FnMut(&Path) -> io::Result<T>,
    ) -> Result<Option<T>, LookupError> {
        for name in self.names() {
            for dir in dirs {
                let path = dir.join(&name);
                match at(&path) {
                    Ok(found) => return Ok(Some(found)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(broken(&path, &error)),
                }
            }
        }
        Ok(None)
    }

    /// What stands behind the call.
    ///
    /// # Errors
    /// [`LookupError`].
    pub(crate) fn service(self, dirs: &[PathBuf]) -> Result<Service, LookupError> {
        let argument = self.argument().unwrap_or_default();
        let (path, found) = self
            .find(dirs, |path| {
                let entry = fs::symlink_metadata(path)?;
                if entry.is_symlink()
                    && let Some(place) = tcp::link(&fs::read_link(path)?)
                {
                    return Ok((path.to_owned(), Err(place)));
                }
                Ok((path.to_owned(), Ok(fs::metadata(path)?)))
            })?
            .ok_or(LookupError::Missing)?;
        match found {
            Err(place) => tcp::address(&place, argument)
                .map(Service::Tcp)
                .map_err(|what| broken(&path, &what)),
            Ok(data) if data.file_type().is_socket() => Ok(Service::Socket(path)),
            Ok(data) if data.is_file() && data.permissions().mode() & 0o111 != 0 => {
                Ok(Service::Program(path))
            }
            Ok(_) => Err(broken(&path, &"neither an executable file nor a socket")),
        }
    }

    /// The call's configuration, the default one when there is none.
    ///
    /// # Errors
    /// [`LookupError::Broken`].
    pub(crate) fn config(self, dirs: &[PathBuf]) -> Result<ServiceConfig, LookupError> {
        let found = self.find(dirs, |path| {
            fs::read(path).map(|text| (path.to_owned(), text))
        })?;
        let Some((path, text)) = found else {
            return Ok(ServiceConfig::default());
        };
        let text = str::from_utf8(&text).map_err(|error| broken(&path, &error))?;
        ServiceConfig::parse(text).map_err(|what| broken(&path, &what))
    }
}

fn broken(path: &Path, what: &dyn std::fmt::Display) -> LookupError {
    LookupError::Broken(format!("{}: {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use super::*;

    fn executable(path: &Path) {
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn specific_names_win_over_general_ones() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = ["1", "2"].map(|name| dir.path().join(name));
        for made in &dirs {
            fs::create_dir(made).unwrap();
        }
        let [first, second] = &dirs;
        for path in [
            first.join("test.Svc"),
            second.join("test.Svc+arg"),
            second.join("test.Svc+"),
            second.join("test.Svc+a+b"),
        ] {
            executable(&path);
        }
        symlink("/no/such/file", first.join("test.Svc+arg")).unwrap();
        let service = |full: &str| Call::parse(full)?.service(&dirs);
        let long = format!("test.Svc+{}", "a".repeat(300));
        for (full, expected) in [
            ("test.Svc+arg", second.join("test.Svc+arg")),
            ("test.Svc+other", first.join("test.Svc")),
            ("test.Svc+a+b", second.join("test.Svc+a+b")),
            ("test.Svc", second.join("test.Svc+")),
            ("test.Svc+", second.join("test.Svc+")),
            (long.as_str(), first.join("test.Svc")),
        ] {
            assert_eq!(service(full), Ok(Service::Program(expected)), "{full}");
        }
        assert_eq!(service("test.None"), Err(LookupError::Missing));
        // Rows B10-2 and B10-3 of the threat tables: refused, or taken literally.
        let (name, argument) = ("a".repeat(256), format!("a+{}", "b".repeat(65_000)));
        for hostile in [
            "../1/test.Svc",
            "..",
            ".",
            "",
            "+",
            "+x",
            "a/b",
            "/abs",
            "a b",
            "a\nb",
            "a\0b",
            "$HOME",
            "`id`",
            "%s",
            "é",
            "\u{202e}a",
            "a ",
            "test.Svc+../../x",
            "test.Svc+*",
            "test.Svc+@anyvm",
            "..+x",
            name.as_str(),
            argument.as_str(),
        ] {
            let found = service(hostile);
            assert!(matches!(found, Err(LookupError::Broken(_))), "{hostile:?}");
        }
        for literal in ["test.Svc+-rf", "test.Svc+--", "test.Svc++", "test.Svc+.."] {
            assert_eq!(
                service(literal),
                Ok(Service::Program(first.join("test.Svc"))),
                "{literal}"
            );
        }
        assert_eq!(
            service("TEST.SVC"),
            Err(LookupError::Missing),
            "case counts"
        );
        let through_a_file = [first.join("test.Svc"), second.clone()];
        let found = Call::parse("test.Svc").unwrap().service(&through_a_file);
        assert!(matches!(found, Err(LookupError::Broken(_))), "no fallback");
    }

    #[test]
    fn kinds_of_services() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let _listener = UnixListener::bind(at("test.Socket")).unwrap();
        symlink(at("test.Socket"), at("test.Link")).unwrap();
        symlink("/dev/tcp/127.0.0.1/8082", at("test.Tcp")).unwrap();
        fs::write(at("test.Text"), "").unwrap();
        fs::create_dir(at("test.Dir")).unwrap();
        let dirs = [dir.path().to_owned()];
        let service = |full: &str| Call::parse(full).unwrap().service(&dirs);
        assert_eq!(
            service("test.Socket+a"),
            Ok(Service::Socket(at("test.Socket")))
        );
        assert_eq!(service("test.Link"), Ok(Service::Socket(at("test.Link"))));
        let place = SocketAddr::from(([127, 0, 0, 1], 8082));
        assert_eq!(service("test.Tcp+"), Ok(Service::Tcp(place)));
        for full in ["test.Tcp+1", "test.Text", "test.Dir"] {
            assert!(
                matches!(service(full), Err(LookupError::Broken(_))),
                "{full}"
            );
        }
    }

    #[test]
    fn configurations_are_found_as_services_are() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().join("absent"), dir.path().to_owned()];
        fs::write(dir.path().join("test.Svc"), "wait-for-session = true\n").unwrap();
        fs::write(dir.path().join("test.Svc+root"), "force-user = 'root'\n").unwrap();
        fs::write(dir.path().join("test.Svc+bad"), "[x]\n").unwrap();
        let config = |full: &str| Call::parse(full).unwrap().config(&dirs);
        assert!(config("test.Svc+x").unwrap().wait_for_session);
        let root = config("test.Svc+root").unwrap();
        assert_eq!(
            (root.force_user.as_deref(), root.wait_for_session),
            (Some("root"), false)
        );
        assert_eq!(config("test.Other"), Ok(ServiceConfig::default()));
        assert!(matches!(
            config("test.Svc+bad"),
            Err(LookupError::Broken(_))
        ));
    }
}
