//! What came of it: the table at the end, the line of JSON, and what did not work.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use serde::Serialize;

use super::meter::Figures;

/// The part of the links' sum that the tunnel is meant to carry.
const GOAL: f64 = 0.9;
/// How far shares may be from the weights, in points of a hundred.
const SHARE_POINTS: f64 = 5.0;

/// All results. Rates are Mbit/s of payload.
#[derive(Serialize)]
pub(crate) struct Report {
    /// What the links could carry together.
    sum_mbps: f64,
    /// What the best single link carried.
    best_mbps: f64,
    /// What the tunnel over all links carried.
    tunnel_mbps: f64,
    /// `tunnel_mbps / sum_mbps`.
    ratio_sum: f64,
    paths: Vec<PathReport>,
    /// The UDP stream's longest silence while its link was cut and healed, milliseconds.
    cut_gap_ms: f64,
    #[serde(skip)]
    faults: Vec<String>,
}

#[derive(Serialize)]
struct PathReport {
    name: String,
    weight: u32,
    /// Part of the tunnel's payload, 0 to 1.
    share: f64,
    mbps: f64,
    #[serde(skip)]
    due_share: f64,
    /// What the link can carry.
    #[serde(skip)]
    capacity_mbps: f64,
    /// What the link carried alone.
    #[serde(skip)]
    single_mbps: f64,
}

/// What one link can carry, and carried alone.
#[derive(Clone, Copy)]
pub(crate) struct Single {
    /// By arithmetic, Mbit/s of payload.
    pub(crate) capacity_mbps: f64,
    /// Measured, Mbit/s of payload.
    pub(crate) alone_mbps: f64,
}

impl Report {
    /// Joins the results; `figures` are those of all links under load, `singles` in the same order.
    pub(crate) fn new(singles: &[Single], figures: &Figures, tunnel_mbps: f64, cut_gap_ms: f64) -> Self {
        let sum: f64 = singles.iter().map(|single| single.capacity_mbps).sum();
        let best = singles.iter().map(|single| single.alone_mbps).fold(0.0, f64::max);
        let paths = figures.paths.iter().zip(singles).map(|(path, single)| PathReport {
            name: path.name.clone(),
            weight: path.weight,
            share: rounded(path.share),
            mbps: rounded(path.mbps),
            due_share: path.due_share,
            capacity_mbps: single.capacity_mbps,
            single_mbps: single.alone_mbps,
        });
        let mut report = Self {
            sum_mbps: rounded(sum),
            best_mbps: rounded(best),
            tunnel_mbps: rounded(tunnel_mbps),
            ratio_sum: rounded(tunnel_mbps / sum),
            paths: paths.collect(),
            cut_gap_ms: rounded(cut_gap_ms),
            faults: Vec::new(),
        };
        report.check(tunnel_mbps > best, || {
            format!("the tunnel carried {tunnel_mbps:.2} Mbit/s, no more than the best single link: {best:.2}")
        });
        report.check(tunnel_mbps >= GOAL * sum, || {
            format!(
                "the tunnel carried {:.1} % of the links' sum, less than {:.0} %",
                tunnel_mbps / sum * 100.0,
                GOAL * 100.0
            )
        });
        let deviation = figures.largest_deviation();
        report.check(deviation <= SHARE_POINTS, || {
            format!("a share is {deviation:.1} points from its weight, more than {SHARE_POINTS}")
        });
        report
    }

    /// Notes a fault unless it went well.
    pub(crate) fn check(&mut self, is_good: bool, fault: impl FnOnce() -> String) {
        if !is_good {
            self.faults.push(fault());
        }
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut text = String::from(
            "path         weight    due  share   carried   capacity    alone\n\
             ------------------------------------------------------------------\n",
        );
        for path in &self.paths {
            let PathReport { name, weight, share, mbps, due_share, capacity_mbps, single_mbps } = path;
            let _ = writeln!(
                text,
                "{name:<12} {weight:>6} {:5.1} % {:4.1} % {mbps:9.2} {capacity_mbps:10.2} {single_mbps:8.2}",
                due_share * 100.0,
                share * 100.0
            );
        }
        let Self { sum_mbps, best_mbps, tunnel_mbps, ratio_sum, cut_gap_ms, .. } = self;
        let percent = ratio_sum * 100.0;
        let factor = tunnel_mbps / best_mbps.max(f64::MIN_POSITIVE);
        let _ = write!(
            text,
            "------------------------------------------------------------------\n\
             sum of the links    {sum_mbps:6.2} Mbit/s of payload\n\
             best single link    {best_mbps:6.2} Mbit/s\n\
             the tunnel carried  {tunnel_mbps:6.2} Mbit/s: {percent:.1} % of the sum, {factor:.2} x the best link\n\
             longest silence of the UDP stream while its link was cut: {cut_gap_ms:.0} ms"
        );
        text
    }

    /// The object of `--json`, in one line.
    pub(crate) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string(self)?)
    }

    /// Fails with all faults.
    pub(crate) fn verdict(&self) -> Result<()> {
        if self.faults.is_empty() { Ok(()) } else { bail!("the demo did not work:\n- {}", self.faults.join("\n- ")) }
    }
}

/// To three decimals: more is noise.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
