//! `casemate windows`

use crate::{failure::Failure, output, session};

/// List the windows on the screen, front first
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write an array of objects: vm, id, kind, title, x, y, width, height, focused
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let windows = session::compositor().await?.windows().await?;
        if self.json {
            return output::json(&windows);
        }
        let rows: Vec<_> = windows
            .into_iter()
            .map(|window| {
                [
                    window.vm,
                    if window.focused { "*" } else { "" }.to_owned(),
                    window.kind,
                    format!(
                        "{}x{}+{}+{}",
                        window.width, window.height, window.x, window.y
                    ),
                    window.title,
                ]
            })
            .collect();
        output::table(["VM", "FOCUS", "KIND", "PLACE", "TITLE"], &rows)
    }
}
