//! Routes that lead the tunnel into itself, or into another tunnel.

use std::time::Duration;

use anyhow::{Result, ensure};
use multipath_tests::TunnelConfig;
use multipath_tests::config::{EndpointEntry, UplinkSection};
use multipath_tests::traffic::Capture;

use crate::journey::Journey;
use crate::packet::Outer;
use crate::scene::{LINK, Scene, up_both};
use crate::status::Status;
use multipath_tests::eventually;

/// All traffic of gateway a goes through the tunnel, although the tunnel itself reaches b only by the default route.
#[test]
fn a_default_route_through_the_tunnel_does_not_loop_it() -> Result<()> {
    let scene = Scene::with(&[LINK.natted()], |topology, [a, _]| {
        topology.a.namespace().ip("route del 10.100.0.0/24\n\
             route del fd00::/64\n\
             route add default via 192.168.100.1 dev up0\n\
             route add default via fd01::1 dev up0")?;
        topology.b.namespace().ip("addr add 203.0.113.1/32 dev lo\naddr add 2001:db8::1/128 dev lo nodad")?;
        a.peers[0].allowed_ips = vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()];
        Ok(())
    })?;
    let topology = &scene.topology;
    let [there_v4, there_v6, back_v4, back_v6] = scene.journeys();
    let everywhere = [
        Journey::new(topology.ha(), topology.b.namespace(), [203, 0, 113, 1]),
        Journey::new(topology.ha(), topology.b.namespace(), [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
    ];
    everywhere[0].sweep(100..=103, 40)?;
    there_v4.meet()?;
    let capture = Capture::start(topology.a.namespace(), "up0")?;
    for journey in everywhere.iter().chain([&there_v4, &there_v6, &back_v4, &back_v6]) {
        journey.sweep(100..=120, 4)?;
        journey.ping(1416)?;
        journey.stream()?;
    }
    let captured = capture.stop()?;
    let sent = Outer::sent(&captured, 5182)?;
    ensure!(sent.len() > 500, "the tunnel leaves by the uplink: {} packets", sent.len());
    there_v4.tcp()?;
    let addresses: Vec<_> = Status::of(&topology.a, "mp0")?.paths().map(|path| (path.is_up(), path.remote)).collect();
    ensure!(addresses.iter().filter(|(is_up, _)| *is_up).count() == 2, "{addresses:?}");

    // The daemon looks at the routes again.
    topology.a.namespace().ip("link set up0 mtu 1450")?;
    let mtu = || Ok(Status::of(&topology.a, "mp0")?.mtu);
    eventually("the MTU follows", mtu, |mtu| *mtu == 1450 - 84)?;
    for journey in everywhere {
        journey.stream()?;
    }
    scene.close()
}

/// `mp1` has `mp0` as its uplink.
#[test]
fn a_tunnel_in_a_tunnel() -> Result<()> {
    let mut scene = Scene::new(&[LINK; 2])?;
    let topology = &scene.topology;
    let mut configs = topology.tunnel_configs(1);
    for (config, remote) in configs.iter_mut().zip([2_u8, 1]) {
        lead_through_mp0(config, remote)?;
    }
    let inner = up_both(topology, &configs)?;
    let mtu = Status::of(&topology.a, "mp1")?.mtu as usize;
    ensure!(mtu == 1416 - 84, "the inner tunnel's MTU is {mtu}");
    let [a, b] = [topology.a.namespace(), topology.b.namespace()];
    let journeys = [
        Journey::new(a, b, [10, 99, 1, 2]),
        Journey::new(b, a, [10, 99, 1, 1]),
        Journey::new(a, b, [0xfd99, 1, 0, 0, 0, 0, 0, 2]),
        Journey::new(b, a, [0xfd99, 1, 0, 0, 0, 0, 0, 1]),
    ];
    for journey in &journeys {
        journey.pings(mtu)?;
        journey.sweep(journey.ip_header() + 8..=mtu, 1)?;
        journey.sweep(mtu - 5..=mtu, 20)?;
        journey.stream()?;
    }
    Journey::tcp_all(&journeys)?;
    for gateway in [&topology.a, &topology.b] {
        let status = Status::of(gateway, "mp1")?;
        let is_used = |path: &crate::status::Path| path.egress.packets > 0 && path.ingress.packets > 0;
        ensure!(status.paths().count() == 2 && status.paths().all(is_used), "{status:?}");
        gateway.mpvpn(&["down", "mp1"])?.success()?;
    }
    for mut daemon in inner {
        daemon.wait(Duration::from_secs(5))?;
    }
    for journey in scene.journeys() {
        journey.ping(1416)?;
    }
    scene.daemons.truncate(2);
    scene.close()
}

fn lead_through_mp0(config: &mut TunnelConfig, remote: u8) -> Result<()> {
    config.uplinks = vec![UplinkSection::automatic("mp0")];
    config.peers[0].endpoints = [format!("10.99.0.{remote}:5183"), format!("[fd99::{remote}]:5183")]
        .iter()
        .map(|address| Ok(EndpointEntry { address: address.parse()?, uplinks: vec!["mp0".to_owned()] }))
        .collect::<Result<_>>()?;
    Ok(())
}
