//! Inner packets that no path carries whole travel in two parts.

use std::time::Duration;

use anyhow::{Result, ensure};
use multipath_tests::traffic::{Capture, Ping};
use multipath_tests::{Family, Kind, LinkSpec};

use crate::journey::Journey;
use crate::packet::Outer;
use crate::scene::{LINK, Scene, set_hook};
use crate::status::Status;

/// Bits 12 and 13 of the flags.
const PART: u16 = 0x3000;

fn check(spec: LinkSpec, mtu: Option<u32>, hook: &str) -> Result<()> {
    let scene = Scene::with(&[spec], |_, configs| {
        set_hook(configs, hook);
        for config in configs {
            config.tunnel.mtu = mtu;
        }
        Ok(())
    })?;
    let topology = &scene.topology;
    let status = Status::of(&topology.a, "mp0")?;
    let mtu = status.mtu as usize;
    let whole = status.paths().filter_map(|path| path.inner_mtu).max().unwrap_or(0) as usize;
    ensure!(whole < mtu, "packets of {mtu} bytes need parts where {whole} fit: {status:?}");
    let capture = Capture::start(topology.a.namespace(), "up0")?;
    for journey in scene.journeys() {
        for size in [whole - 1, whole, whole + 1, whole + 7, whole + 8, mtu - 1, mtu] {
            journey.ping(size)?;
        }
        journey.pings(mtu)?;
        // Whole ones and those in parts do not share a batch of a sweep: XDP delivers whole ones, and overtakes TC.
        journey.sweep(whole - 30..=whole, 4)?;
        journey.sweep(whole + 1..=mtu, 4)?;
        journey.stream_of((mtu - journey.ip_header() - 8) as u16)?;
    }
    Journey::tcp_all(&scene.journeys())?;
    let captured = capture.stop()?;
    if spec.kind == Kind::Ethernet {
        let mut waiting = None;
        let (mut pairs, mut singles) = (0, 0);
        for (outer, frame) in Outer::sent(&captured, 5182)? {
            ensure!(frame.bytes.len() <= spec.mtu as usize + 14, "longer than the link's MTU");
            match (outer.header.flags & PART) >> 12 {
                0 => {}
                1 => waiting = Some(outer.header.counter),
                2 if waiting == Some(outer.header.counter.wrapping_sub(1)) => pairs += 1,
                2 => {
                    waiting = Some(outer.header.counter);
                    singles += 1;
                }
                part => anyhow::bail!("there is no part {part}"),
            }
        }
        ensure!(pairs + singles > 100, "packets travel in parts: {pairs} pairs, {singles} in reverse order");
    }
    let status = Status::of(&topology.b, "mp0")?;
    ensure!(status.dropped("part_mismatch") + status.dropped("bad_inner") == 0, "{status:?}");

    // What is even longer is cut by the host or the gateway, as it may be.
    let journey = scene.journeys()[0];
    let ping = Ping { count: 3, interval: Duration::from_millis(5), size: 1400, ..Ping::to(journey.address) };
    let report = ping.run(journey.from)?;
    ensure!(report.received == 3, "packets of 1,428 bytes that may be cut: {report:?}");
    scene.close()
}

#[test]
fn ipv6_link_of_1280_bytes() -> Result<()> {
    check(LINK.family(Family::V6).mtu(1280), None, "native")
}

#[test]
fn configured_mtu_of_1500_over_ipv4_and_tc() -> Result<()> {
    check(LINK.family(Family::V4), Some(1500), "off")
}

#[test]
fn configured_mtu_of_1500_over_raw_ip() -> Result<()> {
    check(LINK.family(Family::V4).kind(Kind::RawIp), Some(1500), "auto")
}
