//! One flow is faster than the best of its links.

use std::time::Duration;

use anyhow::{Result, ensure};
use multipath_tests::{Profile, traffic::QuicFlow};

use crate::scene::{AGGREGATE, Scene, attempts, tcp_counter};

/// Two links of the same rate, of which one takes 90 ms longer.
const LINKS: &str = "10/10,10/100";
/// As far above the best link as no error of a measurement reaches. The bench says how far it is.
const FASTER: f64 = 1.2;

/// What one of them carries of TCP payload at most, by arithmetic: the headers of the tunnel are off.
fn best_mbps() -> Result<f64> {
    Ok(Profile::from_links(LINKS)?.links[0].payload_mbps(1436, 52, 64))
}

/// By rule, from its first packet on. Its packets come in order: the sender sees next to none that overtake others.
#[test]
fn a_tcp_flow_by_rule() -> Result<()> {
    attempts(|| {
        let scene = Scene::rated(LINKS)?;
        let overtaken = || -> Result<u64> {
            let ha = scene.topology.ha();
            Ok(tcp_counter(ha, "TCPSACKReorder")? + tcp_counter(ha, "TCPTSReorder")?)
        };
        let before = overtaken()?;
        let report = scene.run(&scene.flow(AGGREGATE))?;
        let overtaken = overtaken()? - before;
        let (striped, late) = scene.striped()?;
        println!("of {striped} striped packets {late} were late; the sender has seen {overtaken} overtaken");
        let best = best_mbps()?;
        ensure!(report.received_mbps > FASTER * best, "{:.1} Mbit/s, one link {best:.1}", report.received_mbps);
        ensure!(
            late * 50 < striped && overtaken * 50 < striped,
            "of {striped} packets {late} late, {overtaken} overtaken"
        );
        scene.close()
    })
}

/// No rule says anything about it: it becomes aggregate because it fills its path.
#[test]
fn a_tcp_flow_that_turns_out_to_be_bulk() -> Result<()> {
    attempts(|| {
        let scene = Scene::new("10/10,10/30")?;
        let mut flow = scene.flow(5201);
        flow.omit = 15;
        let report = scene.run(&flow)?;
        let best = best_mbps()?;
        ensure!(report.received_mbps > FASTER * best, "{:.1} Mbit/s, one link {best:.1}", report.received_mbps);
        scene.close()
    })
}

/// QUIC holds a packet for lost when three that were sent later are acknowledged: it needs the order more than TCP.
#[test]
fn a_quic_flow_by_rule() -> Result<()> {
    attempts(|| {
        let scene = Scene::rated(LINKS)?;
        let flow = QuicFlow { port: AGGREGATE, ..QuicFlow::to(scene.b().host_v4(), Duration::from_secs(10)) };
        let report = flow.run(scene.topology.ha(), scene.topology.hb())?;
        let intervals = &report.received_per_interval;
        let late = &intervals[intervals.len() / 2..];
        let mbps = late.iter().sum::<u64>() as f64 * 8.0 / (late.len() as f64 * 1e5);
        println!(
            "{mbps:.1} Mbit/s in the second half, {} of {} packets lost",
            report.lost_packets, report.sent_packets
        );
        let best = best_mbps()?;
        ensure!(mbps > FASTER * best, "{mbps:.1} Mbit/s, one link {best:.1}");
        scene.close()
    })
}
