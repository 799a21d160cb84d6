//! Flows beside each other: bulk flows share evenly, interactive ones do not feel them.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use multipath_tests::traffic::Ping;

use crate::scene::{AGGREGATE, DUPLICATE, PIN, Scene, attempts, class_list, p95};

/// How much later interactive packets may be beside a bulk flow, milliseconds. As much again as the project promises, for a
/// busy machine.
const LATER_MS: f64 = 2.0 * 15.0;

/// Jain's index of fairness: 1 when all get the same, 1/n when one gets everything.
fn jain(rates: &[f64]) -> f64 {
    let (sum, squares): (f64, f64) = (rates.iter().sum(), rates.iter().map(|rate| rate * rate).sum());
    sum * sum / (rates.len() as f64 * squares)
}

#[test]
fn two_bulk_flows_share_evenly() -> Result<()> {
    attempts(|| {
        let scene = Scene::rated("10/10,10/40")?;
        let mut flow = scene.flow(AGGREGATE);
        (flow.streams, flow.seconds) = (2, 12);
        let report = scene.run(&flow)?;
        let fairness = jain(&report.flows_mbps);
        println!("{:.1?} Mbit/s: {fairness:.2}", report.flows_mbps);
        ensure!(fairness >= 0.9, "{:?} Mbit/s: Jain's index {fairness:.2}", report.flows_mbps);
        scene.close()
    })
}

/// Also one that began before its paths were measured: echo requests between two hosts are one flow.
#[test]
fn a_thin_flow_takes_the_nearest_path() -> Result<()> {
    let scene = Scene::new("10/40,10/10,10/80")?;
    let ping = Ping { count: 20, ..Ping::to(scene.b().host_v4()) }.run(scene.topology.ha())?;
    println!("{:.1?} ms", ping.rtts_ms);
    ensure!(ping.median_ms() < 40.0, "the round trip is {:.1} ms, by the nearest path 20", ping.median_ms());
    scene.close()
}

/// Echo requests, and a stream like a voice's, are as fast as without the bulk flow.
#[test]
fn interactive_flows_beside_a_bulk_flow() -> Result<()> {
    attempts(|| {
        let scene = Scene::rated("10/10,10/40")?;
        let (ha, hb) = (scene.topology.ha(), scene.topology.hb());
        let ping = Ping { count: 100, ..Ping::to(scene.b().host_v4()) };
        let voice = scene.stream(PIN, 50, 160, Duration::from_secs(5));
        let idle = [p95(&ping.run(ha)?.rtts_ms), p95(&voice.run(ha, hb)?.delays_ms)];

        let mut flow = scene.flow(AGGREGATE);
        (flow.omit, flow.seconds) = (0, 14);
        let running = flow.start(ha, hb)?;
        thread::sleep(Duration::from_secs(4));
        let loaded = [p95(&ping.run(ha)?.rtts_ms), p95(&voice.run(ha, hb)?.delays_ms)];
        let bulk = running.finish()?.received_mbps;
        println!("idle {idle:.1?} ms, beside {bulk:.1} Mbit/s {loaded:.1?} ms");
        ensure!(bulk > 9.0, "the bulk flow has {bulk:.1} Mbit/s only");
        for (idle, loaded) in idle.into_iter().zip(loaded) {
            ensure!(loaded <= idle + LATER_MS, "{idle:.1} ms idle, {loaded:.1} ms beside a bulk flow");
        }
        scene.close()
    })
}

/// Copies are for idle paths: beside a bulk flow there are fewer, and the packets arrive all the same.
#[test]
fn duplication_takes_itself_back() -> Result<()> {
    attempts(|| {
        let scene = Scene::rated("10/10,10/20")?;
        let (ha, hb) = (scene.topology.ha(), scene.topology.hb());
        let voice = scene.stream(DUPLICATE, 50, 160, Duration::from_secs(4));
        let copies = || -> Result<u64> {
            let list = class_list(scene.a())?;
            Ok(list
                .iter()
                .flat_map(|class| &class.carried)
                .filter(|way| way.class == "duplicate")
                .map(|way| way.copies)
                .sum())
        };
        let idle = voice.run(ha, hb)?;
        let copies_idle = copies()?;

        let mut flow = scene.flow(AGGREGATE);
        (flow.omit, flow.seconds) = (0, 10);
        let running = flow.start(ha, hb)?;
        thread::sleep(Duration::from_secs(4));
        let loaded = voice.run(ha, hb)?;
        let copies_loaded = copies()? - copies_idle;
        let bulk = running.finish()?.received_mbps;
        println!(
            "of {} packets {copies_idle} went twice, beside {bulk:.1} Mbit/s {copies_loaded} of {}, {} lost",
            idle.sent, loaded.sent, loaded.lost
        );
        ensure!(copies_idle * 10 >= idle.sent * 9, "{copies_idle} copies of {} packets", idle.sent);
        ensure!(
            copies_loaded * 4 <= loaded.sent * 3,
            "{copies_loaded} copies of {} packets beside a bulk flow",
            loaded.sent
        );
        ensure!(loaded.lost * 20 <= loaded.sent, "{} of {} packets were lost", loaded.lost, loaded.sent);
        scene.close()
    })
}
