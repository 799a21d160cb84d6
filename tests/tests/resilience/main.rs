//! What a tunnel survives: daemons that die, links that are cut, starts that fail.
//!
//! Everything happens in the lab, with the real `mpvpn`. Nothing but real packets decides.

mod cut;
mod flow_paths;
mod flows;
mod restart;
mod start;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use multipath_loader::{
    dataplane::Pins,
    observe::{PathStatus, TunnelStatus, collect},
};
use multipath_tests::{Daemon, Gateway, Topology, TunnelConfig, traffic::Ping};

/// How long anything may take that has no limit of its own.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tests of timing must not disturb each other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the tunnel's daemons on both gateways, with the configurations that the topology gives.
fn up(topology: &Topology) -> Result<[Daemon; 2]> {
    up_with(topology, &topology.tunnel_configs(0))
}

/// The same, without encryption, for tests that read on the wire which flow a packet belongs to.
fn up_in_the_clear(topology: &Topology) -> Result<[Daemon; 2]> {
    let mut configs = topology.tunnel_configs(0);
    clear(&mut configs);
    up_with(topology, &configs)
}

fn clear(configs: &mut [TunnelConfig; 2]) {
    for peer in configs.iter_mut().flat_map(|config| &mut config.peers) {
        peer.cipher = Some("none".to_owned());
    }
}

fn up_with(topology: &Topology, [a, b]: &[TunnelConfig; 2]) -> Result<[Daemon; 2]> {
    let daemons = [topology.a.up(a)?, topology.b.up(b)?];
    meet(topology)?;
    Ok(daemons)
}

/// Resolves all neighbours, so that no packet of a measurement waits for that.
fn meet(topology: &Topology) -> Result<()> {
    for connection in &topology.connections {
        let far = connection.ends[1].v4.context("the link has IPv4")?;
        ensure!(Ping { count: 2, ..Ping::to(far) }.run(topology.a.namespace())?.received > 0, "{far} is not reached");
    }
    passes(topology)
}

/// Packets pass between the hosts, both ways, once there is a session.
fn passes(topology: &Topology) -> Result<()> {
    topology.wait_for_session("mp0")?;
    let report = Ping { count: 5, interval: Duration::ZERO, ..Ping::to(topology.b.host_v4()) }.run(topology.ha())?;
    ensure!(report.received == 5, "the hosts do not reach each other: {report:?}");
    Ok(())
}

/// What the maps of tunnel `mp0` say.
fn status(gateway: &Gateway) -> Result<TunnelStatus> {
    collect(&Pins::new(gateway.bpffs(), "mp0"))
}

/// All paths of tunnel `mp0`.
fn paths(gateway: &Gateway) -> Result<Vec<PathStatus>> {
    Ok(status(gateway)?.peers.into_iter().flat_map(|peer| peer.paths).collect())
}

/// A path of tunnel `mp0`.
fn path(gateway: &Gateway, name: &str) -> Result<PathStatus> {
    paths(gateway)?.into_iter().find(|path| path.name == name).with_context(|| format!("there is no path {name}"))
}

/// Waits until something is so, and says how long that took.
fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let start = Instant::now();
    while !is_so()? {
        if start.elapsed() > PATIENCE {
            bail!("not within {PATIENCE:?}: {what}");
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(start.elapsed())
}

/// Nothing of tunnel `mp0` is on the gateway: no device, no pins, no programs.
fn assert_nothing_of_it(gateway: &Gateway) -> Result<()> {
    let links = gateway.namespace().output(&["ip", "-brief", "link"], PATIENCE)?;
    assert!(!links.success()?.contains("mp0"), "{}", links.stdout);
    assert!(!gateway.bpffs().join("mpvpn").exists(), "pins are left");
    let programs = gateway.namespace().output(&["bpftool", "net"], PATIENCE)?;
    assert!(!programs.success()?.contains("gress"), "{}", programs.stdout);
    Ok(())
}

/// The lab goes, and nothing of it stays.
fn close(topology: Topology) -> Result<()> {
    let left = topology.lab.close()?;
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}
