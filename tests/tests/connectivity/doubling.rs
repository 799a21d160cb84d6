//! Packets of a path in doubt go by a second one too, and arrive once.

use std::panic::resume_unwind;
use std::path::Path;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Result, ensure};
use multipath_common::maps::{PATH_DOUBTED, PATH_UP, Path as PathEntry};
use multipath_loader::dataplane::Maps;
use multipath_tests::traffic::UdpStream;
use multipath_tests::{Family, Gateway, Kind, LinkSpec};

use crate::journey::Journey;
use crate::scene::{LINK, Scene, set_hook};
use crate::status::Status;

/// Casts doubt on all paths of a gateway over the uplink `up0`; returns how many packets they have sent, and those of the
/// others.
fn doubt(gateway: &Gateway) -> Result<[u64; 2]> {
    let status = Status::of(gateway, "mp0")?;
    let mut maps = Maps::open(Path::new(&status.maps))?;
    let mut sent = [0; 2];
    for number in maps.peers()?.into_iter().map(|peer| peer.number) {
        for record in maps.paths_of(number)? {
            let is_first = record.path.uplink.starts_with(b"up0\0");
            if is_first && record.path.state == PATH_UP {
                let state = PATH_DOUBTED;
                maps.set_path(number, record.id, PathEntry { state, ..record.path })?;
            }
            sent[usize::from(!is_first)] += record.stats.egress.packets;
        }
    }
    Ok(sent)
}

fn check(first: LinkSpec, second: LinkSpec, hook: &str) -> Result<()> {
    let mut scene = Scene::with(&[first, second], |_, configs| {
        set_hook(configs, hook);
        Ok(())
    })?;
    // Nobody else changes the paths; the kernel goes on forwarding.
    for mut daemon in scene.daemons.drain(..) {
        ensure!(daemon.terminate()?.success(), "{}", daemon.log());
    }
    let gateways = [&scene.topology.a, &scene.topology.b];
    for journey in scene.journeys() {
        journey.meet()?;
    }
    let flows = |journey: &Journey<'_>, size| {
        let stream = UdpStream { flows: 32, ..UdpStream::to(journey.address, 1000, size, Duration::from_secs(2)) };
        let report = stream.run(journey.from, journey.to)?;
        let faults = (report.refused, report.lost, report.duplicated);
        ensure!(report.received > 1000 && faults == (0, 0, 0), "refused, lost, duplicated: {faults:?}");
        Ok(())
    };
    let [there, _, _, back] = scene.journeys();
    // Flows keep a path that comes in doubt; new ones avoid it.
    let before = thread::scope(|scope| {
        let running = [(there, 1300), (back, 200)].map(|(journey, size)| scope.spawn(move || flows(&journey, size)));
        thread::sleep(Duration::from_secs(1));
        let before = gateways.map(doubt);
        let join =
            |thread: ScopedJoinHandle<'_, Result<()>>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        running.into_iter().try_for_each(join).map(|()| before)
    })?;
    for (gateway, before) in gateways.into_iter().zip(before) {
        let (before, after) = (before?, doubt(gateway)?);
        let sent = [after[0] - before[0], after[1] - before[1]];
        ensure!(sent[0] > 300 && sent[1] >= sent[0], "what leaves by the first leaves by the second: {sent:?}");
        let duplicates = Status::of(gateway, "mp0")?.dropped("duplicate");
        ensure!(duplicates > 300, "{duplicates} second copies came");
    }
    scene.close()
}

#[test]
fn over_ipv4_then_ipv6() -> Result<()> {
    check(LINK.family(Family::V4), LINK.family(Family::V6), "off")
}

#[test]
fn over_ipv6_then_ipv4_received_by_xdp() -> Result<()> {
    check(LINK.family(Family::V6), LINK.family(Family::V4), "native")
}

#[test]
fn over_raw_ip_then_ethernet() -> Result<()> {
    check(LINK.kind(Kind::RawIp), LINK, "auto")
}

#[test]
fn over_ethernet_then_raw_ip() -> Result<()> {
    check(LINK, LINK.kind(Kind::RawIp), "auto")
}
