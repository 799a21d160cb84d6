//! Traffic on the uplinks that is not the tunnel's.

use anyhow::{Result, ensure};
use multipath_tests::traffic::UdpStream;
use multipath_tests::{Kind, LinkSpec};
use std::time::Duration;

use crate::journey::Journey;
use crate::scene::{LINK, Scene};
use crate::status::Status;

fn check(spec: LinkSpec, hook: &str) -> Result<()> {
    let scene = Scene::with_hook(&[spec], hook)?;
    let topology = &scene.topology;
    let [a, b] = [topology.a.namespace(), topology.b.namespace()];
    // Between the gateways' own addresses, beside a stream through the tunnel.
    let inner = scene.journeys()[0];
    inner.ping(84)?;
    let stream = UdpStream { port: 7100, ..UdpStream::to(inner.address, 500, 200, Duration::from_secs(1)) };
    let stream = stream.start(inner.from, inner.to)?;
    for journey in [
        Journey::new(a, b, [10, 100, 0, 2]),
        Journey::new(b, a, [10, 100, 0, 1]),
        Journey::new(a, b, [0xfd00, 0, 0, 0, 0, 0, 0, 2]),
        Journey::new(b, a, [0xfd00, 0, 0, 0, 0, 0, 0, 1]),
    ] {
        journey.pings(1500)?;
        journey.stream()?;
    }
    let report = stream.finish()?;
    ensure!((report.lost, report.duplicated) == (0, 0), "{} lost, {} duplicated", report.lost, report.duplicated);
    Journey::new(a, b, [10, 100, 0, 2]).tcp()?;

    // Through gateway b to somebody else's port of the same number.
    let raw = spec.kind == Kind::RawIp;
    let [v4, v6] = if raw { ["dev up0", "dev up0"] } else { ["via 10.100.0.2 dev up0", "via fd00::2 dev up0"] };
    a.ip(&format!("route replace 10.98.2.2/32 {v4}\nroute replace fd98:2::2/128 {v6}"))?;
    for to in [std::net::IpAddr::from(topology.b.host_v4()), topology.b.host_v6().into()] {
        for size in [24, 200, 1400] {
            let stream = UdpStream { port: 5182, ..UdpStream::to(to, 1000, size, Duration::from_millis(100)) };
            let report = stream.run(a, topology.hb())?;
            ensure!(
                report.received > 50 && (report.lost, report.duplicated, report.reordered) == (0, 0, 0),
                "to {to}, port 5182, {size} bytes: {} of {} packets arrived",
                report.received,
                report.sent
            );
        }
    }
    let drops = ["unknown_version", "unknown_session", "truncated", "oversized", "outer_fragment"];
    let status = Status::of(&topology.b, "mp0")?;
    ensure!(drops.iter().all(|reason| status.dropped(reason) == 0), "nothing of it is dropped: {status:?}");
    scene.close()
}

#[test]
fn passes_xdp() -> Result<()> {
    check(LINK, "native")
}

#[test]
fn passes_tc() -> Result<()> {
    check(LINK, "off")
}

#[test]
fn passes_tc_without_ethernet() -> Result<()> {
    check(LINK.kind(Kind::RawIp), "off")
}
