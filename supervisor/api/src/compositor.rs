//! What the compositor offers to the supervisor, to the broker and to the command line.

use serde::{Deserialize, Serialize};
use zbus::zvariant::{OwnedFd, Type};

use crate::Error;

/// A VM that a prompt offers as target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Type)]
pub struct AskTarget {
    /// VM name or `@dispvm:NAME`.
    pub name: String,
    /// Its label in lower case.
    pub label: String,
}

/// A question that policy puts to the person. All of it comes from the broker, none from a guest unchecked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Type)]
pub struct Question {
    /// The calling VM and its label.
    pub source: AskTarget,
    /// Service without argument.
    pub service: String,
    /// Argument with its leading `+`, or `+`.
    pub argument: String,
    /// What the person may choose from; not empty.
    pub targets: Vec<AskTarget>,
    /// Name of the preselected target, empty for none.
    pub default_target: String,
}

/// What the person chose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Type)]
pub struct Answer {
    /// Whether the call may go on.
    pub allowed: bool,
    /// The chosen target when allowed.
    pub target: String,
    /// Whether calls like this one may go on for a while without a question; how long is the broker's to say.
    pub for_a_while: bool,
}

/// Something a person should see for a few seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Type)]
pub struct Notice {
    /// `info`, `denied` or `failed`.
    pub kind: String,
    /// One line of the host's own words; VM names and services are already checked.
    pub text: String,
}

/// A window as `casemate windows` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Type)]
pub struct WindowInfo {
    /// The VM that it belongs to.
    pub vm: String,
    /// Its id within that VM.
    pub id: u32,
    /// `toplevel`, `popup`.
    pub kind: String,
    /// Sanitised title, without the prefix.
    pub title: String,
    /// Left edge of the content on the output, in pixels.
    pub x: i32,
    /// Top edge of the content.
    pub y: i32,
    /// Width of the content.
    pub width: u32,
    /// Height of the content.
    pub height: u32,
    /// Whether it has the keyboard.
    pub focused: bool,
}

/// The compositor, on `Bus::Compositor`.
#[zbus::proxy(
    interface = "org.casemate.Compositor1",
    default_path = "/org/casemate/Compositor1",
    gen_blocking = false
)]
pub trait Compositor1 {
    /// A VM has started: its name and label as drawn, the compositor's end of its link, and its window memory.
    fn attach_vm(
        &self,
        name: &str,
        label: &str,
        link: OwnedFd,
        window_memory: OwnedFd,
    ) -> Result<(), Error>;
    /// A VM has ended; its windows go.
    fn detach_vm(&self, name: &str) -> Result<(), Error>;
    /// Names of the attached VMs.
    fn attached(&self) -> Result<Vec<String>, Error>;
    /// Shows a prompt and returns when the person has answered; `Busy` when too many are queued.
    fn ask(&self, question: Question) -> Result<Answer, Error>;
    /// Shows a notice.
    fn notify(&self, notice: Notice) -> Result<(), Error>;
    /// Every mapped window, front first.
    fn windows(&self) -> Result<Vec<WindowInfo>, Error>;
    /// What is on the screen now, as a PNG in a memfd.
    fn screenshot(&self) -> Result<OwnedFd, Error>;
    /// Headless backend only: a key of the seat, Linux input code.
    fn inject_key(&self, code: u32, pressed: bool) -> Result<(), Error>;
    /// Headless backend only: moves the pointer to a place on the output.
    fn inject_motion(&self, x: f64, y: f64) -> Result<(), Error>;
    /// Headless backend only: a pointer button, Linux input code (0x110 left).
    fn inject_button(&self, code: u32, pressed: bool) -> Result<(), Error>;
}
