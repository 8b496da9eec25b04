//! The command line, parsed once into types; it opens nothing.

use std::{convert::Infallible, path::PathBuf, str::FromStr};

use clap::Parser;

/// The Wayland compositor of a VM's apps: forwards their windows, flat, to the host's compositor.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Options {
    /// Connect to the host over vsock (CID 2, port 769); the default
    #[arg(long, conflicts_with = "connect")]
    pub(crate) vsock: bool,
    /// Connect to this Unix socket instead, for tests
    #[arg(long, value_name = "PATH")]
    pub(crate) connect: Option<PathBuf>,
    /// The window memory: `auto` (the VM's PCI device), `fd:N`, or a path
    #[arg(long, value_name = "auto|fd:N|PATH", default_value = "auto")]
    pub(crate) memory: MemorySource,
    /// Name of the Wayland socket made in XDG_RUNTIME_DIR
    #[arg(long, value_name = "NAME", default_value = "wayland-0")]
    pub(crate) socket: String,
}

/// Where the window memory is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MemorySource {
    /// The BAR of Casemate's PCI device.
    Device,
    /// An inherited descriptor.
    Descriptor(i32),
    /// A file.
    Path(PathBuf),
}

impl FromStr for MemorySource {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        if text == "auto" {
            return Ok(Self::Device);
        }
        let descriptor = text
            .strip_prefix("fd:")
            .and_then(|number| number.parse().ok());
        Ok(match descriptor {
            Some(number) => Self::Descriptor(number),
            None => Self::Path(text.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_sources() {
        let cases = [
            ("auto", MemorySource::Device),
            ("fd:7", MemorySource::Descriptor(7)),
            ("fd:x", MemorySource::Path("fd:x".into())),
            ("/a/b", MemorySource::Path("/a/b".into())),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }
}
