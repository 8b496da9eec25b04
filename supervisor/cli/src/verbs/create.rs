//! `casemate create`

use casemate_api::NewVm;
use casemate_vm::{Label, Mebibytes, Tag};

use crate::{failure::Failure, format::parse_size, session};

/// Define a VM and make its private volume; it is not started
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the new VM
    name: String,
    /// The template that it starts from; `casemate template ls` lists them
    #[arg(long, short)]
    template: String,
    /// The colour of its windows: red, orange, yellow, green, gray, blue, purple or black
    #[arg(long, short)]
    label: Label,
    /// Memory, such as 512M or 2G
    #[arg(long, short, value_parser = parse_size)]
    memory: Option<Mebibytes>,
    /// Number of virtual CPUs
    #[arg(long)]
    vcpus: Option<u8>,
    /// Size of the private volume, which holds /home
    #[arg(long, value_parser = parse_size)]
    private: Option<Mebibytes>,
    /// Give it a sound card: it plays, and records when `casemate recording grant` lets it
    #[arg(long)]
    audio: bool,
    /// A word by which policy may call it, as in @tag:WORD; may be given again
    #[arg(long = "tag", value_name = "WORD")]
    tags: Vec<Tag>,
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let vm = NewVm {
            name: self.name,
            template: self.template,
            label: self.label.to_string(),
            memory_mib: self.memory.map_or(0, |size| size.0),
            vcpus: self.vcpus.unwrap_or(0),
            private_mib: self.private.map_or(0, |size| size.0),
            audio: self.audio,
            tags: self.tags.into_iter().map(String::from).collect(),
        };
        Ok(session::supervisor().await?.create(vm).await?)
    }
}
