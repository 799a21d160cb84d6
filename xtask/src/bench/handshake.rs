//! `cargo xtask bench handshake`: how many handshakes a gateway serves, and what a flood of forged ones does to it.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::forgery::Forgery;
use super::sample::Sample;
use super::siege::{FLOOD_PPS, Outcome, REKEY_AFTER, STREAM_PPS, Siege};
use super::{idle, report};
use crate::command::output;
use crate::workspace::Workspace;

/// The messages whose cost is measured: their names in the loader's benchmark, and what they are.
const MESSAGES: [(&str, &str); 5] = [
    ("served", "initiation of a peer, answered"),
    ("stranger", "initiation of a stranger"),
    ("wrong_mac1", "wrong mac1"),
    ("cookie", "right mac1 under load, a cookie"),
    ("wrong_mac2", "the same with a wrong mac2"),
];

/// The floods: their names in the object, what they are, what is sent.
const CASES: [(&str, &str, Option<Forgery>); 5] = [
    ("none", "no flood", None),
    ("random_mac", "random mac1", Some(Forgery::RandomMac)),
    ("one_source", "right mac1, one source", Some(Forgery::OneSource)),
    ("peers_address", "right mac1, the peer's address", Some(Forgery::PeersAddress)),
    ("many_sources", "right mac1, spoofed sources", Some(Forgery::ManySources)),
];

/// How to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// End standard output with one line of JSON
    #[arg(long)]
    json: bool,
    /// Length of each flood: at least one rekey must be in it
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(7..=600))]
    seconds: u32,
    /// Repetitions, of which the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    reps: u32,
}

/// All figures.
struct Report {
    idle: f64,
    processors: usize,
    /// Nanoseconds of each of [`MESSAGES`].
    costs: [Sample; MESSAGES.len()],
    floods: [Figures; CASES.len()],
}

/// Figures of one of [`CASES`].
#[derive(Default)]
struct Figures {
    flood_pps: Sample,
    /// Of one processor.
    daemon_percent: Sample,
    replies_pps: Sample,
    unread_pps: Sample,
    /// In all repetitions.
    sent: u64,
    /// In all repetitions.
    lost: u64,
    /// In the repetition that had the fewest.
    rekeys: Option<usize>,
}

/// Builds release binaries, measures and reports.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    super::prepare(workspace)?;

    let processors = thread::available_parallelism()?.get();
    let mut report = Report { idle: idle::check()?, processors, costs: Default::default(), floods: Default::default() };
    for _ in 0..options.reps {
        let costs = messages(workspace)?;
        for (sample, (name, _)) in report.costs.iter_mut().zip(MESSAGES) {
            sample.add(costs.get(name).and_then(Value::as_f64).with_context(|| format!("no figure {name}"))?);
        }
    }
    for repetition in 1..=options.reps {
        idle::check()?;
        for (figures, (_, what, forgery)) in report.floods.iter_mut().zip(CASES) {
            report::progress(repetition, options.reps, what);
            // New gateways each time: cookies of an earlier flood would help.
            figures.add(Siege::new()?.measure(forgery, Duration::from_secs(options.seconds.into()))?);
        }
    }
    report.print();
    if options.json {
        println!("{}", report.json());
    }
    Ok(())
}

/// What the loader's own benchmark says, nanoseconds by name.
fn messages(workspace: &Workspace) -> Result<Map<String, Value>> {
    let mut cargo = workspace.cargo();
    let text = output(cargo.args(["bench", "--quiet", "--package", "multipath-loader", "--bench", "handshakes"]))?;
    serde_json::from_str(&text).with_context(|| format!("the loader's benchmark says something else: {text}"))
}

impl Figures {
    fn add(&mut self, outcome: Outcome) {
        self.flood_pps.add(outcome.flood_pps);
        self.daemon_percent.add(outcome.daemon * 100.0);
        self.replies_pps.add(outcome.replies_pps);
        self.unread_pps.add(outcome.unread_pps);
        self.sent += outcome.sent;
        self.lost += outcome.lost;
        self.rekeys = Some(self.rekeys.map_or(outcome.rekeys, |fewest| fewest.min(outcome.rekeys)));
    }
}

impl Report {
    /// Handshakes per second that one processor answers.
    fn served(&self) -> f64 {
        1e9 / self.costs[0].median().max(1.0)
    }

    fn print(&self) {
        println!(
            "{} processors, {:.0} % of them idle before the first run; they carry the flood's and the stream's senders too",
            self.processors,
            self.idle * 100.0
        );
        println!("\n{:36} {:>28}", "One message at a gateway", "ns");
        for ((_, what), cost) in MESSAGES.iter().zip(&self.costs) {
            println!("{what:36} {cost:>28.0}");
        }
        println!("{:.0} handshakes per second are served by one processor", self.served());
        println!(
            "\n{FLOOD_PPS} forged initiations per second at a hub that carries {STREAM_PPS} packets per second\n\
             {:32} {:>24} {:>16} {:>20} {:>24} {:>20} {:>7}",
            "", "flood/s", "lost of stream", "daemon, % of one", "replies/s", "unread/s", "rekeys"
        );
        for ((_, what, _), figures) in CASES.iter().zip(&self.floods) {
            let Figures { flood_pps, daemon_percent, replies_pps, unread_pps, sent, lost, rekeys } = figures;
            println!(
                "{what:32} {flood_pps:>24.0} {:>16} {daemon_percent:>20.1} {replies_pps:>24.0} {unread_pps:>20.0} {:>7}",
                format!("{lost} of {sent}"),
                rekeys.unwrap_or_default()
            );
        }
    }

    fn json(&self) -> Value {
        let costs: Map<String, Value> =
            MESSAGES.iter().zip(&self.costs).map(|((name, _), cost)| ((*name).to_owned(), cost.json())).collect();
        let floods: Map<String, Value> =
            CASES.iter().zip(&self.floods).map(|((name, ..), figures)| ((*name).to_owned(), figures.json())).collect();
        json!({
            "processors": self.processors,
            "idle": self.idle,
            "handshakes_per_second": self.served().round(),
            "message_ns": costs,
            "cipher": "chacha20-poly1305",
            "rekey_after_s": REKEY_AFTER,
            "stream_pps": STREAM_PPS,
            "floods": floods,
        })
    }
}

impl Figures {
    fn json(&self) -> Value {
        json!({
            "flood_pps": self.flood_pps.json(),
            "stream_sent": self.sent,
            "stream_lost": self.lost,
            "daemon_cpu_percent": self.daemon_percent.json(),
            "replies_pps": self.replies_pps.json(),
            "unread_pps": self.unread_pps.json(),
            "rekeys": self.rekeys,
        })
    }
}
