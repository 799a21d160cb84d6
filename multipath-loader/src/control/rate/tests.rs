//! What the controller does on recorded paths, the figures of it, and what must hold for any reports.

#![expect(clippy::cast_precision_loss, reason = "capacities are far below 2^52")]

use std::time::Duration;

use proptest::prelude::*;

use super::{
    CEILING_KBPS, FLOOR_KBPS, RateController, Report,
    simulation::{CrossTraffic, Load, Outcome, Row, Scenario, Trace},
};

const CONSTANT: &str = include_str!("traces/constant.csv");
const STEP: &str = include_str!("traces/step.csv");
const LTE: &str = include_str!("traces/lte.csv");
const JITTER: &str = include_str!("traces/jitter.csv");
const LOSS: &str = include_str!("traces/loss.csv");
const ROUTE: &str = include_str!("traces/route.csv");

/// A modem with one second of 10 Mbit/s.
const DEEP: u64 = 1_250_000;
/// One with 16 ms of it.
const SHALLOW: u64 = 20_000;
/// More than any of the recorded paths carries.
const OVERLOAD: Load = Load::Constant { kbps: 40_000 };
const GREEDY: Load = Load::Greedy { flows: 4 };
const LITTLE: Load = Load::Constant { kbps: 2_000 };
const SILENCE: Load = Load::Constant { kbps: 0 };
const LINE: Row = Row { capacity_kbps: 10_000, delay_us: 20_000, jitter_us: 0, loss_ppm: 0 };
const CROSS_TRAFFIC: CrossTraffic = CrossTraffic { kbps: 12_000, begin_us: 0, on_us: 500_000, period_us: 3_000_000 };
/// Time to find a capacity, seconds.
const FINDING_S: f64 = 3.0;

/// Loads with the second at which each ends, on a modem with a deep buffer, between clocks that drift apart.
fn scenario(trace: Trace, loads: &[(Load, u64)]) -> Scenario {
    let loads = loads.iter().map(|&(load, end_s)| (load, end_s * 1_000_000)).collect();
    Scenario { trace, loads, buffer_bytes: DEEP, cross_traffic: None, drift_ppm: 100, seed: 0, is_controlled: true }
}

fn line(row: Row, loads: &[(Load, u64)]) -> Scenario {
    scenario(Trace::of(row), loads)
}

fn recorded(text: &str, load: Load) -> Scenario {
    let trace = Trace::parse(text);
    let end_s = trace.len_us() / 1_000_000;
    scenario(trace, &[(load, end_s)])
}

/// The lowest and the highest rate in force.
fn rates(outcome: &Outcome, from_s: f64, to_s: f64) -> (u32, u32) {
    let rates = || outcome.between(from_s, to_s).iter().map(|moment| moment.rate_kbps);
    (rates().min().unwrap(), rates().max().unwrap())
}

/// Each change is found within three seconds, and then so many per cent are delivered with less than 30 ms of queue.
fn assert_found(scenario: &Scenario, changes_s: &[f64], least: f64) {
    let outcome = Outcome::of(scenario);
    for (index, &change_s) in changes_s.iter().enumerate() {
        let (from_s, to_s) = (change_s + FINDING_S, changes_s.get(index + 1).copied().unwrap_or(outcome.end_s()));
        let found_s = outcome.found_after_s(change_s);
        assert!(found_s < FINDING_S, "{change_s} s: found after {found_s} s");
        let goodput = outcome.goodput(from_s, to_s);
        assert!(goodput > least, "{change_s} s: {goodput} % are delivered");
        let queue_ms = outcome.queue_ms(from_s, to_s, 1.0);
        assert!(queue_ms < 30.0, "{change_s} s: {queue_ms} ms of queue");
    }
}

#[test]
fn changed_capacity_is_found() {
    assert_found(&recorded(CONSTANT, OVERLOAD), &[0.0], 95.0);
    assert_found(&recorded(CONSTANT, GREEDY), &[0.0], 95.0);
    assert_found(&recorded(STEP, OVERLOAD), &[0.0, 10.0, 20.0, 30.0], 95.0);
    assert_found(&recorded(STEP, GREEDY), &[0.0, 10.0, 20.0, 30.0], 94.0);
}

