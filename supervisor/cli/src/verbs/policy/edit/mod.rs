//! `casemate policy edit`: a text is changed beside the rules that hold, and takes their place only as a whole.

mod changes;
mod draft;
mod review;
mod tty;

use std::process::ExitCode;

use crate::{
    failure::{Failure, Kind},
    output,
    verbs::policy::{
        edit::{
            draft::Drafts,
            review::Review,
            tty::{Reply, Tty},
        },
        rules::Sources,
    },
};

/// Change rules with an editor; they hold only when they can be read and you have seen what they decide otherwise
///
/// The editor ($VISUAL, else $EDITOR, else vi) is given copies. Then the whole policy is checked, and every call between
/// all VMs, of every service that is named before or after, is judged by the old text and by the new one; what differs
/// is shown. Only then are the files replaced, each at once. With several directories it is the first one that is
/// edited, which is your own when none is named. Exit code 0 when replaced or unchanged, 1 when there are errors or a
/// file was changed by somebody else meanwhile, 6 when you said no.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Files of the directory, as in 30-own.policy; a new name makes a file [default: all *.policy files]
    #[arg(value_name = "FILE")]
    files: Vec<String>,
    #[command(flatten)]
    sources: Sources,
    /// Replace without asking, unless there are errors
    #[arg(long)]
    yes: bool,
    /// Write an object at the end: files, errors, warnings, changes (source, service, argument, target, old, new; null
    /// without facts), replaced
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let directories = self.sources.directories();
        let mut drafts = Drafts::new(&directories, &self.files)?;
        let before = self.sources.read()?;
        // Somebody whose policy is broken must be able to mend it, whatever else does not work.
        let facts = match self.sources.facts().await {
            Ok(facts) => Some(facts),
            Err(failure) if self.sources.named() => return Err(failure),
            Err(failure) => {
                eprintln!("casemate: decisions cannot be compared: {failure}");
                None
            }
        };
        let mut tty = Tty::new()?;
        loop {
            tty.edit(drafts.copies(), self.json)?;
            let texts = drafts.texts()?;
            let after = self.sources.read_with(texts)?;
            let review = Review::new(&drafts, &before, &after, facts.as_ref());
            if !self.json {
                review.show()?;
            }
            let reply = if !drafts.are_changed() {
                eprintln!("casemate: nothing was changed");
                Reply::No
            } else if self.yes {
                match review.is_readable() {
                    true => Reply::Yes,
                    false => Reply::No,
                }
            } else if review.is_readable() {
                tty.ask("Replace the files? [y]es, [e]dit again, [n]o:", true)
                    .await?
            } else {
                tty.ask("The files cannot be replaced. [e]dit again, [n]o:", false)
                    .await?
            };
            match reply {
                Reply::Again => continue,
                Reply::Yes => drafts.replace()?,
                Reply::No => {}
            }
            if self.json {
                output::json(&review.report(reply == Reply::Yes))?;
            }
            return match reply {
                Reply::No if !drafts.are_changed() => Ok(ExitCode::SUCCESS),
                Reply::No if self.yes => {
                    Err(Failure::failed("the text has errors, nothing was replaced"))
                }
                Reply::No => Err(Failure::new(Kind::Refused, "nothing was replaced")),
                Reply::Yes | Reply::Again => Ok(ExitCode::SUCCESS),
            };
        }
    }
}
