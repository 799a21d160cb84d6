//! `mpvpn` as its user sees it: commands, exit codes, messages, counters, and changes of the configuration.

mod commands;
mod configuration;
mod counters;
mod lifecycle;
mod privileges;
mod spreading;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use multipath_tests::{Daemon, Family, Gateway, LinkSpec, Output, Topology, traffic::Ping};
use serde_json::Value;

/// How long anything may take that has no limit of its own.
const PATIENCE: Duration = Duration::from_secs(5);

/// Labs share the machine: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// IPv4-only emulated links, as many.
fn topology(links: usize) -> Result<Topology> {
    Topology::new(&vec![LinkSpec::PERFECT.family(Family::V4); links])
}

/// Starts the tunnel's daemons on both gateways, with the configurations that the topology gives.
fn up(topology: &Topology) -> Result<[Daemon; 2]> {
    let [a, b] = topology.tunnel_configs(0);
    let daemons = [topology.a.up(&a)?, topology.b.up(&b)?];
    passes(topology)?;
    Ok(daemons)
}

/// Packets pass between the hosts, both ways, once there is a session.
fn passes(topology: &Topology) -> Result<()> {
    topology.wait_for_session("mp0")?;
    let report = Ping { count: 5, interval: Duration::ZERO, ..Ping::to(topology.b.host_v4()) }.run(topology.ha())?;
    ensure!(report.received == 5, "the hosts do not reach each other: {report:?}");
    Ok(())
}

/// Runs a command that must fail with this exit code; what it wrote to stderr.
fn fails<S: AsRef<std::ffi::OsStr>>(gateway: &Gateway, code: i32, arguments: &[S]) -> Result<String> {
    let output: Output = gateway.mpvpn(arguments)?;
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    Ok(output.stderr)
}

/// `mpvpn status mp0 --json`, the tunnel's object.
fn status(gateway: &Gateway) -> Result<Value> {
    let output = gateway.mpvpn(&["status", "mp0", "--json"])?;
    let status: Value = serde_json::from_str(output.success()?)?;
    status.pointer("/tunnels/0").cloned().context("there is no tunnel in the status")
}

/// The object of a path in `mpvpn path list --json`.
fn path(gateway: &Gateway, name: &str) -> Result<Value> {
    let paths = paths(gateway)?;
    paths.iter().find(|path| path["name"] == name).cloned().with_context(|| format!("no path {name} in {paths:?}"))
}

/// The objects of all paths in `mpvpn path list --json`.
fn paths(gateway: &Gateway) -> Result<Vec<Value>> {
    let output = gateway.mpvpn(&["path", "list", "mp0", "--json"])?;
    let list: Value = serde_json::from_str(output.success()?)?;
    list["paths"].as_array().cloned().context("there are no paths in the list")
}

/// Waits until something is so.
fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !is_so()? {
        if start.elapsed() > PATIENCE {
            bail!("not within {PATIENCE:?}: {what}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The lab goes, and nothing of it stays.
fn close(topology: Topology) -> Result<()> {
    let left = topology.lab.close()?;
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}
