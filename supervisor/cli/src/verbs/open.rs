//! `casemate open`

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{
    program_code,
    run::{Printer, quiet_progress},
};
use crate::{
    call::{self, Output},
    failure::{Failure, Kind},
    filecopy::{self, Answer},
    session,
};

/// The VM shows the file and gives nothing back: the host takes no files from VMs.
const SERVICE: &str = "qubes.OpenInVM+view-only";

/// Show a file of this machine in a VM, and wait until its window is closed
///
/// `casemate open --disposable FILE` or `casemate open NAME FILE`. The VM gets a copy; changes to it do not come back.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "casemate open --disposable[=TEMPLATE] FILE\n       casemate open NAME FILE"
)]
pub(crate) struct Args {
    /// The VM and the file, or the file alone with --disposable
    #[arg(required = true, num_args = 1..=2, value_names = ["NAME", "FILE"])]
    words: Vec<PathBuf>,
    /// Show it in a fresh disposable, which goes with its window; of this template when one is named
    #[arg(long, value_name = "TEMPLATE", num_args = 0..=1, require_equals = true)]
    disposable: Option<Option<String>>,
}

impl Args {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let (name, path) = match (self.words.as_slice(), &self.disposable) {
            ([path], Some(_)) => (None, path),
            ([name, path], None) => (Some(name.to_string_lossy()), path),
            ([_], None) => {
                return Err(Failure::usage(
                    "name a VM before the file, or say --disposable",
                ));
            }
            _ => return Err(Failure::usage("name either a VM or --disposable")),
        };
        // Before anything is started: a mistyped name costs no VM.
        let mut file = open(path)?;
        let shown = path.file_name().unwrap_or_default().to_string_lossy();
        let sent_name = filecopy::safe_name(&shown);
        let supervisor = session::supervisor()
            .await
            .map_err(Failure::before_program)?;
        let call = call::make(async || {
            let _progress = quiet_progress(&format!("opening {sent_name}"));
            let stream = match &name {
                Some(name) => supervisor.call_service(name, "", SERVICE).await,
                None => {
                    let template = self.disposable.as_ref().and_then(Option::as_deref);
                    let called = supervisor.call_disposable(template.unwrap_or_default(), SERVICE);
                    called.await.map(|(_, stream)| stream)
                }
            };
            Ok(stream?.into())
        })
        .await
        .map_err(Failure::before_program)?;
        let mut answer = Answer::default();
        let mut printer = Printer::new();
        let feed = move |mut input: call::Input| {
            // A receiver that goes early says why in its answer; a file that cannot be read ends the stream early, which
            // the receiver refuses.
            if let Err(error) = filecopy::send(&mut file, &sent_name, &mut input)
                && error.kind() != std::io::ErrorKind::BrokenPipe
            {
                eprintln!("casemate: the file was not sent whole: {error}");
            }
        };
        let code = call::run(call, feed, |output, bytes| match output {
            Output::Stdout => {
                answer.push(bytes);
                Ok(())
            }
            Output::Stderr => printer.print(output, bytes),
        })?;
        match answer.refusal() {
            Some(error) => Err(Failure::new(
                Kind::Before,
                format!("the VM did not take {shown}: {error}"),
            )),
            None => Ok(program_code(code)),
        }
    }
}

fn open(path: &Path) -> Result<File, Failure> {
    let wrong = |kind, what: &dyn std::fmt::Display| {
        Failure::new(kind, format!("cannot open {}: {what}", path.display()))
    };
    let file = File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => wrong(Kind::NotFound, &error),
        _ => wrong(Kind::Failed, &error),
    })?;
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(file),
        Ok(_) => Err(wrong(Kind::Usage, &"it is not a regular file")),
        Err(error) => Err(wrong(Kind::Failed, &error)),
    }
}