#[test]
fn shallow_buffer_is_found() {
    for load in [OVERLOAD, GREEDY] {
        let scenario = Scenario { buffer_bytes: SHALLOW, ..recorded(STEP, load) };
        assert_found(&scenario, &[0.0, 10.0, 20.0, 30.0], 92.0);
        let outcome = Outcome::of(&scenario);
        for from_s in [3.0, 13.0, 23.0, 33.0] {
            let overflown = outcome.overflown(from_s, from_s + 7.0);
            assert!(overflown < 3.5, "{from_s} s: {overflown} % find no room");
        }
    }
}

#[test]
fn other_rates_and_delays_are_found() {
    for capacity_kbps in [2_000, 50_000, 300_000] {
        let row = Row { capacity_kbps, ..LINE };
        let load = Load::Constant { kbps: capacity_kbps * 3 / 2 };
        let outcome = Outcome::of(&Scenario { buffer_bytes: capacity_kbps * 125, ..line(row, &[(load, 13)]) });
        assert!(outcome.goodput(3.0, 13.0) > 85.0, "{capacity_kbps}: {} %", outcome.goodput(3.0, 13.0));
        assert!(outcome.queue_ms(3.0, 13.0, 0.9) < 50.0, "{capacity_kbps}: {} ms", outcome.queue_ms(3.0, 13.0, 0.9));
    }
    assert_found(&line(Row { delay_us: 5_000, ..LINE }, &[(OVERLOAD, 20)]), &[0.0], 95.0);
    assert_found(&line(Row { delay_us: 300_000, ..LINE }, &[(OVERLOAD, 20)]), &[0.0], 95.0);
}

#[test]
fn longer_route_costs_nothing() {
    assert_found(&recorded(ROUTE, OVERLOAD), &[0.0, 10.0, 20.0], 95.0);
    let outcome = Outcome::of(&recorded(ROUTE, GREEDY));
    // TCP needs some seconds to grow to a round trip that is twice as long; the rate is there.
    assert!(rates(&outcome, 11.0, 20.0).0 > 8_000, "{:?}", rates(&outcome, 11.0, 20.0));
}

#[test]
fn random_loss_is_no_bottleneck() {
    for load in [OVERLOAD, GREEDY] {
        let outcome = Outcome::of(&recorded(LOSS, load));
        let goodput = outcome.goodput(FINDING_S, outcome.end_s());
        assert!(goodput > 93.0, "{goodput} % of at most 98 are delivered");
    }
    let lossy = Row { loss_ppm: 20_000, ..LINE };
    let outcome = Outcome::of(&line(lossy, &[(LITTLE, 60)]));
    assert_eq!(rates(&outcome, 0.0, 60.0), (0, 0));
}

#[test]
fn jitter_is_no_queue() {
    for load in [OVERLOAD, GREEDY] {
        let outcome = Outcome::of(&recorded(JITTER, load));
        let goodput = outcome.goodput(5.0, outcome.end_s());
        assert!(goodput > 90.0, "{goodput} % are delivered");
        let queue_ms = outcome.queue_ms(5.0, outcome.end_s(), 0.9);
        assert!(queue_ms < 75.0, "{queue_ms} ms of queue");
    }
    let noisy = Row { delay_us: 90_000, jitter_us: 25_000, ..LINE };
    let outcome = Outcome::of(&line(noisy, &[(LITTLE, 60)]));
    assert_eq!(rates(&outcome, 0.0, 60.0), (0, 0));
}

/// A path whose packets overtake one another, after three seconds of silence.
fn reordering(jitter_us: u64, load: Load, seed: u64) -> Scenario {
    let row = Row { capacity_kbps: 50_000, jitter_us, ..LINE };
    let scenario = line(row, &[(SILENCE, 3), (load, 16)]);
    Scenario { buffer_bytes: 1_500_000, seed, ..scenario }
}

/// So many runs of one scenario.
fn seeds(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(|number| 1_000_003 + number * 15_485_863)
}

#[test]
fn growing_traffic_with_jitter_has_no_limit() {
    for jitter_us in [8_000, 20_000, 25_000] {
        for period_us in [100_000, 300_000] {
            let ramp = Load::Ramp { from_kbps: 1_000, to_kbps: 45_000, period_us };
            for seed in seeds(10) {
                let outcome = Outcome::of(&reordering(jitter_us, ramp, seed));
                assert_eq!(rates(&outcome, 0.0, 16.0), (0, 0), "jitter {jitter_us}, {period_us}, seed {seed}");
            }
        }
    }
}

