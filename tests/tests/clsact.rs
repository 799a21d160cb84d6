//! TC programs attached by a clsact qdisc, as kernels before 6.6 need it.

use std::time::Duration;

use anyhow::{Result, ensure};
use multipath_tests::{
    Family, LinkSpec, Topology,
    traffic::{Ping, UdpStream},
};

const CLSACT: &[&str] = &["--clsact"];

/// How many of our filters an interface's ingress has.
fn filters(topology: &Topology, interface: &str) -> Result<usize> {
    let shown = topology
        .a
        .namespace()
        .output(&["tc", "filter", "show", "dev", interface, "ingress"], Duration::from_secs(5))?;
    Ok(shown.stdout.matches("direct-action").count())
}

#[test]
fn filters_carry_the_tunnel_are_replaced_and_removed() -> Result<()> {
    let link = LinkSpec::VETH.family(Family::V4);
    let topology = Topology::new(&[link, link])?;
    let [mut at_a, mut at_b] = topology.tunnel_configs(0);
    for uplink in at_a.uplinks.iter_mut().chain(&mut at_b.uplinks) {
        uplink.xdp = Some("off".to_owned());
    }
    let file_a = topology.a.write_config(&at_a)?;
    let file_b = topology.b.write_config(&at_b)?;
    let mut daemon_a = topology.a.daemon_with(&file_a, CLSACT)?;
    let mut daemon_b = topology.b.daemon_with(&file_b, CLSACT)?;
    topology.wait_for_session("mp0")?;
    let ping = Ping::to(topology.b.host_v4()).run(topology.ha())?;
    ensure!(ping.received == ping.sent, "{ping:?}");
    for interface in ["up0", "up1", "mp0-port"] {
        ensure!(filters(&topology, interface)? == 1, "{interface}");
    }

    let stream = UdpStream::to(topology.b.host_v4(), 2000, 200, Duration::from_secs(3));
    let stream = stream.start(topology.ha(), topology.hb())?;
    for _ in 0..2 {
        daemon_a.kill()?;
        daemon_b.kill()?;
        daemon_a = topology.a.daemon_with(&file_a, CLSACT)?;
        daemon_b = topology.b.daemon_with(&file_b, CLSACT)?;
    }
    let report = stream.finish()?;
    ensure!(report.lost == 0 && report.duplicated == 0, "lost {}, duplicated {}", report.lost, report.duplicated);
    for interface in ["up0", "up1", "mp0-port"] {
        ensure!(filters(&topology, interface)? == 1, "{interface} after restarts");
    }

    topology.a.mpvpn(&["down", "mp0"])?.success()?;
    daemon_a.wait(Duration::from_secs(5))?;
    for interface in ["up0", "up1"] {
        ensure!(filters(&topology, interface)? == 0, "{interface} after down");
    }
    topology.b.mpvpn(&["down", "mp0"])?.success()?;
    daemon_b.wait(Duration::from_secs(5))?;
    let leftovers = topology.lab.close()?;
    ensure!(leftovers.is_empty(), "{leftovers:?}");
    Ok(())
}
