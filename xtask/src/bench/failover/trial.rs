//! One repetition of an experiment.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use multipath_tests::traffic::{StreamReport, UdpStream};

use super::case::{Case, FAST_BELOW_MS, Failure, STRICKEN};
use super::scene::Scene;

/// What became of the stream and of the path. Times are milliseconds; what did not happen is absent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// The longest time without a packet from the failure on; while the tunnel is idle, from the first packet sent on.
    pub(super) gap: f64,
    /// Packets of the stream that did not arrive.
    pub(super) lost: u64,
    /// Further copies of packets that arrived.
    pub(super) duplicated: u64,
    /// From the failure until the tunnel sent packets by another path as well, by its own word.
    pub(super) doubted: Option<f64>,
    /// From the failure until it used the path no more, by its own word.
    pub(super) left: Option<f64>,
    /// From the end of the failure until a packet was sent that took the link again.
    pub(super) back: Option<f64>,
    /// Changes of the health of all paths at both gateways.
    pub(super) changes: usize,
}

/// Runs an experiment.
pub(super) fn run(scene: &Scene, case: &Case) -> Result<Outcome> {
    let times = case.times();
    let (topology, link) = (&scene.topology, scene.topology.link(STRICKEN)?);
    let (start, start_of_history) = (Instant::now(), now());
    let wait_until = |time: Duration| thread::sleep(time.saturating_sub(start.elapsed()));
    let stream = UdpStream::to(scene.inside(), case.stream.pace, case.stream.size, times.lasts);
    let begin = || stream.start(topology.a.namespace(), topology.b.namespace());
    let early = if case.is_busy { Some(begin()?) } else { None };
    wait_until(times.fails);
    let failed = now();
    case.failure.strike(link)?;
    wait_until(times.begins);
    let running = early.map_or_else(begin, Ok)?;
    wait_until(times.heals);
    let healed = now();
    case.failure.heal(link)?;
    let report = running.finish()?;

    ensure!(report.overflowed == 0, "the receiver was too slow: {} packets", report.overflowed);
    let history = scene.history()?.map(|mut changes| {
        changes.retain(|change| Duration::from_nanos(change.at_ns) > start_of_history);
        changes
    });
    let first = |is_meant: fn(&str) -> bool| {
        let own = history[0].iter().filter(|change| change.uplink == scene.stricken_uplink());
        let times = own.filter(|change| is_meant(&change.to)).map(|change| Duration::from_nanos(change.at_ns));
        times.filter_map(|at| at.checked_sub(failed)).min().map(ms)
    };
    Ok(Outcome {
        gap: gap(&report, case, failed),
        lost: report.lost,
        duplicated: report.duplicated,
        doubted: first(|health| health != "up"),
        left: first(|health| !["up", "stalled"].contains(&health)),
        back: back(&report, healed).filter(|_| !matches!(case.failure, Failure::None)),
        changes: history.iter().map(Vec::len).sum(),
    })
}

fn gap(report: &StreamReport, case: &Case, failed: Duration) -> f64 {
    if !case.is_busy {
        return report.largest_gap_ms;
    }
    let failed = ms(failed.saturating_sub(Duration::from_nanos(report.start_ns)));
    report.largest_gap_within(failed..ms(case.times().lasts))
}

/// From the delays: nothing else tells a packet's way from outside.
fn back(report: &StreamReport, healed: Duration) -> Option<f64> {
    let start = Duration::from_nanos(report.start_ns);
    let healed = ms(healed.checked_sub(start)?);
    let fast = report.delays_ms.iter().zip(&report.arrivals_ms).filter(|(delay, _)| **delay < FAST_BELOW_MS);
    let sent = fast.map(|(delay, arrival)| arrival - delay).filter(|&sent| sent >= healed);
    sent.min_by(f64::total_cmp).map(|sent| sent - healed)
}

/// Time since the epoch, as in reports and histories.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
