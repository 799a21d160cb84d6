//! Gateways whose address changes under way, by themselves or in a translator: the other side follows with the
//! next probe, path by path.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use multipath_tests::traffic::UdpStream;
use multipath_tests::{End, Shape};

use crate::datagram::{CONTROL, DATA, HEADER};
use crate::recording::{Recording, send_some, withhold};
use crate::scene::{LINK, PROBE_INTERVAL, Scene, reaches};
use crate::state;
use crate::watch::Watch;
use multipath_tests::eventually;

/// The longest silence after a change: some intervals of the probes, and more for a busy machine.
const LONGEST_GAP_MS: f64 = 500.0;
const IDLE: Duration = Duration::from_secs(2);
/// How long a stream lasts, and what is sent before the change.
const STREAM: Duration = Duration::from_secs(2);
const BEFORE: Duration = Duration::from_millis(500);
/// Probes of the trains that tell what a path carries: a short one and three of the longest.
const TRAINS: usize = 4 + 3 * 48;
/// Where no gateway is.
const STRANGER: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 100, 0, 99), 4000);

#[test]
fn idle_paths_are_kept_alive() -> Result<()> {
    let mut scene = Scene::new(&[LINK; 2])?;
    let configs = scene.topology.tunnel_configs(0);
    scene.up(&configs, &[])?;
    thread::sleep(IDLE / 2);
    let recording = Recording::start(&scene.topology)?;
    thread::sleep(IDLE);
    let sent = recording.stop()?;
    // Probes of its own and answers; one more for the start and the end, and some to look for a larger MTU.
    let most = 2 * (IDLE.as_millis() / PROBE_INTERVAL.as_millis() + 1) as usize + 8 + 2 * TRAINS;
    for (link, from) in [(0, End::A), (0, End::B), (1, End::A), (1, End::B)] {
        let of_path = sent.iter().filter(|sent| (sent.link, sent.from) == (link, from));
        let times: Vec<u64> =
            of_path.filter(|sent| sent.datagram.kind() == CONTROL).map(|sent| sent.at_ns / 1_000_000).collect();
        let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        ensure!(times.len() <= most, "link {link}, from {from:?}: {} control messages", times.len());
        let longest = gaps.iter().max().context("nothing is said")?;
        ensure!(*longest <= 250, "link {link}, from {from:?}: {gaps:?} ms between control messages");
    }
    scene.close()
}

/// A gateway pair whose b does not know where a is, and has learned it.
fn learned() -> Result<Scene> {
    let mut scene = Scene::new(&[LINK; 2])?;
    let mut configs = scene.topology.tunnel_configs(0);
    configs[1].peers[0].endpoints.clear();
    scene.up(&configs, &[])?;
    let paths = || state::paths(&scene.topology.b);
    eventually("b has learned both paths", paths, |paths| {
        paths.len() == 2 && paths.iter().all(|path| path.learned && path.used)
    })?;
    Ok(scene)
}

/// What b sends to a for some seconds, and a change in the midst of it: the longest silence at a.
fn gap_over(scene: &Scene, change: impl FnOnce() -> Result<()>) -> Result<f64> {
    let topology = &scene.topology;
    let stream =
        UdpStream { linger: Duration::from_millis(100), ..UdpStream::to(topology.a.host_v4(), 500, 64, STREAM) };
    let running = stream.start(topology.hb(), topology.ha())?;
    thread::sleep(BEFORE);
    change()?;
    let report = running.finish()?;
    ensure!(report.received > 0, "nothing arrives");
    println!("a silence of {:.0} ms at {:.0} ms", report.largest_gap_ms, report.largest_gap_at_ms);
    Ok(report.largest_gap_ms)
}

/// Where b sends to on its path by this uplink.
fn remote(scene: &Scene, uplink: &str) -> Result<SocketAddr> {
    let paths = state::paths(&scene.topology.b)?;
    let mut paths = paths.into_iter().filter(|path| path.uplink == uplink && path.state != "down");
    let path = paths.next().with_context(|| format!("b has no path by {uplink}"))?;
    ensure!(paths.next().is_none(), "b has several paths by {uplink}");
    Ok(path.remote)
}

