//! What the supervisor offers to the command line and to the broker.

use serde::{Deserialize, Serialize};
use zbus::zvariant::{OwnedFd, Type};

use crate::Error;

/// A VM as `casemate ls` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Type)]
pub struct VmInfo {
    /// Its name.
    pub name: String,
    /// `app` or `disposable`.
    pub kind: String,
    /// A `VmState` in lower case.
    pub state: String,
    /// A `Label` in lower case.
    pub label: String,
    /// Its template.
    pub template: String,
    /// The template revision that it runs from, 0 when halted.
    pub revision: u32,
    /// CID and domain number, 0 when halted.
    pub id: u32,
    /// Process id of its vmm, 0 when halted.
    pub pid: u32,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Its tags, sorted.
    pub tags: Vec<String>,
    /// Whether it has a sound card.
    pub audio: bool,
    /// Whether it may record now.
    pub recording: bool,
    /// Why it crashed or did not start, empty otherwise.
    pub problem: String,
}

/// A VM to be created. Zero means the default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Type)]
pub struct NewVm {
    /// Its name.
    pub name: String,
    /// Its template.
    pub template: String,
    /// A `Label` in lower case.
    pub label: String,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Size of the private volume in MiB.
    pub private_mib: u32,
    /// Its tags.
    pub tags: Vec<String>,
    /// Whether it has a sound card.
    pub audio: bool,
}

/// What stands between VMs and being heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Type)]
pub struct SoundInfo {
    /// Whether the mixer runs. It is started with the first VM that has sound.
    pub mixer: bool,
    /// Why VMs are silent: the mixer does not start, or it said last that there is no PipeWire. Empty when nothing of that
    /// is known.
    pub problem: String,
}

/// A template and its current revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Type)]
pub struct TemplateInfo {
    /// Its name.
    pub name: String,
    /// The revision that new starts use.
    pub current: u32,
    /// Every revision on disk, ascending.
    pub revisions: Vec<u32>,
    /// Kernel version of the current revision.
    pub kernel: String,
    /// When the current revision was made, seconds since 1970.
    pub created: u64,
    /// Packages that could be updated, as a VM of the current revision said last.
    pub updates: u32,
    /// When that was said, seconds since 1970; 0 when never.
    pub updates_told: u64,
}

/// The supervisor, on `Bus::Supervisor`.
#[zbus::proxy(
    interface = "org.casemate.Supervisor1",
    default_path = "/org/casemate/Supervisor1",
    gen_blocking = false
)]
pub trait Supervisor1 {
    /// Every VM, sorted by name.
    fn list(&self) -> Result<Vec<VmInfo>, Error>;
    /// A VM says how many packages of its template could be updated. One whose template has a newer revision by now is not
    /// heard.
    fn note_updates(&self, vm: &str, count: u32) -> Result<(), Error>;
    /// Every template, sorted by name.
    fn templates(&self) -> Result<Vec<TemplateInfo>, Error>;
    /// Defines an app VM and makes its private volume; all or nothing.
    fn create(&self, vm: NewVm) -> Result<(), Error>;
    /// Deletes a halted VM and its private volume.
    fn remove(&self, name: &str) -> Result<(), Error>;
    /// Puts tags on an app VM and takes others off, in its definition; policy knows at the next call. A tag that is
    /// there already, or is not there to be taken off, is no error. Returns the tags that it then has.
    fn tag(&self, name: &str, add: &[&str], remove: &[&str]) -> Result<Vec<String>, Error>;
    /// Starts a VM and returns when its agent has reported, at once when it is running.
    fn start(&self, name: &str) -> Result<(), Error>;
    /// Powers a VM off and returns when it is halted; kills it after `timeout_s` seconds.
    fn shutdown(&self, name: &str, timeout_s: u32) -> Result<(), Error>;
    /// Ends a VM at once.
    fn kill(&self, name: &str) -> Result<(), Error>;
    /// Makes and starts a disposable for `for_vm` (empty: for the person at the host) from `template`
    /// (empty: the default), returns its name when its agent has reported.
    fn create_disposable(&self, for_vm: &str, template: &str) -> Result<String, Error>;
    /// Ends and deletes a disposable; an error for anything else.
    fn destroy_disposable(&self, name: &str) -> Result<(), Error>;
    /// Runs a command line in a VM as `user` (empty: the VM's default user), starting the VM when needed.
    /// Returns the admin end of a qrexec data stream (frames of the qrexec wire, this side is the client).
    fn run_command(&self, name: &str, user: &str, command: &str) -> Result<OwnedFd, Error>;
    /// Calls an RPC service in a VM, as the admin domain, starting the VM when needed. Stream as in `run_command`.
    fn call_service(&self, name: &str, user: &str, service: &str) -> Result<OwnedFd, Error>;
    /// Calls an RPC service in a fresh disposable (template empty: the default), which is destroyed when the call
    /// ends or the stream is closed. Returns the disposable's name and the stream.
    fn call_disposable(&self, template: &str, service: &str) -> Result<(String, OwnedFd), Error>;
    /// Lets a running VM that has sound record, until that is taken back, or the VM, the mixer or the supervisor ends. A VM
    /// that may already goes on.
    fn grant_recording(&self, name: &str) -> Result<(), Error>;
    /// Takes that back; when it returns nothing more is recorded. No error when the VM does not record.
    fn revoke_recording(&self, name: &str) -> Result<(), Error>;
    /// How it is about sound.
    fn sound(&self) -> Result<SoundInfo, Error>;
    /// A read-only descriptor of the VM's console ring log.
    fn log(&self, name: &str) -> Result<OwnedFd, Error>;
    /// Builds a new revision of a template. The descriptor delivers progress as JSON lines:
    /// `{"phase":TEXT,"fraction":0.0..1.0|null}`, at the end `{"revision":N}` or `{"error":TEXT}`.
    fn build_template(&self, recipe: &str) -> Result<OwnedFd, Error>;
    /// Facts for policy evaluation: JSON in the shape `{"domains":{NAME:{"type","tags","default_dispvm",
    /// "template_for_dispvms","power_state","uuid","internal"}}}`.
    fn facts(&self) -> Result<String, Error>;
    /// The label of a VM in lower case (for prompts).
    fn label(&self, name: &str) -> Result<String, Error>;
}
