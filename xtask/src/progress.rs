//! Steps and how long they take: a spinner on a terminal, plain lines elsewhere, all on standard error.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A step that is under way. Dropped before [`Step::done`], it has failed and says so.
pub(crate) struct Step {
    name: &'static str,
    started: Instant,
    spinner: Option<ProgressBar>,
    outcome: Cell<Outcome>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Pending,
    Done,
}

impl Step {
    /// Begins a step.
    pub(crate) fn start(name: &'static str) -> Self {
        let spinner = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("  {spinner} {prefix}: {wide_msg} {elapsed}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            let spinner = ProgressBar::new_spinner().with_style(style).with_prefix(name);
            spinner.enable_steady_tick(Duration::from_millis(100));
            spinner
        });
        Self { name, started: Instant::now(), spinner, outcome: Cell::new(Outcome::Pending) }
    }

    /// Says what the step is doing now: worth a line of its own.
    pub(crate) fn note(&self, text: &str) {
        match &self.spinner {
            Some(spinner) => spinner.suspend(|| eprintln!("  .. {}: {text}", self.name)),
            None => eprintln!("  .. {}: {text}", self.name),
        }
    }

    /// Shows passing news, such as a line of a command's output, beside the spinner only.
    pub(crate) fn tick(&self, text: &str) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(text.trim().to_owned());
        }
    }

    /// Ends the step well, with what came of it.
    pub(crate) fn done(self, result: &str) {
        self.outcome.set(Outcome::Done);
        self.finish("ok", result);
    }

    fn finish(&self, verdict: &str, result: &str) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
        eprintln!("  {verdict} {}: {result} ({})", self.name, duration(self.started.elapsed()));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if self.outcome.get() == Outcome::Pending {
            self.finish("FAILED", "see below");
        }
    }
}

/// A duration as a person reads it: `12 ms`, `3.4 s`, `2 min 05 s`.
pub(crate) fn duration(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        1..120 => format!("{:.1} s", time.as_secs_f64()),
        seconds => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}
