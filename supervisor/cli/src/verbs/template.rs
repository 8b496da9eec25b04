//! `casemate template`

use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::fd::OwnedFd,
};

use clap::Subcommand;
use serde::Deserialize;

use crate::{failure::Failure, format, output, progress::Progress, session, terminal};

/// Make templates, which VMs share their root file system with, or list them
#[derive(Debug, Subcommand)]
pub(crate) enum Args {
    /// Build a new revision of a template from its recipe and use it for VMs that start from now on
    Build {
        /// Name of the recipe, such as debian-12
        name: String,
    },
    /// List the templates with their revisions
    Ls {
        /// Write an array of objects: name, current, revisions, kernel, created (seconds since 1970), updates,
        /// updates_told (seconds since 1970, 0 when no VM has said)
        #[arg(long)]
        json: bool,
    },
}

/// A line of a build's progress.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Done {
        revision: u32,
    },
    Failed {
        error: String,
    },
    Phase {
        phase: String,
        fraction: Option<f64>,
    },
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Build { name } => build(&name).await,
            Self::Ls { json } => list(json).await,
        }
    }
}

async fn build(name: &str) -> Result<(), Failure> {
    let stream = session::supervisor().await?.build_template(name).await?;
    let stream = File::from(OwnedFd::from(stream));
    let mut progress = Progress::begin(&format!("building {name}"));
    for line in BufReader::new(stream).lines() {
        let line =
            line.map_err(|error| Failure::failed(format!("lost sight of the build: {error}")))?;
        match serde_json::from_str(&line)? {
            Line::Phase { phase, fraction } => {
                progress.phase(&terminal::printable(&phase), fraction);
            }
            Line::Done { revision } => {
                drop(progress);
                return output::line(&format!("{name} revision {revision}"));
            }
            Line::Failed { error } => return Err(Failure::failed(error)),
        }
    }
    Err(Failure::failed(
        "casemated ended during the build; its log is casemated.log below the state directory",
    ))
}

async fn list(json: bool) -> Result<(), Failure> {
    let templates = session::supervisor().await?.templates().await?;
    if json {
        return output::json(&templates);
    }
    let rows: Vec<_> = templates
        .into_iter()
        .map(|template| {
            let revisions: Vec<String> = template.revisions.iter().map(u32::to_string).collect();
            [
                template.name,
                template.current.to_string(),
                revisions.join(","),
                template.kernel,
                match template.updates_told {
                    0 => "-".to_owned(),
                    _ => template.updates.to_string(),
                },
                format::time(template.created),
            ]
        })
        .collect();
    output::table(
        [
            "NAME",
            "CURRENT",
            "REVISIONS",
            "KERNEL",
            "UPDATES",
            "MADE (UTC)",
        ],
        &rows,
    )
}
