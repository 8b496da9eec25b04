//! `casemate input`

use clap::{Subcommand, ValueEnum};

use crate::{failure::Failure, session};

/// Press keys and move the pointer, for tests and demonstrations; only a headless compositor takes it
///
/// Codes are Linux input codes, as in linux/input-event-codes.h.
#[derive(Debug, Subcommand)]
pub(crate) enum Args {
    /// Press a key or let it go
    Key { code: u32, state: State },
    /// Move the pointer to a place on the output, in pixels from the left and from the top
    Motion { x: f64, y: f64 },
    /// Press a button of the pointer or let it go; 272 is the left one
    Button { code: u32, state: State },
}

/// What becomes of a key or a button.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    Down,
    Up,
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let compositor = session::compositor().await?;
        match self {
            Self::Key { code, state } => compositor.inject_key(code, state == State::Down).await?,
            Self::Motion { x, y } => compositor.inject_motion(x, y).await?,
            Self::Button { code, state } => {
                compositor.inject_button(code, state == State::Down).await?;
            }
        }
        Ok(())
    }
}
