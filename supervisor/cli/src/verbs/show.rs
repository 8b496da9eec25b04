//! `casemate show`

use serde::Serialize;

use super::ls::Vm;
use crate::{
    failure::{Failure, Kind},
    output, session,
};

/// Show everything about one VM
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    name: String,
    /// Write an object with "version": 1 and the keys of `ls --json`
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document {
    version: u32,
    #[serde(flatten)]
    vm: Vm,
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let list = session::supervisor().await?.list().await?;
        let vm = list.into_iter().find(|vm| vm.name == self.name);
        let vm = Vm::from(vm.ok_or_else(|| {
            Failure::new(
                Kind::NotFound,
                format!(
                    "there is no VM '{}'; `casemate ls` lists those that exist",
                    self.name
                ),
            )
        })?);
        if self.json {
            return output::json(&Document { version: 1, vm });
        }
        let running = |number: u32| {
            if number == 0 {
                "-".to_owned()
            } else {
                number.to_string()
            }
        };
        let mut rows = vec![
            ["name".to_owned(), vm.name],
            ["state".to_owned(), vm.state],
            ["label".to_owned(), vm.label],
            ["kind".to_owned(), vm.kind],
            ["template".to_owned(), vm.template],
            ["revision".to_owned(), running(vm.revision)],
            ["memory".to_owned(), format!("{} MiB", vm.memory_mib)],
            ["vcpus".to_owned(), vm.vcpus.to_string()],
            [
                "tags".to_owned(),
                if vm.tags.is_empty() {
                    "-".to_owned()
                } else {
                    vm.tags.join(" ")
                },
            ],
            [
                "sound".to_owned(),
                match (vm.audio, vm.recording) {
                    (false, _) => "-",
                    (true, false) => "plays",
                    (true, true) => "plays and records",
                }
                .to_owned(),
            ],
            ["id".to_owned(), running(vm.id)],
            ["vmm process".to_owned(), running(vm.pid)],
        ];
        if !vm.problem.is_empty() {
            rows.push(["problem".to_owned(), vm.problem]);
        }
        output::table(["", ""], &rows)
    }
}
