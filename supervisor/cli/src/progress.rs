//! Telling a person on stderr that something is going on: a moving line on a terminal, plain lines elsewhere.

use std::{
    io::{IsTerminal, stderr},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

/// Something that takes a while; the line goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    last: String,
}

impl Progress {
    pub(crate) fn begin(what: &str) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(1000);
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        let mut progress = Self {
            bar,
            last: String::new(),
        };
        progress.phase(what, None);
        progress
    }

    /// Says what is being done, and how much of the whole is done when that is known.
    pub(crate) fn phase(&mut self, what: &str, fraction: Option<f64>) {
        let Some(bar) = &self.bar else {
            if self.last != what {
                eprintln!("{what}");
                what.clone_into(&mut self.last);
            }
            return;
        };
        let template = match fraction {
            Some(_) => "{spinner} [{bar:30}] {percent:>3}% {wide_msg}",
            None => "{spinner} {elapsed:>3} {wide_msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        if let Some(fraction) = fraction {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "clamped to 0..=1000"
            )]
            bar.set_position((fraction * 1000.0).clamp(0.0, 1000.0) as u64);
        }
        bar.set_message(what.to_owned());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
