//! The figures of the cases as a table for people and as lines of JSON for programs.

use anyhow::Result;
use serde_json::{Value, json};

use super::case::{Case, Failure};
use super::trial::Outcome;
use crate::bench::sample::Sample;

/// The figures of a case over its repetitions, milliseconds and packets.
pub(super) struct Figures {
    case: Case,
    gap: Sample,
    lost: Sample,
    doubted: Sample,
    left: Sample,
    back: Sample,
    measured: u32,
    failed: u32,
    duplicated: u64,
    changes: usize,
}

impl Figures {
    pub(super) fn new(case: &Case) -> Self {
        let [gap, lost, doubted, left, back] = Default::default();
        let case = case.clone();
        Self { case, gap, lost, doubted, left, back, measured: 0, failed: 0, duplicated: 0, changes: 0 }
    }

    /// Repetitions so far, those that failed included.
    pub(super) fn repetitions(&self) -> u32 {
        self.measured + self.failed
    }

    /// Repetitions that failed.
    pub(super) fn failed(&self) -> u32 {
        self.failed
    }

    /// Adds a repetition; says why when it failed.
    pub(super) fn add(&mut self, outcome: Result<Outcome>) {
        let Outcome { gap, lost, duplicated, doubted, left, back, changes } = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                eprintln!("  FAILED: {}: {error:#}", self.case.name);
                self.failed += 1;
                return;
            }
        };
        self.measured += 1;
        self.gap.add(gap);
        self.lost.add(lost as f64);
        for (sample, time) in [(&mut self.doubted, doubted), (&mut self.left, left), (&mut self.back, back)] {
            if let Some(time) = time {
                sample.add(time);
            }
        }
        self.duplicated += duplicated;
        self.changes += changes;
    }

    /// One object. A path that was not left or did not come back in some repetition is missing in that figure: `left`
    /// and `back` say in how many it was.
    pub(super) fn json(&self) -> Value {
        let Self { case, gap, lost, doubted, left, back, measured, failed, duplicated, changes } = self;
        json!({
            "case": case.name,
            "gap_ms_median": gap.known(),
            "gap_ms_max": gap.worst(),
            "lost_median": lost.known(),
            "lost_max": lost.worst(),
            "back_ms_median": back.known(),
            "back_ms_max": back.worst(),
            "back": back.count(),
            "doubted_ms_median": doubted.known(),
            "doubted_ms_max": doubted.worst(),
            "left_ms_median": left.known(),
            "left_ms_max": left.worst(),
            "left": left.count(),
            "reps": measured,
            "failed": failed,
            "paths": case.links,
            "duplicated": duplicated,
            "health_changes": changes,
        })
    }

    /// Prints a row below [`print_header`].
    pub(super) fn print(&self) {
        let Self { case, gap, lost, doubted, left, back, measured, duplicated, changes, .. } = self;
        let [doubted, left, back] = [doubted, left, back].map(|sample| match sample.count() {
            0 => "-".to_owned(),
            _ => format!("{sample:.0}"),
        });
        println!("{:32} {measured:>5} {gap:>23.0} {lost:>18.0} {doubted:>21} {left:>21} {back:>23}", case.name);
        if *duplicated > 0 {
            println!("    {duplicated} packets of the stream arrived more than once");
        }
        if matches!(case.failure, Failure::None) {
            println!("    {changes} changes of a path's health");
        }
    }
}

/// Prints what the rows are.
pub(super) fn print_header() {
    println!("\nA stream over a link that fails: median (smallest to largest), milliseconds and packets");
    println!(
        "{:32} {:>5} {:>23} {:>18} {:>21} {:>21} {:>23}",
        "", "reps", "gap", "lost", "doubted after", "left after", "back after"
    );
}