#[test]
fn a_translator_that_forgets_is_followed() -> Result<()> {
    // One path, so that what b sends has no other one.
    let mut scene = Scene::new(&[LINK.natted()])?;
    let configs = scene.topology.tunnel_configs(0);
    scene.up(&configs, &[])?;
    reaches(scene.topology.hb(), scene.topology.a.host_v4())?;
    let nat = scene.topology.connections[0].nat.as_ref().context("the link has NAT")?;

    let before = remote(&scene, "up0")?;
    let gap = gap_over(&scene, || nat.rebind())?;
    ensure!(gap < LONGEST_GAP_MS, "another port: a silence of {gap} ms");
    let port = remote(&scene, "up0")?;
    ensure!(port != before && port.ip() == before.ip(), "{before}, then {port}");

    let gap = gap_over(&scene, || {
        nat.router().ip("addr del 10.100.0.1/24 dev outside\naddr add 10.100.0.9/24 dev outside")?;
        nat.rebind()
    })?;
    ensure!(gap < LONGEST_GAP_MS, "another address: a silence of {gap} ms");
    let address = remote(&scene, "up0")?;
    ensure!(address.ip() == std::net::IpAddr::from([10, 100, 0, 9]), "{port}, then {address}");
    scene.streams()?;
    scene.close()
}

#[test]
fn an_uplink_with_another_address_is_followed() -> Result<()> {
    let scene = learned()?;
    let before = [remote(&scene, "up0")?, remote(&scene, "up1")?];
    let a = scene.topology.a.namespace();
    let gap = gap_over(&scene, || a.ip("addr del 10.100.0.1/24 dev up0\naddr add 10.100.0.77/24 dev up0"))?;
    ensure!(gap < LONGEST_GAP_MS, "a silence of {gap} ms");
    let after = [remote(&scene, "up0")?, remote(&scene, "up1")?];
    ensure!(after[0].ip() == std::net::IpAddr::from([10, 100, 0, 77]), "{before:?}, then {after:?}");
    ensure!(after[1] == before[1], "the other path stays: {before:?}, then {after:?}");
    scene.streams()?;
    scene.close()
}

#[test]
fn a_path_moves_by_authentic_packets_alone() -> Result<()> {
    let scene = learned()?;
    let topology = &scene.topology;
    let withheld = withhold(topology, || send_some(&topology.a, &topology.b))?;
    let data = withheld.iter().find(|sent| (sent.from, sent.datagram.kind()) == (End::A, DATA));
    let elsewhere = data.context("nothing was withheld")?.datagram.from(STRANGER.0, STRANGER.1);
    let before = [remote(&scene, "up0")?, remote(&scene, "up1")?];

    let mut watch = Watch::start(topology)?;
    let reason = watch.refused(0, End::B, &elsewhere.flipped(HEADER, 1))?;
    ensure!(reason == "bad_tag", "a changed packet is refused as {reason}");
    watch.unmoved()?;

    // The very packet unchanged: only a can have sent it, and it counts for its path alone.
    let link = topology.link(0)?;
    let whole = link.shape(End::A)?;
    link.set_shape(End::A, Shape { black_hole: true, ..whole })?;
    link.inject(End::B, elsewhere.frame())?;
    let remotes = || Ok([remote(&scene, "up0")?, remote(&scene, "up1")?]);
    eventually("b follows on this path", remotes, |now| *now == [SocketAddr::from(STRANGER), before[1]])?;
    // With the next probe that comes from there.
    link.set_shape(End::A, whole)?;
    eventually("b is back where a speaks from", remotes, |now| *now == before)?;
    let mut watch = Watch::start(topology)?;
    let reason = watch.refused(0, End::B, &elsewhere)?;
    ensure!(reason == "replayed", "a copy is refused as {reason}");
    watch.unmoved()?;
    scene.streams()?;
    scene.close()
}
