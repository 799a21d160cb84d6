//! Striped packets come in order, and the time that this takes follows the links.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};

use crate::scene::{AGGREGATE, PATIENCE, Scene, attempts, paths, peer, status, until};

/// Packets a second and their bytes of UDP payload: 1292 bytes each on a link, so three quarters of two links of 10 Mbit/s.
const PACE: u32 = 1450;
const SIZE: u16 = 1200;

#[test]
fn a_stream_over_unequal_links_keeps_its_order() -> Result<()> {
    attempts(|| {
        let scene = Scene::rated("10/10,10/60")?;
        let report = scene
            .stream(AGGREGATE, PACE, SIZE, Duration::from_secs(5))
            .run(scene.topology.ha(), scene.topology.hb())?;
        let shares = scene.shares()?;
        let unheld: u64 = paths(scene.b())?.iter().map(|path| path.arrivals.unheld).sum();
        println!(
            "sent {}, lost {}, reordered {}, delay {:.1} to {:.1} ms, shares {shares:.2?}, {} late, {unheld} not held",
            report.sent,
            report.lost,
            report.reordered,
            report.delay.min,
            report.delay.p99,
            scene.striped()?.1
        );
        ensure!(report.duplicated == 0, "{} packets came twice", report.duplicated);
        ensure!(report.lost * 100 < report.sent, "{} of {} packets were lost", report.lost, report.sent);
        ensure!(report.reordered * 100 < report.sent, "{} of {} were out of order", report.reordered, report.sent);
        ensure!(shares.iter().all(|share| *share > 0.25), "not both links were used: {shares:?}");
        scene.close()
    })
}

/// A link becomes slower by 60 ms while packets pass, and fast again: so does what all packets wait for.
#[test]
fn the_delay_follows_the_links() -> Result<()> {
    attempts(|| {
        let scene = Scene::rated("10/10,10/20")?;
        let stream = scene
            .stream(AGGREGATE, PACE, SIZE, Duration::from_mins(1))
            .start(scene.topology.ha(), scene.topology.hb())?;
        let spread_ms = || -> Result<f64> { Ok(f64::from(peer(scene.b())?.bond.spread_in_us) / 1000.0) };
        until("the spread is known", PATIENCE, || Ok(spread_ms()? >= 10.0))?;
        thread::sleep(Duration::from_secs(1));
        let before = spread_ms()?;
        ensure!(before < 40.0, "a spread of {before:.1} ms for links that differ by 10 ms");
        scene.topology.link(1)?.change(|shape| shape.delay_us = 80_000)?;
        until("the spread has grown", PATIENCE, || Ok(spread_ms()? >= 70.0))?;
        thread::sleep(Duration::from_secs(1));
        scene.is_in_order()?;
        scene.topology.link(1)?.change(|shape| shape.delay_us = 20_000)?;
        // Down it goes by 5 ms a second at most, once it is sure.
        until("the spread has shrunk", Duration::from_mins(1), || Ok(spread_ms()? < 50.0))?;
        scene.is_in_order()?;
        let report = stream.stop()?;
        println!("sent {}, lost {}, reordered {}", report.sent, report.lost, report.reordered);
        ensure!(report.lost * 50 < report.sent, "{} of {} packets were lost", report.lost, report.sent);
        scene.close()
    })
}

/// What the file says, packets are held for, and no longer: by the kernel where it can, else by the daemon.
#[test]
fn a_delay_that_is_configured() -> Result<()> {
    attempts(|| {
        let scene = Scene::with("10/10,10/20", |configs| {
            configs[1].tunnel.playout_delay = Some("120ms".to_owned());
        })?;
        let report =
            scene.stream(AGGREGATE, 200, SIZE, Duration::from_secs(3)).run(scene.topology.ha(), scene.topology.hb())?;
        let held_by = status(scene.b())?.held_by;
        println!(
            "held by {held_by}: delay {:.1} to {:.1} ms, reordered {}",
            report.delay.min, report.delay.p99, report.reordered
        );
        let fq = scene.topology.hb().output(&["tc", "qdisc", "replace", "dev", "lo", "root", "fq"], PATIENCE)?;
        let expected = if fq.success().is_ok() { "fq" } else { "daemon" };
        ensure!(held_by == expected, "held by {held_by}, not by {expected}");
        // Beyond the nearest path's 10 ms.
        ensure!((125.0..150.0).contains(&report.delay.median), "{:?}", report.delay);
        ensure!(report.lost == 0 && report.reordered == 0, "{} lost, {} reordered", report.lost, report.reordered);
        scene.close()
    })
}
