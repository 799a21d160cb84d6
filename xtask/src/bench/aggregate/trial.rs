//! One flow over one link or all of them, and what was seen of it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use multipath_tests::traffic::{Ping, PingReport};
use multipath_tests::{LinkProfile, Profile};

use super::flow::{Flow, FlowReport};
use super::scene::Scene;
use super::series::{STEP, Series};
use crate::progress::Step;

/// Time between two lines of news.
const NEWS: Duration = Duration::from_millis(500);
/// Echo requests beside the flow.
const PING_INTERVAL: Duration = Duration::from_millis(100);

/// What is to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    /// The flow.
    pub(super) flow: Flow,
    /// The link that it has for itself; `None`: all.
    pub(super) link: Option<usize>,
    /// Port of the server.
    pub(super) port: u16,
    /// How long it is sent, seconds.
    pub(super) seconds: u32,
}

/// What was seen.
pub(super) struct Outcome {
    /// The flow's ends.
    pub(super) flow: FlowReport,
    /// IP bytes that arrived from each link.
    pub(super) paths: Vec<Series>,
    /// IP bytes that went into all links.
    pub(super) sent: Series,
    /// Median round trip before it, milliseconds.
    pub(super) ping_idle_ms: f64,
    /// Round trips of echo requests beside it: seconds and milliseconds.
    pub(super) pings: Vec<(f64, f64)>,
}

impl Trial {
    /// Sends it.
    pub(super) fn run(&self, scene: &Scene, profile: &Profile, step: &Step) -> Result<Outcome> {
        scene.use_only(self.link)?;
        let links: Vec<LinkProfile> = match self.link {
            Some(link) => vec![profile.links[link]],
            None => profile.links.clone(),
        };
        let ping_idle_ms = scene.idle_round_trip()?;
        let duration = Duration::from_secs(self.seconds.into());
        let count = (duration.as_secs_f64() / PING_INTERVAL.as_secs_f64()) as u32;
        let ping = Ping { count, interval: PING_INTERVAL, ..Ping::to(scene.topology.b.host_v4()) };
        thread::scope(|scope| {
            let pinging = scope.spawn(|| ping.run(scene.topology.ha()));
            let running = self.flow.start(&scene.topology, &links, (scene.mtu, self.port), duration)?;
            let (paths, sent) = watch(scene, duration, step)?;
            let flow = running.finish()?;
            let pings = pinging.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            ensure!(flow.received.mbps().any(|mbps| mbps > 0.0), "nothing arrived");
            Ok(Outcome { flow, paths, sent, ping_idle_ms, pings: with_times(&pings) })
        })
        .with_context(|| format!("{} over {}", self.flow.name(), self.way()))
    }

    /// `link 1` or `bond`.
    pub(super) fn way(&self) -> String {
        self.link.map_or_else(|| "bond".to_owned(), |link| format!("link {link}"))
    }
}

/// Follows the links' counters.
fn watch(scene: &Scene, duration: Duration, step: &Step) -> Result<(Vec<Series>, Series)> {
    let start = Instant::now();
    let (mut last, mut last_time) = (scene.carried()?, 0.0);
    let mut paths = vec![Series::default(); last.len()];
    let mut sent = Series::default();
    let mut told = start;
    while start.elapsed() < duration {
        thread::sleep(Duration::from_secs_f64(STEP));
        let (now, time) = (scene.carried()?, start.elapsed().as_secs_f64());
        for ((path, now), last) in paths.iter_mut().zip(&now).zip(&last) {
            let [into, from] = [0, 1].map(|side| (now[side] - last[side]) as f64);
            path.spread(last_time, time, from);
            sent.spread(last_time, time, into);
        }
        (last, last_time) = (now, time);
        if told.elapsed() >= NEWS {
            told = Instant::now();
            let rates: Vec<String> = paths.iter().map(|path| format!("{:.2}", path.mean(time - 1.0, time))).collect();
            step.tick(&format!("{time:.0} of {} s, {} Mbit/s on the links", duration.as_secs(), rates.join(" + ")));
        }
    }
    Ok((paths, sent))
}

/// The replies follow each other at the interval of the requests, but for those that are missing.
fn with_times(report: &PingReport) -> Vec<(f64, f64)> {
    let interval = PING_INTERVAL.as_secs_f64();
    (0..).map(|number| f64::from(number) * interval).zip(report.rtts_ms.iter().copied()).collect()
}
