//! Daemons that are killed while flows of all classes pass.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use multipath_tests::traffic::stream::RunningStream;

use crate::scene::{AGGREGATE, DUPLICATE, PIN, Scene, attempts, paths};

/// When the daemons die, and how long is sent.
const KILLED_AFTER: Duration = Duration::from_secs(2);
const DURATION: Duration = Duration::from_secs(6);

/// What the process held is lost; nothing else is, and every flow goes on.
#[test]
fn streams_of_all_classes_go_on() -> Result<()> {
    attempts(|| {
        let mut scene = Scene::rated("10/10,10/40")?;
        let streams = [(AGGREGATE, 600), (DUPLICATE, 50), (PIN, 50)]
            .map(|(port, pace)| {
                scene.stream(port, pace, 1000, DURATION).start(scene.topology.ha(), scene.topology.hb())
            })
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        thread::sleep(KILLED_AFTER);
        for daemon in &mut scene.daemons {
            daemon.kill()?;
        }
        let mut reports = streams.into_iter().map(RunningStream::finish).collect::<Result<Vec<_>>>()?;
        for report in &reports {
            println!(
                "sent {}, lost {}, duplicated {}, reordered {}, gap {:.1} ms",
                report.sent, report.lost, report.duplicated, report.reordered, report.largest_gap_ms
            );
            ensure!(report.duplicated == 0, "{} packets came twice", report.duplicated);
        }
        let aggregate = reports.remove(0);
        // A tenth of a second of packets may have been held.
        ensure!(aggregate.lost < 100, "{} packets of the aggregate stream were lost", aggregate.lost);
        ensure!(aggregate.largest_gap_ms < 300.0, "a gap of {:.1} ms", aggregate.largest_gap_ms);
        for report in reports {
            ensure!(report.lost == 0, "{} packets were lost", report.lost);
        }
        scene.abandon()
    })
}

/// Nobody holds packets until the next daemon does; the other gateway is told so, and what it sends fits one link.
#[test]
fn a_daemon_that_comes_back_holds_packets_again() -> Result<()> {
    attempts(|| {
        let mut scene = Scene::rated("10/10,10/40")?;
        let stream = scene.stream(AGGREGATE, 700, 1000, Duration::from_mins(1));
        let stream = stream.start(scene.topology.ha(), scene.topology.hb())?;
        thread::sleep(KILLED_AFTER);
        scene.is_in_order()?;
        scene.daemons[1].kill()?;
        scene.daemons[1] = scene.b().up(&scene.configs[1])?;
        thread::sleep(KILLED_AFTER);
        scene.is_in_order()?;
        let unheld = || -> Result<u64> { Ok(paths(scene.b())?.iter().map(|path| path.arrivals.unheld).sum()) };
        let before = unheld()?;
        thread::sleep(Duration::from_secs(1));
        ensure!(before > 0 && unheld()? < before + 10, "{before} packets were not held, then {}", unheld()?);
        let report = stream.stop()?;
        println!("sent {}, lost {}", report.sent, report.lost);
        ensure!(report.lost < 200, "{} packets were lost", report.lost);
        scene.close()
    })
}

#[test]
fn a_tcp_flow_goes_on() -> Result<()> {
    attempts(|| {
        let mut scene = Scene::rated("10/10,10/20")?;
        let mut flow = scene.flow(AGGREGATE);
        (flow.omit, flow.seconds) = (0, 10);
        let running = flow.start(scene.topology.ha(), scene.topology.hb())?;
        thread::sleep(Duration::from_secs(4));
        for daemon in &mut scene.daemons {
            daemon.kill()?;
        }
        let report = running.finish()?;
        let end: Vec<f64> = report.samples.iter().rev().take(6).map(|sample| sample.mbps).collect();
        println!("{:.1} Mbit/s, at the end {end:.1?}", report.received_mbps);
        ensure!(end.iter().sum::<f64>() / end.len() as f64 > 3.0, "the flow does not go on: {end:?}");
        scene.abandon()
    })
}
