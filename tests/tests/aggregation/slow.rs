//! Striped packets come in order and when they are due, at a rate that an emulated machine can do: `cargo xtask vm` runs
//! this where the kernel has fq, which does then what the daemon's stage does elsewhere.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::scene::{AGGREGATE, Scene, attempts};

/// Packets a second and their bytes of UDP payload: more than one of the links carries.
const PACE: u32 = 100;
const SIZE: u16 = 1200;
/// The delay of the slower link, and the least that held packets take, milliseconds.
const SLOWEST: f64 = 60.0;

#[test]
fn a_slow_stream_keeps_its_order() -> Result<()> {
    attempts(|| {
        let scene = Scene::rated("0.8/10,0.8/60")?;
        let stream = scene.stream(AGGREGATE, PACE, SIZE, Duration::from_secs(10));
        let report = stream.run(scene.topology.ha(), scene.topology.hb())?;
        let shares = scene.shares()?;
        println!(
            "sent {}, lost {}, reordered {}, delay {:.1} to {:.1} ms, shares {shares:.2?}, striped and late {:?}",
            report.sent,
            report.lost,
            report.reordered,
            report.delay.min,
            report.delay.p99,
            scene.striped()?
        );
        ensure!(report.lost * 100 < report.sent, "{} of {} packets were lost", report.lost, report.sent);
        ensure!(report.reordered * 50 < report.sent, "{} of {} were out of order", report.reordered, report.sent);
        ensure!(shares.iter().all(|share| *share > 0.25), "not both links were used: {shares:?}");
        ensure!(report.delay.median >= SLOWEST, "packets came after {:.1} ms: nothing was held", report.delay.median);
        scene.close()
    })
}
