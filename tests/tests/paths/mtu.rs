//! Links that silently drop long packets: nobody sends an ICMP message.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use multipath_tests::{
    LinkSpec, Shape,
    traffic::{Iperf, UdpStream},
};

use crate::{
    scene::{PATIENCE, Scene, check_whole, delayed, until},
    status::{changes, path, tunnel},
};

/// What the narrow link carries, bytes of IP; the others carry 1500.
const NARROW: u64 = 1280;
/// Outer IPv4 and UDP, header and tag.
const OVERHEAD: u64 = 20 + 8 + 20 + 16;
/// Bytes of UDP payload of a packet that the narrow link carries in two parts alone.
const LONG: u16 = 1400;

/// Slow enough that the emulator, which both directions share, is not what limits them.
const WIDE: Shape = Shape { rate: 20_000_000, queue: 250_000, delay_us: 5000, ..Shape::PERFECT };
const LINK: LinkSpec = delayed(0).shaped(WIDE);

fn until_inner_mtu(scene: &Scene, link: usize, expected: u64, within: Duration) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for (gateway, peer) in [(scene.a(), "b"), (scene.b(), "a")] {
        let name = format!("{peer}/up{link}");
        let what = format!("{name} carries {expected} bytes");
        let is_found = || Ok(path(gateway, &name)?.inner_mtu.map(u64::from) == Some(expected));
        longest +=
            until(&what, within, is_found).with_context(|| format!("{:#?}", changes(gateway).unwrap_or_default()))?;
    }
    Ok(longest)
}

/// TCP and UDP in both directions, on all paths: neither stalls.
fn everything_passes(scene: &Scene) -> Result<()> {
    let topology = &scene.topology;
    let ways =
        [(topology.ha(), topology.hb(), topology.b.host_v4()), (topology.hb(), topology.ha(), topology.a.host_v4())];
    for (from, to, address) in ways {
        let stream = UdpStream { flows: 40, ..UdpStream::to(address, 400, LONG, Duration::from_millis(500)) };
        // Of the first packet the host is told that it is too long for the tunnel: from then on it sends them in parts.
        check_whole(&stream.run(from, to)?, 1)?;
        let tcp = Iperf { streams: 8, ..Iperf::tcp(address, 1) }.run(from, to)?;
        println!("TCP: {:.1?} Mbit/s", tcp.flows_mbps);
        ensure!(tcp.flows_mbps.iter().all(|flow| *flow > 0.3), "a flow stalls: {tcp:?}");
    }
    Ok(())
}

#[test]
fn a_narrow_path_among_others() -> Result<()> {
    let scene = Scene::new(&[LINK, LINK.shaped(Shape { largest: NARROW, ..WIDE }), LINK])?;
    until_inner_mtu(&scene, 0, 1500 - OVERHEAD, PATIENCE)?;
    until_inner_mtu(&scene, 1, NARROW - OVERHEAD, PATIENCE)?;
    until_inner_mtu(&scene, 2, 1500 - OVERHEAD, PATIENCE)?;
    ensure!(tunnel(scene.a())?.mtu == 1280 && tunnel(scene.b())?.mtu == 1280);
    everything_passes(&scene)?;
    scene.close()
}

/// The smallest MTU is found out again while packets flow, and so is the larger one afterwards.
#[test]
fn a_path_that_becomes_narrow() -> Result<()> {
    let scene = Scene::new(&[LINK; 2])?;
    until_inner_mtu(&scene, 0, 1500 - OVERHEAD, PATIENCE)?;
    until_inner_mtu(&scene, 1, 1500 - OVERHEAD, PATIENCE)?;
    let many = UdpStream { flows: 40, ..UdpStream::to(scene.b().host_v4(), 400, LONG, Duration::from_mins(1)) };
    let stream = many.start(scene.topology.ha(), scene.topology.hb())?;
    scene.topology.link(1)?.change(|shape| shape.largest = NARROW)?;
    let found = until_inner_mtu(&scene, 1, NARROW - OVERHEAD, 2 * PATIENCE)?;
    println!("found after {found:.1?}");
    check_whole(&stream.stop()?, u64::MAX)?;
    everything_passes(&scene)?;
    scene.close()
}
