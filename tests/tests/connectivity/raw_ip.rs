//! Uplinks without an Ethernet header: PPP, raw-IP LTE modems.

use anyhow::{Result, ensure};
use multipath_tests::{Kind, LinkSpec};

use crate::journey::Journey;
use crate::scene::{LINK, Scene};
use crate::status::Status;

const RAW: LinkSpec = LINK.kind(Kind::RawIp);

fn check(links: &[LinkSpec]) -> Result<()> {
    let scene = Scene::new(links)?;
    let mtu = Status::of(&scene.topology.a, "mp0")?.mtu as usize;
    for journey in scene.journeys() {
        journey.pings(mtu)?;
        journey.sweep(journey.ip_header() + 8..=mtu, 1)?;
        journey.sweep(mtu - 5..=mtu, 20)?;
        journey.stream()?;
    }
    Journey::tcp_all(&scene.journeys())?;
    for gateway in [&scene.topology.a, &scene.topology.b] {
        let status = Status::of(gateway, "mp0")?;
        for number in 0..links.len() {
            let uplink = format!("up{number}");
            let is_used = |path: &crate::status::Path| path.egress.packets > 0 && path.ingress.packets > 0;
            ensure!(
                status.paths().filter(|path| path.uplink == uplink).all(is_used),
                "{uplink} carries packets both ways: {status:?}"
            );
        }
    }
    scene.close()
}

#[test]
fn on_both_sides() -> Result<()> {
    check(&[RAW])
}

#[test]
fn on_both_sides_beside_ethernet() -> Result<()> {
    check(&[RAW, LINK])
}

/// Gateway a has a raw-IP modem, b has Ethernet; between them is the operator's router.
#[test]
fn on_one_side() -> Result<()> {
    let scene = Scene::new(&[RAW.natted(), LINK.natted()])?;
    let [there_v4, there_v6, ..] = scene.journeys();
    for journey in [there_v4, there_v6] {
        journey.sweep(100..=120, 8)?;
        journey.stream()?;
    }
    Journey::tcp_all(&scene.journeys())?;
    let status = Status::of(&scene.topology.b, "mp0")?;
    let raw = status.paths().filter(|path| path.uplink == "up0");
    ensure!(raw.map(|path| path.ingress.packets).sum::<u64>() > 0, "b receives from the modem: {status:?}");
    for journey in scene.journeys() {
        journey.pings(1400)?;
    }
    scene.close()
}