#[test]
fn tcp_fills_a_path_with_jitter() {
    for jitter_us in [8_000, 20_000, 25_000] {
        for flows in [1, 4] {
            let outcomes: Vec<Outcome> =
                seeds(10).map(|seed| Outcome::of(&reordering(jitter_us, Load::Greedy { flows }, seed))).collect();
            let goodput = outcomes.iter().map(|outcome| outcome.goodput(5.0, 16.0)).sum::<f64>() / 10.0;
            assert!(goodput > 90.0, "jitter {jitter_us}, {flows} flows: {goodput} %");
            let queue_ms = outcomes.iter().map(|outcome| outcome.queue_ms(5.0, 16.0, 0.9)).fold(0.0, f64::max);
            assert!(queue_ms < 50.0, "jitter {jitter_us}, {flows} flows: {queue_ms} ms");
        }
    }
}

#[test]
fn limit_that_is_far_too_low_is_left() {
    let found_after_s = |jitter_us: u64, seed| {
        let row = |count: usize, kbps: u64| format!("{kbps},20000,{jitter_us},0\n").repeat(count);
        let trace = Trace::parse(&(row(60, 3_700) + &row(60, 50_000)));
        let load = |kbps| Load::Constant { kbps };
        let scenario = scenario(trace, &[(SILENCE, 2), (load(5_500), 6), (load(45_000), 12)]);
        let outcome = Outcome::of(&Scenario { seed, ..scenario });
        let is_left = |&at_s: &f64| outcome.goodput(at_s, at_s + 0.3) > 85.0;
        let moments = |at_s: &f64| Some(at_s + 0.05).filter(|&at_s| at_s < 11.7);
        std::iter::successors(Some(6.0), moments).find(is_left).map_or(f64::INFINITY, |at_s| at_s - 6.0)
    };
    for jitter_us in [0, 3_000, 8_000, 20_000, 25_000] {
        // How noise falls decides: now and then one meets what looks like a queue again and again.
        let mut found_s: Vec<f64> = seeds(30).map(|seed| found_after_s(jitter_us, seed)).collect();
        found_s.sort_unstable_by(f64::total_cmp);
        let (median_s, most_s) = (found_s[15], found_s[26]);
        assert!(median_s < 3.0 && most_s < 5.0, "jitter {jitter_us}: {found_s:.1?} s");
    }
}

#[test]
fn walking_capacity_is_followed() {
    for load in [OVERLOAD, GREEDY] {
        let outcome = Outcome::of(&recorded(LTE, load));
        let goodput = outcome.goodput(FINDING_S, outcome.end_s());
        assert!(goodput > 80.0, "{goodput} % are delivered");
        let queue_ms = outcome.queue_ms(FINDING_S, outcome.end_s(), 0.9);
        assert!(queue_ms < 60.0, "{queue_ms} ms of queue");
    }
}

#[test]
fn little_traffic_and_none_change_nothing() {
    for jitter_us in [0, 25_000] {
        for cross_traffic in [None, Some(CROSS_TRAFFIC)] {
            let row = Row { delay_us: 20_000 + 3 * jitter_us, jitter_us, ..LINE };
            // The other traffic begins when the limit is known.
            let loads = [(OVERLOAD, 6), (LITTLE, 60), (SILENCE, 120), (LITTLE, 180), (OVERLOAD, 190)];
            let mut scenario = line(row, &loads);
            scenario.cross_traffic = cross_traffic.map(|cross| CrossTraffic { begin_us: 8_000_000, ..cross });
            let outcome = Outcome::of(&scenario);
            let (least, most) = rates(&outcome, 7.0, 180.0);
            assert_eq!(least, most, "jitter {jitter_us}, {cross_traffic:?}");
            assert!((8_500..12_000).contains(&least), "jitter {jitter_us}, {cross_traffic:?}: {least}");
            if cross_traffic.is_none() {
                assert!(outcome.found_after_s(180.0) < FINDING_S);
            }
        }
    }
}

#[test]
fn intermittent_traffic_does_not_raise_the_rate() {
    let bursts = Load::Intermittent { kbps: 8_000, period_us: 400_000 };
    let outcome = Outcome::of(&line(LINE, &[(OVERLOAD, 6), (bursts, 60)]));
    let (least, most) = rates(&outcome, 7.0, 60.0);
    assert!(least > 8_500 && most < 12_000, "{least} to {most}");
}

