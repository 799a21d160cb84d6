//! Two tunnels on one pair of gateways, over the same uplinks.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use multipath_tests::traffic::UdpStream;

use crate::journey::Journey;
use crate::scene::{LINK, Scene, up_both};
use crate::status::Status;

#[test]
fn both_carry_traffic_and_go_one_after_the_other() -> Result<()> {
    let mut scene = Scene::new(&[LINK; 2])?;
    let second = up_both(&scene.topology, &scene.topology.tunnel_configs(1))?;
    for daemon in &scene.daemons {
        ensure!(daemon.log().contains("by xdp native"), "mp0 has the driver's XDP:\n{}", daemon.log());
    }
    for daemon in &second {
        ensure!(!daemon.log().contains("by xdp"), "an interface has one XDP program, mp1 takes TC:\n{}", daemon.log());
    }
    scene.daemons.extend(second);
    let topology = &scene.topology;
    let [a, b] = [topology.a.namespace(), topology.b.namespace()];
    let in_tunnel = |number: u8| -> [Journey<'_>; 4] {
        let v6 = |last| IpAddr::from([0xfd99, number.into(), 0, 0, 0, 0, 0, last]);
        [
            Journey::new(a, b, [10, 99, number, 2]),
            Journey::new(a, b, v6(2)),
            Journey::new(b, a, [10, 99, number, 1]),
            Journey::new(b, a, v6(1)),
        ]
    };
    for number in [0, 1] {
        for journey in in_tunnel(number) {
            journey.pings(1416)?;
            journey.sweep(100..=103, 40)?;
        }
        in_tunnel(number)[usize::from(number)].tcp()?;
    }
    let first = UdpStream::to([10, 99, 0, 2], 500, 200, Duration::from_millis(300)).start(a, b)?;
    let other = UdpStream { port: 7001, ..UdpStream::to([10, 99, 1, 2], 500, 200, Duration::from_millis(1500)) };
    let other = other.start(a, b)?;
    let report = first.finish()?;
    ensure!(report.lost == 0, "{} packets of mp0 are lost", report.lost);
    for gateway in [&topology.a, &topology.b] {
        for name in ["mp0", "mp1"] {
            let status = Status::of(gateway, name)?;
            ensure!(status.name == name && status.paths().all(|path| path.ingress.packets > 0), "{status:?}");
        }
        gateway.mpvpn(&["down", "mp0"])?.success()?;
    }
    let report = other.finish()?;
    ensure!(
        (report.lost, report.duplicated, report.reordered) == (0, 0, 0),
        "mp1 goes on while mp0 is taken down: {} lost, {} duplicated, {} reordered",
        report.lost,
        report.duplicated,
        report.reordered
    );
    for daemon in &mut scene.daemons[..2] {
        daemon.wait(Duration::from_secs(5))?;
    }
    for journey in in_tunnel(1) {
        journey.pings(1416)?;
    }
    for gateway in [&topology.a, &topology.b] {
        ensure!(Status::of(gateway, "mp0").is_err(), "mp0 has no status any more");
        gateway.mpvpn(&["down", "mp1"])?.success()?;
        let links = gateway.namespace().output(&["ip", "-details", "link"], Duration::from_secs(5))?;
        let links = links.success()?;
        ensure!(
            !links.contains("mp0") && !links.contains("mp1") && !links.contains("xdp "),
            "nothing is left:\n{links}"
        );
        let pins = gateway.bpffs().join("mpvpn");
        let left = std::fs::read_dir(&pins).map_or(0, Iterator::count);
        ensure!(left == 0, "{left} entries are left in {}", pins.display());
    }
    for daemon in &mut scene.daemons[2..] {
        daemon.wait(Duration::from_secs(5))?;
    }
    scene.daemons.clear();
    scene.close()
}
