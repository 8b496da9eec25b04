//! `casemate screenshot`

use std::{
    fs::File,
    io::{self, Seek, stdout},
    os::fd::OwnedFd,
    path::PathBuf,
};

use crate::{failure::Failure, session};

/// Save what is on the screen as a PNG
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to; `-` is stdout
    file: PathBuf,
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let picture = session::compositor().await?.screenshot().await?;
        let mut picture = File::from(OwnedFd::from(picture));
        let copied = picture.rewind().and_then(|()| {
            if self.file.as_os_str() == "-" {
                io::copy(&mut picture, &mut stdout().lock())
            } else {
                io::copy(&mut picture, &mut File::create(&self.file)?)
            }
        });
        copied.map(drop).map_err(|error| {
            Failure::failed(format!("cannot write {}: {error}", self.file.display()))
        })
    }
}