#[test]
fn other_traffic_leaves_a_share() {
    let outcome = Outcome::of(&Scenario { cross_traffic: Some(CROSS_TRAFFIC), ..recorded(CONSTANT, OVERLOAD) });
    // The other traffic alone is more than the line carries, a sixth of the time.
    assert!(outcome.goodput(FINDING_S, 30.0) > 55.0, "{} %", outcome.goodput(FINDING_S, 30.0));
}

#[test]
fn fast_network_has_no_limit() {
    let row = Row { capacity_kbps: 1_000_000, delay_us: 200, ..LINE };
    for jitter_us in [0, 10_000] {
        for load in [GREEDY, Load::Constant { kbps: 800_000 }] {
            let row = Row { jitter_us, ..row };
            let outcome = Outcome::of(&Scenario { buffer_bytes: 1_000_000, ..line(row, &[(load, 1)]) });
            assert_eq!(rates(&outcome, 0.0, outcome.end_s()), (0, 0), "jitter {jitter_us}, {load:?}");
        }
    }
}

/// A quarter of an hour of ten packets a second, which wait longer and longer, up to 80 ms, whenever a processor is busy elsewhere.
#[test]
fn busy_processor_is_no_bottleneck() {
    let mut controller = RateController::new();
    let (mut seed, mut sent) = (1_u64, 0);
    for number in 0..45_000_u64 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // A second in which the wait grows for a while, every four.
        let (spell, step) = (number % 200, (number % 200).min(20));
        let wait_us = if spell < 50 { step * 4_000 + (seed >> 33) % 1_000 } else { (seed >> 33) % 100 };
        sent += 128 + if number % 5 == 0 { 1_292 } else { 0 };
        let sent_at = Duration::from_millis(number * 20);
        let report = Report {
            now: sent_at + Duration::from_millis(80),
            sent_at,
            delay_us: 200 + wait_us.cast_signed(),
            sent_bytes: sent,
            received_bytes: sent,
            pressed: 0,
        };
        assert_eq!(controller.report(&report), 0, "after {sent_at:?}");
    }
}

#[test]
fn outage_is_no_limit() {
    let row = |count: usize, loss_ppm: u64| format!("10000,20000,0,{loss_ppm}\n").repeat(count);
    let trace = Trace::parse(&(row(50, 0) + &row(10, 1_000_000) + &row(50, 0)));
    let outcome = Outcome::of(&scenario(trace.clone(), &[(LITTLE, 11)]));
    assert_eq!(rates(&outcome, 0.0, 11.0), (0, 0));
    let outcome = Outcome::of(&scenario(trace, &[(OVERLOAD, 11)]));
    assert!(outcome.found_after_s(6.0) < FINDING_S);
}

