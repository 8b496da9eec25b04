//! D-Bus shapes and proxies of the supervisor, the broker and the compositor; no logic.
//!
//! Each of the three serves D-Bus peer-to-peer on its own socket under `$XDG_RUNTIME_DIR/casemate` (see [`Bus`]);
//! there is no bus daemon in between, so a method's caller is whoever could open a socket of mode 0600 in a
//! directory of mode 0700: the user. VMs never reach these sockets.
#![deny(missing_docs)]

mod compositor;
mod connect;
mod error;
mod qrexec;
mod supervisor;

pub use crate::supervisor::{NewVm, SoundInfo, Supervisor1Proxy, TemplateInfo, VmInfo};
pub use compositor::{Answer, AskTarget, Compositor1Proxy, Notice, Question, WindowInfo};
pub use connect::{broker, compositor, supervisor};
pub use error::Error;
pub use qrexec::{CallStream, Decision, Grant, LiveCall, Qrexec1Proxy};

use std::path::{Path, PathBuf};

/// One of the three peer-to-peer buses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// `casemated`.
    Supervisor,
    /// `casemate-qrexec`.
    Qrexec,
    /// `casemate-compositor`.
    Compositor,
}

impl Bus {
    /// The socket of this bus below the runtime directory (`$XDG_RUNTIME_DIR/casemate`).
    pub fn socket(self, runtime: &Path) -> PathBuf {
        runtime.join(match self {
            Self::Supervisor => "bus",
            Self::Qrexec => "qrexec.bus",
            Self::Compositor => "compositor.bus",
        })
    }

    /// The object path that this bus serves.
    pub fn object(self) -> &'static str {
        match self {
            Self::Supervisor => "/org/casemate/Supervisor1",
            Self::Qrexec => "/org/casemate/Qrexec1",
            Self::Compositor => "/org/casemate/Compositor1",
        }
    }

    /// The name that proxies give as destination. Peer-to-peer nobody looks at it, but it must be there.
    pub fn name(self) -> &'static str {
        match self {
            Self::Supervisor => "org.casemate.Supervisor1",
            Self::Qrexec => "org.casemate.Qrexec1",
            Self::Compositor => "org.casemate.Compositor1",
        }
    }
}
