//! `cargo xtask bench idle`: processor time of a tunnel that nobody uses.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use multipath_tests::{Daemon, Gateway, eventually};
use serde_json::{Value, json};

use super::bpf::{Object, RunTimes};
use super::hub::Hub;
use super::idle;
use super::rig::Rig;
use crate::workspace::Workspace;

/// Paths to each peer.
const PATHS: u8 = 4;
const PEERS: u8 = 100;
const TUNNEL: &str = "mp0";
/// How long a tunnel is left alone first: paths are probed faster while they are new.
const REST: Duration = Duration::from_secs(5);

/// How to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// End standard output with one line of JSON for each case
    #[arg(long)]
    json: bool,
    /// How long each tunnel is watched
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
}

/// What an idle gateway costs.
struct Cost {
    case: &'static str,
    peers: u8,
    /// Of one processor.
    daemon_percent: f64,
    /// Of one processor; the taking of the time included.
    programs_percent: f64,
    /// Runs of programs a second.
    runs: f64,
}

/// Builds release binaries, measures and reports.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    super::prepare(workspace)?;
    let idle = idle::check()?;
    let duration = Duration::from_secs(options.seconds.into());
    let costs = [one_peer(duration)?, many_peers(duration)?];
    println!("{:.0} % of the processors idle before the first run", idle * 100.0);
    println!("\nAn idle gateway with {PATHS} paths to each peer, percent of one processor");
    println!("{:>6} {:>10} {:>10} {:>16}", "peers", "daemon", "programs", "program runs/s");
    for Cost { peers, daemon_percent, programs_percent, runs, .. } in &costs {
        println!("{peers:>6} {daemon_percent:>10.2} {programs_percent:>10.2} {runs:>16.0}");
    }
    if options.json {
        for cost in &costs {
            println!("{}", cost.json());
        }
    }
    Ok(())
}

fn one_peer(duration: Duration) -> Result<Cost> {
    let mut rig = Rig::new(PATHS.into())?;
    let uplinks: Vec<String> = (0..PATHS).map(|number| format!("up{number}")).collect();
    rig.up(&rig.configs(0, &uplinks))?;
    let daemon = rig.daemons().first().context("a has a daemon")?;
    watch(("idle_4_paths", 1), rig.gateway_a(), daemon, duration)
}

fn many_peers(duration: Duration) -> Result<Cost> {
    eprintln!("  .. bringing up a hub with {PEERS} peers that answer");
    let hub = Hub::new(PEERS, PATHS)?;
    watch(("idle_100_peers_4_paths", PEERS), hub.gateway(), hub.daemon(), duration)
}

/// Watches an idle gateway. What the kernel does with a packet besides, and the peers, are not in it.
fn watch((case, peers): (&'static str, u8), gateway: &Gateway, daemon: &Daemon, duration: Duration) -> Result<Cost> {
    eventually("all paths are up", || gateway.health(TUNNEL), |paths| paths.iter().all(|health| health == "up"))?;
    eprintln!("  .. watching {case} for {} s", duration.as_secs());
    thread::sleep(REST);
    let _times = RunTimes::enable()?;
    let programs = Rig::programs(gateway, &Rig::tunnel(0))?;
    let start = Instant::now();
    let before = (processor_time(daemon.pid())?, runs(&programs)?);
    thread::sleep(duration);
    let after = (processor_time(daemon.pid())?, runs(&programs)?);
    let seconds = start.elapsed().as_secs_f64();
    let percent = |time: Duration| time.as_secs_f64() / seconds * 100.0;
    Ok(Cost {
        case,
        peers,
        daemon_percent: percent(after.0.saturating_sub(before.0)),
        programs_percent: percent(after.1.1.saturating_sub(before.1.1)),
        runs: (after.1.0 - before.1.0) as f64 / seconds,
    })
}

/// What all threads of a process have run: the first number of `schedstat` (Documentation/scheduler/sched-stats.rst of
/// the kernel), nanoseconds. The ticks of `stat` are too coarse for a process that hardly runs.
fn processor_time(pid: u32) -> Result<Duration> {
    let tasks = format!("/proc/{pid}/task");
    let mut total = Duration::ZERO;
    for task in fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
        let path = task?.path().join("schedstat");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let first = text.split_whitespace().next().and_then(|number| number.parse().ok());
        total += Duration::from_nanos(first.with_context(|| format!("{} has no number", path.display()))?);
    }
    Ok(total)
}

/// Number and time of all runs.
fn runs(programs: &[Object]) -> Result<(u64, Duration)> {
    let mut sum = (0, Duration::ZERO);
    for program in programs {
        let runs = program.runs()?;
        sum = (sum.0 + runs.count, sum.1 + Duration::from_nanos(runs.time_ns));
    }
    Ok(sum)
}

impl Cost {
    fn json(&self) -> Value {
        let Self { case, peers, daemon_percent, programs_percent, runs } = self;
        let hundredths = |value: &f64| (value * 100.0).round() / 100.0;
        json!({
            "case": case,
            "peers": peers,
            "paths": PATHS,
            "daemon_cpu_percent": hundredths(daemon_percent),
            "programs_cpu_percent": hundredths(programs_percent),
            "program_runs_per_second": runs.round(),
        })
    }
}