/// Prints what docs/measurements.md says of rates: `cargo test -p multipath-loader --lib rate::tests::figures --
/// --nocapture`.
#[test]
fn figures() {
    let header = "| path | load | from s | Mbit/s | found after s | first queue ms | goodput % | queue ms 50 / 99 / 100 % | rate Mbit/s | without limit: queue ms 50 % |";
    println!("{header}\n|{}", " --- |".repeat(header.matches('|').count() - 1));
    for (load_name, load) in [("constant 40 Mbit/s", OVERLOAD), ("4 TCP flows", GREEDY)] {
        let shallow = Scenario { buffer_bytes: SHALLOW, ..recorded(STEP, load) };
        let (jitter_name, jitter_load) = match load {
            Load::Constant { .. } => ("20 ms of jitter, but 75 Mbit/s", Load::Constant { kbps: 75_000 }),
            _ => ("20 ms of jitter", load),
        };
        for (name, scenario, changes_s) in [
            ("constant", recorded(CONSTANT, load), &[0.0][..]),
            ("step", recorded(STEP, load), &[0.0, 10.0, 20.0, 30.0]),
            ("step, 20 kB of buffer", shallow, &[0.0, 10.0, 20.0, 30.0]),
            ("lte", recorded(LTE, load), &[0.0]),
            ("jitter", recorded(JITTER, load), &[0.0]),
            (jitter_name, reordering(20_000, jitter_load, 0), &[3.0]),
            ("loss", recorded(LOSS, load), &[0.0]),
            ("route", recorded(ROUTE, load), &[0.0, 10.0, 20.0]),
        ] {
            let outcome = Outcome::of(&scenario);
            let unlimited = Outcome::of(&Scenario { is_controlled: false, ..scenario });
            for (index, &change_s) in changes_s.iter().enumerate() {
                let end_s = changes_s.get(index + 1).copied().unwrap_or(outcome.end_s());
                let settled_s = change_s + FINDING_S;
                let queue_ms = |quantile| outcome.queue_ms(settled_s, end_s, quantile);
                let (least, most) = rates(&outcome, settled_s, end_s);
                println!(
                    "| {name} | {load_name} | {change_s} | {:.1} | {:.1} | {:.0} | {:.1} | {:.0} / {:.0} / {:.0} | {:.1} - {:.1} | {:.0} |",
                    outcome.between(change_s, end_s)[0].capacity_kbps as f64 / 1000.0,
                    outcome.found_after_s(change_s),
                    outcome.queue_ms(change_s, settled_s, 1.0),
                    outcome.goodput(settled_s, end_s),
                    queue_ms(0.5),
                    queue_ms(0.99),
                    queue_ms(1.0),
                    f64::from(least) / 1000.0,
                    f64::from(most) / 1000.0,
                    unlimited.queue_ms(settled_s, end_s, 0.5),
                );
            }
        }
    }
}

/// Reports of anything: counters that restart, clocks that jump, times that are no times.
fn any_report() -> impl Strategy<Value = Report> {
    let time = prop_oneof![any::<u64>(), 0..10_000_000_u64].prop_map(Duration::from_micros);
    let delay_us = prop_oneof![any::<i64>(), -1_000_000..1_000_000_i64];
    let count = || prop_oneof![any::<u64>(), 0..10_000_000_u64];
    (time.clone(), time, delay_us, count(), count(), count()).prop_map(
        |(now, sent_at, delay_us, sent_bytes, received_bytes, pressed)| Report {
            now,
            sent_at,
            delay_us,
            sent_bytes,
            received_bytes,
            pressed,
        },
    )
}

proptest! {
    #[test]
    fn any_reports_are_survived(reports in prop::collection::vec(any_report(), 1..100)) {
        let mut controller = RateController::new();
        for report in &reports {
            let rate_kbps = controller.report(report);
            prop_assert!(rate_kbps == 0 || (FLOOR_KBPS..=CEILING_KBPS).contains(&rate_kbps));
            prop_assert_eq!(rate_kbps, controller.rate_kbps());
        }
    }

    /// A path that goes on, with delays, losses and demand of any size.
    #[test]
    fn likely_reports_are_survived(
        steps in prop::collection::vec((1..100_000_u64, 0..200_000_u64, 0..100_u64, -50_000..500_000_i64, 0..3_u64), 1..300)
    ) {
        let mut controller = RateController::new();
        let mut report = Report::default();
        for (pause_us, sent_bytes, percent, delay_us, pressed) in steps {
            report.sent_at += Duration::from_micros(pause_us);
            report.now = report.sent_at + Duration::from_micros(delay_us.unsigned_abs() * 2);
            report.delay_us = delay_us;
            report.sent_bytes += sent_bytes;
            report.received_bytes += sent_bytes * percent / 100;
            report.pressed += pressed;
            let rate_kbps = controller.report(&report);
            prop_assert!(rate_kbps == 0 || (FLOOR_KBPS..=CEILING_KBPS).contains(&rate_kbps));
        }
    }

    /// Whatever is sent, and however a busy processor holds it up for some milliseconds.
    #[test]
    fn no_limit_without_queue_or_loss(
        steps in prop::collection::vec((15_000..25_000_u64, 0..5_000_000_u64, 0..20_000_i64), 1..300)
    ) {
        let mut controller = RateController::new();
        let mut report = Report::default();
        for (pause_us, sent_bytes, delay_us) in steps {
            report.sent_at += Duration::from_micros(pause_us);
            report.now = report.sent_at + Duration::from_millis(20);
            report.delay_us = delay_us;
            report.sent_bytes += sent_bytes;
            report.received_bytes = report.sent_bytes;
            prop_assert_eq!(controller.report(&report), 0);
        }
    }
}
