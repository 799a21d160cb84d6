//! A link that becomes a black hole under a flow: what the flow's class makes of it.

use std::{ops::Range, thread, time::Duration};

use anyhow::{Result, ensure};
use multipath_tests::traffic::StreamReport;

use crate::scene::{AGGREGATE, DUPLICATE, Scene, attempts, tcp_counter};

/// One-way delays 10 and 40 ms.
const LINKS: &str = "10/10,10/40";
/// A round trip of the far link and 50 ms, and what a packet takes longer that goes there instead.
const AGGREGATE_GAP_MS: f64 = 80.0 + 50.0 + 30.0;
/// What the second copy takes longer, and as much for the emulator and the receiver.
const DUPLICATE_GAP_MS: f64 = 30.0 + 30.0;
/// When after its start a stream meets the failure, and where its gap lies, milliseconds.
const FAILURE_AFTER: Duration = Duration::from_millis(1500);
const AROUND_FAILURE_MS: Range<f64> = 1400.0..2500.0;

/// A stream of which link number `link` becomes a black hole.
fn cut(scene: &Scene, link: usize, port: u16, pace: u32) -> Result<StreamReport> {
    let stream = scene.stream(port, pace, 1000, Duration::from_secs(3));
    let stream = stream.start(scene.topology.ha(), scene.topology.hb())?;
    thread::sleep(FAILURE_AFTER);
    scene.topology.link(link)?.set_black_hole(true)?;
    let report = stream.finish()?;
    println!(
        "link {link}: sent {}, lost {}, duplicated {}, gap {:.1} ms",
        report.sent,
        report.lost,
        report.duplicated,
        report.largest_gap_within(AROUND_FAILURE_MS)
    );
    ensure!(report.duplicated == 0, "{} packets came twice", report.duplicated);
    Ok(report)
}

/// What was on its way by the link is lost, and what was sent by it until that is known.
#[test]
fn an_aggregate_stream_goes_on() -> Result<()> {
    for link in 0..2 {
        attempts(|| {
            let scene = Scene::rated(LINKS)?;
            let report = cut(&scene, link, AGGREGATE, 700)?;
            let gap = report.largest_gap_within(AROUND_FAILURE_MS);
            ensure!(gap <= AGGREGATE_GAP_MS, "a gap of {gap:.1} ms, and {AGGREGATE_GAP_MS:.1} ms are allowed");
            ensure!(report.lost * 5 < report.sent, "{} of {} packets were lost", report.lost, report.sent);
            scene.close()
        })?;
    }
    Ok(())
}

#[test]
fn an_aggregate_tcp_flow_has_no_timeout() -> Result<()> {
    attempts(|| {
        let scene = Scene::rated(LINKS)?;
        let mut flow = scene.flow(AGGREGATE);
        (flow.omit, flow.seconds) = (0, 8);
        let running = flow.start(scene.topology.ha(), scene.topology.hb())?;
        thread::sleep(Duration::from_secs(4));
        let timeouts = tcp_counter(scene.topology.ha(), "TCPTimeouts")?;
        scene.topology.link(0)?.set_black_hole(true)?;
        let report = running.finish()?;
        let timeouts = tcp_counter(scene.topology.ha(), "TCPTimeouts")? - timeouts;
        let end: Vec<f64> = report.samples.iter().rev().take(4).map(|sample| sample.mbps).collect();
        println!("{timeouts} timeouts, {:.1} Mbit/s, at the end {end:.1?}", report.received_mbps);
        ensure!(timeouts == 0, "{timeouts} timeouts");
        ensure!(end.iter().sum::<f64>() / end.len() as f64 > 3.0, "the flow does not go on: {end:?}");
        scene.close()
    })
}

#[test]
fn a_duplicate_stream_loses_nothing() -> Result<()> {
    for link in 0..2 {
        attempts(|| {
            let scene = Scene::rated(LINKS)?;
            let report = cut(&scene, link, DUPLICATE, 100)?;
            let gap = report.largest_gap_within(AROUND_FAILURE_MS);
            ensure!(report.lost == 0, "{} packets were lost", report.lost);
            ensure!(gap <= DUPLICATE_GAP_MS, "a gap of {gap:.1} ms, and {DUPLICATE_GAP_MS:.1} ms are allowed");
            scene.close()
        })?;
    }
    Ok(())
}
