//! Gateway a behind NAT: b learns where it is.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use multipath_tests::Family;
use multipath_tests::traffic::UdpStream;

use crate::journey::Journey;
use crate::scene::{LINK, Scene};
use crate::status::{Path, Status};
use multipath_tests::eventually;

/// Some intervals of the probes of an idle path, and more for a busy machine.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(1);

fn paths_of_b(scene: &Scene) -> Result<Vec<Path>> {
    Ok(Status::of(&scene.topology.b, "mp0")?.paths().cloned().collect())
}

fn has_learned(path: &Path, scene: &Scene, link: usize) -> bool {
    let ports = scene.topology.connections[link].nat.as_ref().map(multipath_tests::Nat::ports);
    path.learned && path.is_up() && ports.is_some_and(|(first, last)| (first..=last).contains(&path.remote.port()))
}

#[test]
fn the_side_without_endpoint_learns_it_and_follows_a_rebind() -> Result<()> {
    let scene = Scene::new(&[LINK.family(Family::V4).natted()])?;
    let topology = &scene.topology;
    let [there, _, back, _] = scene.journeys();
    let learned = eventually(
        "b has learned the path from a's probes",
        || paths_of_b(&scene),
        |paths| matches!(&paths[..], [path] if has_learned(path, &scene, 0)),
    )?;
    let outside = topology.connections[0].ends[1].v4.context("IPv4")?;
    ensure!(learned[0].remote.ip() == SocketAddr::from(([10, 100, 0, 1], 0)).ip(), "{learned:?} as seen by {outside}");
    let status = Status::of(&topology.a, "mp0")?;
    ensure!(status.paths().all(|path| !path.learned), "a has b in its configuration: {status:?}");
    back.meet()?;
    for journey in [back, there] {
        journey.pings(Status::of(&topology.b, "mp0")?.mtu as usize)?;
        journey.stream()?;
    }
    Journey::tcp_all(&[back, there])?;

    let nat = topology.connections[0].nat.as_ref().context("the link has NAT")?;
    let stream = UdpStream::to(there.address, 500, 200, Duration::from_secs(1)).start(there.from, there.to)?;
    thread::sleep(Duration::from_millis(300));
    nat.rebind()?;
    let report = stream.finish()?;
    let by_our_own = report.refused + report.overflowed;
    ensure!(
        report.lost == by_our_own && report.duplicated == 0,
        "what a sends goes on through the new mapping: {} lost, {by_our_own} of them at the hosts, {} duplicated; dropped by a: {:?}, by b: {:?}; paths of b: {:?}",
        report.lost,
        report.duplicated,
        Status::of(&topology.a, "mp0")?.drops(),
        Status::of(&topology.b, "mp0")?.drops(),
        paths_of_b(&scene)?
    );
    let followed = eventually(
        "b has followed to the new port",
        || paths_of_b(&scene),
        |paths| matches!(&paths[..], [path] if has_learned(path, &scene, 0)),
    )?;
    ensure!(followed[0].remote != learned[0].remote && followed[0].id == learned[0].id, "{learned:?}, {followed:?}");
    back.stream()?;
    back.tcp()?;

    nat.rebind()?;
    let start = Instant::now();
    eventually(
        "b has followed once more, without a packet of the hosts",
        || paths_of_b(&scene),
        |paths| matches!(&paths[..], [path] if has_learned(path, &scene, 0) && path.remote != followed[0].remote),
    )?;
    let took = start.elapsed();
    ensure!(took < FOLLOWED_WITHIN, "b follows with the next probe, not after {took:?}");
    back.stream()?;
    scene.close()
}

#[test]
fn two_links_with_nat() -> Result<()> {
    let scene = Scene::new(&[LINK.natted(), LINK.natted()])?;
    let [there_v4, there_v6, back_v4, back_v6] = scene.journeys();
    let paths = eventually(
        "b has learned all four paths",
        || paths_of_b(&scene),
        |paths| {
            paths.len() == 4 && paths.iter().all(|path| has_learned(path, &scene, usize::from(path.uplink == "up1")))
        },
    )?;
    ensure!(paths.iter().filter(|path| path.remote.is_ipv6()).count() == 2, "{paths:?}");
    // Many flows, so that each of the four paths carries one.
    for journey in [back_v4, back_v6, there_v4, there_v6] {
        journey.sweep(100..=103, 40)?;
        journey.stream()?;
    }
    back_v6.tcp()?;
    let unused = paths_of_b(&scene)?.into_iter().find(|path| path.egress.packets == 0 || path.ingress.packets == 0);
    ensure!(unused.is_none(), "every learned path carries packets both ways: {unused:?}");
    scene.close()
}
