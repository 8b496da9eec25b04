//! `casemate tag`

use std::collections::BTreeMap;

use casemate_vm::Tag;
use clap::Subcommand;

use crate::{failure::Failure, failure::Kind, output, session};

/// Tag VMs, so that policy can speak of several at once by @tag:WORD
///
/// A change counts from the next call on, also for VMs that run. The tags of a template, which its disposables share,
/// stand in casemate.toml: [template.debian-12] tags = ["WORD"].
#[derive(Debug, Subcommand)]
pub(crate) enum Args {
    /// Put tags on a VM; prints those that it then has
    Add {
        vm: String,
        #[arg(required = true, value_name = "TAG")]
        tags: Vec<Tag>,
    },
    /// Take tags off a VM; prints those that it then has
    Remove {
        vm: String,
        #[arg(required = true, value_name = "TAG")]
        tags: Vec<Tag>,
    },
    /// List the VMs with their tags, or the tags of one VM
    Ls {
        vm: Option<String>,
        /// Write an object that maps each VM to an array of its tags
        #[arg(long)]
        json: bool,
    },
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Add { vm, tags } => change(&vm, &tags, &[]).await,
            Self::Remove { vm, tags } => change(&vm, &[], &tags).await,
            Self::Ls { vm, json } => list(vm.as_deref(), json).await,
        }
    }
}

async fn change(vm: &str, add: &[Tag], remove: &[Tag]) -> Result<(), Failure> {
    let words = |tags: &'_ [Tag]| tags.iter().map(Tag::to_string).collect::<Vec<_>>();
    let (add, remove) = (words(add), words(remove));
    let add: Vec<&str> = add.iter().map(String::as_str).collect();
    let remove: Vec<&str> = remove.iter().map(String::as_str).collect();
    let now = session::supervisor().await?.tag(vm, &add, &remove).await?;
    output::line(&now.join(" "))
}

async fn list(vm: Option<&str>, json: bool) -> Result<(), Failure> {
    let all = session::supervisor().await?.list().await?.into_iter();
    let tags: BTreeMap<String, Vec<String>> = all
        .filter(|info| vm.is_none_or(|vm| info.name == vm))
        .map(|info| (info.name, info.tags))
        .collect();
    if let (Some(vm), true) = (vm, tags.is_empty()) {
        let text = format!("there is no VM '{vm}'; `casemate ls` lists those that exist");
        return Err(Failure::new(Kind::NotFound, text));
    }
    if json {
        return output::json(&tags);
    }
    let rows: Vec<[String; 2]> = tags
        .into_iter()
        .map(|(name, tags)| [name, tags.join(" ")])
        .collect();
    output::table(["NAME", "TAGS"], &rows)
}
