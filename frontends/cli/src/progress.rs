//! How far a long job has come: a bar on a terminal, nothing elsewhere. Lines about single files pass through here so that
//! they and the bar don't overwrite each other.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// The progress of one job, in bytes.
#[derive(Clone)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Starts a bar; `total` in bytes if it is known.
    pub(crate) fn start(quiet: bool, total: Option<u64>) -> Progress {
        let shown = !quiet && std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(total, target);
        bar.set_style(style(total.is_some()));
        Progress { bar }
    }

    /// Whether somebody watches.
    pub(crate) fn is_shown(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// Now the total is known.
    pub(crate) fn set_total(&self, bytes: u64) {
        self.bar.set_length(bytes);
        self.bar.set_style(style(true));
    }

    pub(crate) fn set(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Prints a line on standard error.
    pub(crate) fn note(&self, line: &str) {
        self.bar.suspend(|| crate::failure::say(line));
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

const WITH_TOTAL: &str =
    "{bar:30} {percent:>3}%  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left";
const WITHOUT_TOTAL: &str = "{spinner} {binary_bytes}  {binary_bytes_per_sec}";

fn style(with_total: bool) -> ProgressStyle {
    let template = if with_total { WITH_TOTAL } else { WITHOUT_TOTAL };
    // The templates are fixed, and a test reads them.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_well_formed() {
        for template in [WITH_TOTAL, WITHOUT_TOTAL] {
            ProgressStyle::with_template(template).unwrap();
        }
    }

    #[test]
    fn nothing_shows_when_quiet() {
        let progress = Progress::start(true, Some(3));
        progress.add(1);
        progress.set_total(9);
        progress.finish();
        assert!(!progress.is_shown());
    }
}
