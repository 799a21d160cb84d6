//! What the runs of one profile, flow and class come to.

use multipath_tests::Profile;
use serde_json::{Map, Value, json};

use super::flow::Flow;
use super::scene::Class;
use super::series::{Series, percentile};
use super::trial::Outcome;
use crate::bench::sample::Sample;

/// Second from which a flow counts that has its class from the start, and a flow over a single link.
const START_UP: f64 = 3.0;
/// Windows in which an automatic flow must not be slow, seconds, and from when on they are looked at.
const WINDOW: f64 = 2.0;
const FIRST_WINDOW: f64 = 2.0;
/// Part of the final rate that a flow has to reach soon, and part that counts as having settled.
const NEARLY: f64 = 0.8;
const SETTLED: f64 = 0.9;
/// Part of the bytes from which on a path is one in use.
const IN_USE: f64 = 0.01;

/// Figures of one profile, flow and class over all repetitions.
pub(super) struct Case {
    pub(super) profile: Profile,
    pub(super) flow: Flow,
    pub(super) class: Class,
    /// How long the bond's flow runs, seconds.
    pub(super) seconds: u32,
    /// Goodput over each link alone, Mbit/s.
    singles: Vec<Sample>,
    /// Idle round trip of each link alone, milliseconds.
    idle: Vec<Sample>,
    /// Goodput over the bond, Mbit/s.
    bond: Sample,
    /// Part of each link in the bytes that arrived.
    shares: Vec<Sample>,
    /// All else that is said of the bond's runs, by name.
    others: Vec<(&'static str, Sample)>,
    /// The bond's runs, each with its goodput in Mbit/s.
    runs: Vec<(f64, Outcome)>,
    failed: u32,
}

impl Case {
    pub(super) fn new(profile: &Profile, flow: Flow, class: Class, seconds: u32) -> Self {
        let none = vec![Sample::default(); profile.links.len()];
        Self {
            profile: profile.clone(),
            flow,
            class,
            seconds,
            singles: none.clone(),
            idle: none.clone(),
            bond: Sample::default(),
            shares: none,
            others: Vec::new(),
            runs: Vec::new(),
            failed: 0,
        }
    }

    /// `ref_equal_rate, tcp-cubic, auto`.
    pub(super) fn name(&self) -> String {
        format!("{}, {}, {}", self.profile.name, self.flow.name(), self.class.name())
    }

    /// Adds a run over one link alone; its goodput, Mbit/s.
    pub(super) fn add_single(&mut self, link: usize, seconds: u32, outcome: &Outcome) -> f64 {
        let mbps = outcome.flow.received.mean(START_UP, seconds.into());
        self.singles[link].add(mbps);
        self.idle[link].add(outcome.ping_idle_ms);
        mbps
    }

    /// Adds a run over the bond; its goodput, Mbit/s.
    pub(super) fn add_bond(&mut self, outcome: Outcome) -> f64 {
        let window @ (start, end) = self.counted();
        let received = &outcome.flow.received;
        let mbps = received.mean(start, end);
        self.bond.add(mbps);
        let carried: Vec<f64> = outcome.paths.iter().map(|path| path.mean(start, end)).collect();
        for (share, own) in self.shares.iter_mut().zip(&carried) {
            share.add(own / carried.iter().sum::<f64>().max(f64::MIN_POSITIVE));
        }
        // One way only was measured of a stream: the way back is an idle one.
        let back = if self.flow == Flow::Udp { outcome.ping_idle_ms / 2.0 } else { 0.0 };
        let loaded = |share| percentile(&outcome.flow.rtts, window, share).map(|ms| ms + back);
        let slowest = received.smallest_mean(FIRST_WINDOW, end, WINDOW);
        let figures = [
            ("reordered", Some(outcome.flow.reordered as f64)),
            ("retransmits", Some(outcome.flow.retransmits as f64)),
            ("timeouts", Some(outcome.flow.timeouts as f64)),
            ("rtt_loaded_ms_p50", loaded(0.5)),
            ("rtt_loaded_ms_p95", loaded(0.95)),
            ("cv_1s", Some(received.variation(start, end))),
            ("reached_80_s", received.reaches(NEARLY * mbps)),
            ("settled_s", received.stays_above(SETTLED * mbps, end)),
            ("window_min_mbps", slowest.map(|(_, mbps)| mbps)),
            ("window_min_at_s", slowest.map(|(at, _)| at)),
            ("late_share", outcome.flow.late_share),
            ("lost_share", outcome.flow.lost_share),
            ("ping_idle_ms", Some(outcome.ping_idle_ms)),
            ("ping_ms_p50", percentile(&outcome.pings, window, 0.5)),
            ("ping_ms_p95", percentile(&outcome.pings, window, 0.95)),
            ("links_mbps", Some(outcome.sent.mean(start, end))),
        ];
        for (name, value) in figures {
            let Some(value) = value else { continue };
            match self.others.iter_mut().find(|(own, _)| *own == name) {
                Some((_, sample)) => sample.add(value),
                None => self.others.push((name, [value].into_iter().collect())),
            }
        }
        self.runs.push((mbps, outcome));
        mbps
    }

    /// Counts a repetition that could not be measured.
    pub(super) fn fail(&mut self) {
        self.failed += 1;
    }

    /// Repetitions that could not be measured.
    pub(super) fn failed(&self) -> u32 {
        self.failed
    }

    /// What counts of the bond's run, seconds: an automatic flow's last third, which is what it comes to.
    fn counted(&self) -> (f64, f64) {
        let end = f64::from(self.seconds);
        if self.class == Class::Auto { (end * 2.0 / 3.0, end) } else { (START_UP, end) }
    }

