//! Several source ports for one uplink, against those who limit each flow.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use multipath_tests::{
    config::LISTEN_PORT,
    traffic::{Capture, UdpStream},
};

use crate::{
    scene::{Scene, delayed},
    status::paths,
};

const FLOWS: u16 = 3;
/// Bytes a second that the router grants to each flow.
const GRANTED: u32 = 400_000;
/// Some three times as much: payload in bytes, packets a second.
const SIZE: u16 = 1200;
const PACE: u32 = 1000;

fn scene(flows: u16, is_natted: bool) -> Result<Scene> {
    let link = if is_natted { delayed(5).natted() } else { delayed(5) };
    Scene::with(&[link], |_, configs| {
        configs[0].uplinks[0].flows = (flows > 1).then(|| flows.into());
        Ok(())
    })
}

fn load(scene: &Scene, duration: Duration) -> Result<multipath_tests::traffic::StreamReport> {
    let stream = UdpStream {
        flows: 60,
        linger: Duration::from_millis(200),
        ..UdpStream::to(scene.b().host_v4(), PACE, SIZE, duration)
    };
    stream.run(scene.topology.ha(), scene.topology.hb())
}

#[test]
fn every_flow_is_a_path_of_its_own() -> Result<()> {
    let scene = scene(FLOWS, false)?;
    let found = paths(scene.a())?;
    let names: Vec<&str> = found.iter().map(|path| path.name.as_str()).collect();
    ensure!(names == ["b/up0", "b/up0#2", "b/up0#3"], "{found:?}");
    let ports: BTreeSet<u16> = found.iter().filter_map(|path| Some(path.local?.port())).collect();
    ensure!(ports == (LISTEN_PORT..LISTEN_PORT + FLOWS).collect(), "{found:?}");
    ensure!(found.iter().all(|path| path.used), "{found:?}");

    let capture = Capture::start(scene.a().namespace(), "up0")?;
    let report = load(&scene, Duration::from_millis(500))?;
    ensure!((report.lost, report.duplicated) == (0, 0), "{report:?}");
    let sent = capture.stop()?;
    for port in ports {
        let is_data = |frame: &[u8]| frame.len() > usize::from(SIZE) && frame.get(34..36) == Some(&port.to_be_bytes());
        let packets = sent.iter().filter(|frame| frame.is_outgoing && is_data(&frame.bytes)).count();
        println!("port {port}: {packets} packets");
        // A third of them, by 60 flows.
        ensure!(packets as u64 > report.sent / 10, "port {port} has sent {packets} of {}", report.sent);
    }
    // And back: the other gateway answers to each of them.
    let back =
        UdpStream { flows: 60, ..UdpStream::to(scene.topology.a.host_v4(), PACE, 200, Duration::from_millis(300)) };
    let report = back.run(scene.topology.hb(), scene.topology.ha())?;
    ensure!((report.lost, report.duplicated) == (0, 0), "{report:?}");
    scene.close()
}

/// What arrives of a load behind a router that limits every flow.
fn policed(flows: u16) -> Result<f64> {
    let scene = scene(flows, true)?;
    let nat = scene.topology.connections[0].nat.as_ref().context("there is a router")?;
    let rules = format!(
        "add table inet police\n\
         add set inet police flows {{ type inet_service; size 100; flags dynamic; }}\n\
         add chain inet police forward {{ type filter hook forward priority 10; }}\n\
         add rule inet police forward iifname \"inside\" update @flows {{ udp sport limit rate over {GRANTED} bytes/second burst 20000 bytes }} drop\n"
    );
    let file = scene.a().directory().join("police.nft");
    std::fs::write(&file, rules)?;
    let file = file.to_str().context("the lab's paths are text")?;
    nat.router().output(&["nft", "-f", file], Duration::from_secs(5))?.success()?;
    let report = load(&scene, Duration::from_secs(3))?;
    println!("{flows} flows: of {} packets {:.1} % lost", report.sent, report.loss() * 100.0);
    scene.close()?;
    Ok(1.0 - report.loss())
}

#[test]
fn a_limit_of_every_flow_is_met_by_several() -> Result<()> {
    let one = policed(1)?;
    let three = policed(FLOWS)?;
    // One flow gets 400 of 1300 kB/s, three get 1200, as far as inner flows are spread evenly.
    ensure!(one < 0.5 && three > 0.7, "one flow {one:.2}, three {three:.2}");
    Ok(())
}
