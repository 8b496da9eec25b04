//! `casemate ls`

use casemate_api::VmInfo;
use serde::Serialize;

use crate::{failure::Failure, output, session, terminal};

/// List VMs with their states
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only those that run
    #[arg(long)]
    running: bool,
    /// Write an array of objects: name, kind, state, label, template, revision, id, pid, memory_mib, vcpus, tags, audio,
    /// recording, problem
    #[arg(long)]
    json: bool,
}

/// A VM in JSON. These keys are a promise; what the bus calls things may change.
#[derive(Debug, Serialize)]
pub(super) struct Vm {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) state: String,
    pub(super) label: String,
    pub(super) template: String,
    pub(super) revision: u32,
    pub(super) id: u32,
    pub(super) pid: u32,
    pub(super) memory_mib: u32,
    pub(super) vcpus: u8,
    pub(super) tags: Vec<String>,
    pub(super) audio: bool,
    pub(super) recording: bool,
    pub(super) problem: String,
}

impl From<VmInfo> for Vm {
    fn from(vm: VmInfo) -> Self {
        Self {
            name: vm.name,
            kind: vm.kind,
            state: vm.state,
            label: vm.label,
            template: vm.template,
            revision: vm.revision,
            id: vm.id,
            pid: vm.pid,
            memory_mib: vm.memory_mib,
            vcpus: vm.vcpus,
            tags: vm.tags,
            audio: vm.audio,
            recording: vm.recording,
            problem: vm.problem,
        }
    }
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let list = session::supervisor().await?.list().await?;
        let vms: Vec<Vm> = list
            .into_iter()
            .filter(|vm| !self.running || vm.pid != 0)
            .map(Vm::from)
            .collect();
        if self.json {
            return output::json(&vms);
        }
        for vm in vms.iter().filter(|vm| !vm.problem.is_empty()) {
            eprintln!("{}: {}", vm.name, terminal::printable(&vm.problem));
        }
        let rows: Vec<_> = vms
            .into_iter()
            .map(|vm| [vm.name, vm.state, vm.label, vm.template, vm.kind])
            .collect();
        output::table(["NAME", "STATE", "LABEL", "TEMPLATE", "KIND"], &rows)
    }
}