    /// Sum and largest of the single links' goodputs, Mbit/s.
    pub(super) fn sum_and_best(&self) -> (f64, f64) {
        let medians = || self.singles.iter().map(Sample::median);
        (medians().sum(), medians().fold(0.0, f64::max))
    }

    /// The bond's run in the middle.
    pub(super) fn middle_run(&self) -> Option<&Outcome> {
        let distance = |mbps: f64| (mbps - self.bond.median()).abs();
        let nearest = self.runs.iter().min_by(|one, other| distance(one.0).total_cmp(&distance(other.0)));
        nearest.map(|(_, outcome)| outcome)
    }

    fn known(&self, name: &str) -> Option<f64> {
        let (_, sample) = self.others.iter().find(|(own, _)| *own == name)?;
        Some(sample.median())
    }

    /// Idle round trip of the slowest link in use, milliseconds.
    fn idle_of_slowest(&self) -> f64 {
        let in_use = self.idle.iter().zip(&self.shares).filter(|(_, share)| share.median() >= IN_USE);
        in_use.map(|(idle, _)| idle.median()).fold(0.0, f64::max)
    }

    /// Medians as one object.
    pub(super) fn json(&self) -> Map<String, Value> {
        let medians = |samples: &[Sample]| -> Value { samples.iter().map(median).collect() };
        let ((sum, best), bond) = (self.sum_and_best(), self.bond.median());
        let ratio = |whole: f64| if whole > 0.0 { rounded(bond / whole) } else { Value::Null };
        let mut object = Map::new();
        let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
        put("profile", json!(self.profile.name));
        put("flow", json!(self.flow.name()));
        put("class", json!(self.class.name()));
        put("singles_mbps", medians(&self.singles));
        put("bond_mbps", median(&self.bond));
        put("ratio_sum", ratio(sum));
        put("ratio_best", ratio(best));
        put("share", medians(&self.shares));
        put("rtt_idle_ms", rounded(self.idle_of_slowest()));
        put("singles_rtt_idle_ms", medians(&self.idle));
        for (name, sample) in &self.others {
            put(name, median(sample));
        }
        if let Some(slowest) = self.known("window_min_mbps").filter(|_| best > 0.0) {
            put("window_min_ratio_best", rounded(slowest / best));
        }
        if let (Some(single), Some(aggregating)) = (self.profile.published_single, self.profile.published_wlb) {
            put("published_ratio_best", rounded(aggregating / single));
        }
        put("bond_mbps_range", self.bond.range().map(rounded).into_iter().collect());
        put("seconds", json!(self.seconds));
        put("reps", json!(self.runs.len()));
        put("failed", json!(self.failed));
        object
    }

    /// The same with the course of each of the bond's runs, Mbit/s in tenths of a second.
    pub(super) fn json_with_runs(&self) -> Value {
        let course = |series: &Series| -> Value { series.mbps().map(rounded).collect() };
        let runs = self.runs.iter().map(|(mbps, outcome)| {
            json!({
                "mbps": rounded(*mbps),
                "received_mbps": course(&outcome.flow.received),
                "links_mbps": outcome.paths.iter().map(course).collect::<Value>(),
                "rtts_ms": sparse(&outcome.flow.rtts),
                "pings_ms": sparse(&outcome.pings),
            })
        });
        let mut object = self.json();
        object.insert("links".to_owned(), json!(self.profile.links));
        object.insert("runs".to_owned(), runs.collect());
        object.into()
    }

    /// A row below [`HEADER`].
    pub(super) fn row(&self) -> String {
        if self.runs.is_empty() {
            return format!("{:24} {:10} {:10} not measured", self.profile.name, self.flow.name(), self.class.name());
        }
        let (sum, best) = self.sum_and_best();
        let bond = self.bond.median();
        let list = |samples: &[Sample], scale: f64, digits: usize| {
            let texts = samples.iter().map(|sample| format!("{:.digits$}", sample.median() * scale));
            texts.collect::<Vec<_>>().join("+")
        };
        let figure = |name: &str, digits: usize| {
            self.known(name).map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        format!(
            "{:24} {:10} {:10} {:>18} {bond:>7.2} {:>5.1} {:>5.2} {:>11} {:>5.0} {:>5} {:>5} {:>5} {:>6} {:>5} {:>6} {:>6} {:>6}",
            self.profile.name,
            self.flow.name(),
            self.class.name(),
            list(&self.singles, 1.0, 2),
            bond / sum * 100.0,
            bond / best,
            list(&self.shares, 100.0, 0),
            self.idle_of_slowest(),
            figure("rtt_loaded_ms_p50", 0),
            figure("rtt_loaded_ms_p95", 0),
            figure("ping_ms_p95", 0),
            figure("cv_1s", 3),
            figure("reached_80_s", 1),
            figure("window_min_mbps", 2),
            figure("reordered", 0),
            figure("retransmits", 0),
        )
    }
}

/// What the columns of [`Case::row`] are: goodputs in Mbit/s, round trips in milliseconds.
pub(super) const HEADER: &str = "\
profile                  flow       class              each alone    bond % sum ×best share of IP  idle   p50   p95  ping   cv1s  80 %  2s min   reor.   retr.";

/// The median, or null where nothing was measured.
fn median(sample: &Sample) -> Value {
    if sample.count() == 0 { Value::Null } else { rounded(sample.median()) }
}

fn rounded(value: f64) -> Value {
    json!((value * 1e3).round() / 1e3)
}

/// At most some thousand points with their times, seconds.
fn sparse(points: &[(f64, f64)]) -> Value {
    let step = points.len().div_ceil(2000).max(1);
    points.iter().step_by(step).map(|(at, value)| json!([rounded(*at), rounded(*value)])).collect()
}
