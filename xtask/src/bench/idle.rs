//! Whether the machine has its processors to itself before something is timed.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

const LOOK: Duration = Duration::from_millis(500);
/// Share of idle time below which timings are doubtful.
const QUIET: f64 = 0.93;

/// The share of idle processor time over the next half second; warns on standard error when others are at work.
pub(crate) fn check() -> Result<f64> {
    let before = times()?;
    thread::sleep(LOOK);
    let after = times()?;
    let [idle, all] = [0, 1].map(|index| (after[index] - before[index]) as f64);
    let share = idle / all.max(1.0);
    if share < QUIET {
        eprintln!(
            "  WARNING: the processors are busy ({:.0} % idle): the figures will be worse than they are",
            share * 100.0
        );
    }
    Ok(share)
}

/// Idle and total processor time so far, in ticks (the first line of `/proc/stat`, man 5 proc).
fn times() -> Result<[u64; 2]> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
    Ok([ticks.iter().skip(3).take(2).sum(), ticks.iter().sum()])
}
