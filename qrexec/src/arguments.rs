//! The command line.

use std::path::PathBuf;

use casemate_vm::VmName;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Judges and connects the calls between VMs. Started by casemated.
#[derive(Debug, Parser)]
#[command(
    version,
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) house: Option<House>,
    #[command(subcommand)]
    pub(crate) mode: Option<Mode>,
}

/// The broker of a Casemate.
#[derive(Debug, Args)]
pub(crate) struct House {
    /// Directory of the sockets of Casemate.
    #[arg(long, value_name = "DIR")]
    pub(crate) runtime: PathBuf,
    /// Directory of policy files, strongest first; may be given several times.
    #[arg(long, value_name = "DIR", required = true)]
    pub(crate) policy: Vec<PathBuf>,
    /// Directory of the audit log.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: PathBuf,
}

/// Without a Casemate around it.
#[derive(Debug, Subcommand)]
pub(crate) enum Mode {
    ServeVchan(ServeVchan),
    CallVchan(CallVchan),
}

/// Serve agents, ours or the reference's, over sockets in a directory; no supervisor, no compositor, no sandbox.
#[derive(Debug, Args)]
pub(crate) struct ServeVchan {
    /// Directory of the vchan sockets; the clients' sockets qrexec.ID and our bus are made there too.
    #[arg(long, value_name = "DIR")]
    pub(crate) vchan_dir: PathBuf,
    /// Directory of policy files, strongest first; may be given several times.
    #[arg(long, value_name = "DIR", required = true)]
    pub(crate) policy_dir: Vec<PathBuf>,
    /// What is known of the VMs, as JSON: an object with "domains".
    #[arg(long, value_name = "FILE")]
    pub(crate) facts: PathBuf,
    /// A VM and its domain number; may be given several times.
    #[arg(long = "vm", value_name = "NAME:ID", required = true, value_parser = vm)]
    pub(crate) vms: Vec<(VmName, u32)>,
    /// How questions of policy are answered.
    #[arg(long, value_enum, default_value_t = Reply::Deny)]
    pub(crate) ask: Reply,
    /// A program that answers them: the question as JSON on stdin, `allow:TARGET`, `allow-for-a-while:TARGET` or `deny` on stdout.
    #[arg(long, value_name = "PROGRAM", conflicts_with = "ask")]
    pub(crate) ask_command: Option<PathBuf>,
    /// Answer questions of policy here, as the reference's policy daemon does.
    #[arg(long, value_name = "PATH")]
    pub(crate) policy_socket: Option<PathBuf>,
    /// Directory of the audit log; the vchan directory when left out.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
}

/// A standing answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Reply {
    /// No.
    Deny,
    /// The target that the rule preselects; no, when it preselects none.
    Default,
}

/// Run a command or a service in a VM as the admin side, with our standard streams.
#[derive(Debug, Args)]
pub(crate) struct CallVchan {
    /// Directory of the vchan sockets, and of the broker's qrexec.NAME.
    #[arg(long, value_name = "DIR")]
    pub(crate) vchan_dir: PathBuf,
    /// The account in the VM.
    #[arg(long, default_value = "DEFAULT")]
    pub(crate) user: String,
    /// COMMAND is a service, SERVICE+ARGUMENT.
    #[arg(long, conflicts_with = "just")]
    pub(crate) service: bool,
    /// Only start it, without streams.
    #[arg(long)]
    pub(crate) just: bool,
    /// Name or number of the VM.
    pub(crate) vm: String,
    /// What to run.
    pub(crate) command: String,
}

fn vm(text: &str) -> Result<(VmName, u32), String> {
    let (name, id) = text
        .split_once(':')
        .ok_or_else(|| format!("'{text}' is not NAME:ID"))?;
    let name = name.parse().map_err(|error| format!("{error}"))?;
    match id.parse() {
        Ok(id) if id > 0 => Ok((name, id)),
        _ => Err(format!("'{id}' is no domain number; 0 is the admin side's")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
        assert!(vm("work:3").is_ok());
        for wrong in ["work", "work:0", "work:x", ":3", "Work Space:3"] {
            assert!(vm(wrong).is_err(), "{wrong}");
        }
        let parse = |words: &[&str]| Arguments::try_parse_from(words);
        assert!(parse(&["q", "--runtime", "a", "--policy", "b", "--state", "c"]).is_ok());
        assert!(parse(&["q", "--runtime", "a"]).is_err());
        assert!(parse(&["q"]).map_or(true, |a| a.house.is_none() && a.mode.is_none()));
        assert!(parse(&["q", "call-vchan", "--vchan-dir", "d", "work", "id"]).is_ok());
    }
}
