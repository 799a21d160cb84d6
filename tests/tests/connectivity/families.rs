//! Inner IPv4 and IPv6 over outer IPv4, IPv6 and both, received by every hook.

use anyhow::{Context, Result, ensure};
use multipath_tests::Family;

use crate::journey::Journey;
use crate::scene::{LINK, Scene};
use crate::status::Status;

/// The hooks by their names in the configuration, and in the daemon's log.
const HOOKS: [(&str, &str); 3] = [("native", "xdp native"), ("generic", "xdp generic"), ("off", "tc")];

fn carries_everything(family: Family) -> Result<()> {
    for (hook, name) in HOOKS {
        check(family, hook, name).with_context(|| format!("outer {family:?}, received by {name}"))?;
    }
    Ok(())
}

fn check(family: Family, hook: &str, name: &str) -> Result<()> {
    let scene = Scene::with_hook(&[LINK.family(family); 2], hook)?;
    for daemon in &scene.daemons {
        let attached = daemon.log().lines().filter(|line| line.ends_with(&format!(" by {name}"))).count();
        ensure!(attached == 2, "both uplinks receive by {name}; the log:\n{}", daemon.log());
    }
    let mtu = Status::of(&scene.topology.a, "mp0")?.mtu as usize;
    ensure!(mtu == if family == Family::V4 { 1500 - 64 } else { 1500 - 84 }, "the MTU is {mtu}");
    for journey in scene.journeys() {
        journey.pings(mtu)?;
        journey.sweep(mtu - 20..=mtu, 2)?;
        journey.sweep(100..=103, 20)?;
    }
    for journey in &scene.journeys()[..2] {
        journey.stream()?;
        journey.sweep(journey.ip_header() + 8..=mtu, 1)?;
    }
    Journey::tcp_all(&scene.journeys())?;
    for gateway in [&scene.topology.a, &scene.topology.b] {
        let status = Status::of(gateway, "mp0")?;
        let paths = if family == Family::Dual { 4 } else { 2 };
        ensure!(status.paths().filter(|path| path.is_up()).count() == paths, "{paths} paths are up: {status:?}");
        let unused = status.paths().find(|path| path.egress.packets == 0 || path.ingress.packets == 0);
        ensure!(unused.is_none(), "every path carries packets both ways: {unused:?}");
    }
    scene.close()
}

#[test]
fn over_ipv4() -> Result<()> {
    carries_everything(Family::V4)
}

#[test]
fn over_ipv6() -> Result<()> {
    carries_everything(Family::V6)
}

#[test]
fn over_both() -> Result<()> {
    carries_everything(Family::Dual)
}
