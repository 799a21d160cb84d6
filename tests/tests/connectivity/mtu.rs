//! The MTU of `mp0`, and who is told of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etherparse::{NetSlice, SlicedPacket, TcpOptionElement, TransportSlice};
use multipath_tests::traffic::{Capture, Captured, Ping};
use multipath_tests::{Family, LinkSpec, eventually};

use crate::journey::Journey;
use crate::scene::{LINK, Scene};
use crate::status::Status;

const V4: LinkSpec = LINK.family(Family::V4);

/// Inner packets up to what the wide link carries: mp0's MTU is that of the narrow one, but never below IPv6's least.
#[test]
fn links_of_1500_and_1280_bytes() -> Result<()> {
    let scene = Scene::new(&[V4, V4.mtu(1280)])?;
    let status = Status::of(&scene.topology.a, "mp0")?;
    let carried: Vec<_> = status.paths().filter_map(|path| path.inner_mtu).collect();
    ensure!(status.mtu == 1280 && carried == [1436, 1216], "{status:?}");
    for journey in scene.journeys() {
        (1214..=1218).chain(1278..=1280).try_for_each(|size| journey.ping(size))?;
        // Those that change to the wide link do not share a batch with those that need not: the links do not wait for each other.
        journey.sweep(1200..=1216, 8)?;
        journey.sweep(1217..=1280, 8)?;
    }
    Journey::tcp_all(&scene.journeys())?;
    scene.close()
}

#[test]
fn jumbo_frames() -> Result<()> {
    let jumbo = |family| LINK.family(family).mtu(9100);
    let scene = Scene::with(&[jumbo(Family::V4), jumbo(Family::V6)], |_, configs| {
        for config in configs {
            config.tunnel.mtu = Some(9000);
        }
        Ok(())
    })?;
    let topology = &scene.topology;
    ensure!(Status::of(&topology.a, "mp0")?.mtu == 9000);
    let [a, b] = [topology.a.namespace(), topology.b.namespace()];
    let journeys = [Journey::new(a, b, [10, 99, 0, 2]), Journey::new(b, a, [0xfd99, 0, 0, 0, 0, 0, 0, 1])];
    for journey in &journeys {
        journey.pings(9000)?;
        for sizes in [1000..=1050, 3400..=3500, 4070..=4110, 8960..=9000] {
            journey.sweep(sizes, 3)?;
        }
        journey.stream_of(8000)?;
    }
    Journey::tcp_all(&journeys)?;
    scene.close()
}

#[test]
fn a_change_of_an_uplinks_mtu_is_followed() -> Result<()> {
    let scene = Scene::new(&[LINK])?;
    let topology = &scene.topology;
    for outer in [1400, 1500] {
        for gateway in [&topology.a, &topology.b] {
            gateway.namespace().ip(&format!("link set up0 mtu {outer}"))?;
            let mtu = || Ok(Status::of(gateway, "mp0")?.mtu);
            eventually("the MTU of mp0 follows", mtu, |mtu| *mtu == outer - 84)?;
        }
        for journey in scene.journeys() {
            journey.pings(outer as usize - 84)?;
            journey.sweep(outer as usize - 104..=outer as usize - 84, 4)?;
        }
        scene.journeys()[0].tcp()?;
    }
    scene.close()
}

/// A packet that must not be fragmented and that mp0 does not carry: the gateway tells the host.
#[test]
fn the_sender_is_told_of_the_mtu() -> Result<()> {
    let scene = Scene::new(&[V4])?;
    for (journey, expected) in scene.journeys().into_iter().zip(["mtu = 1436", "mtu: 1436", "mtu = 1436", "mtu: 1436"])
    {
        // The kernel may take a second to resolve a neighbour, and keeps few packets meanwhile.
        let first = Ping::to(journey.address).run(journey.from)?;
        ensure!(first.received > 0, "{journey}: {first:?}");
        let ping = Ping {
            count: 2,
            size: 1480 - journey.ip_header() as u16,
            dont_fragment: true,
            ..Ping::to(journey.address)
        };
        let report = ping.run(journey.from)?;
        let told = report
            .errors
            .iter()
            .any(|error| error.replace("mtu=", "mtu: ").contains(expected) || error.contains(expected));
        ensure!(report.received == 0 && told, "{journey}: {report:?}");
        // From now on it knows, and cuts what may be cut.
        journey.stream_of(1460)?;
    }
    scene.close()
}

/// Segment sizes that the SYN packets announce among some frames.
fn announced(frames: &[Captured], is_outgoing: bool) -> Result<Vec<u16>> {
    let mut sizes = Vec::new();
    for frame in frames.iter().filter(|frame| frame.is_outgoing == is_outgoing) {
        let Ok(sliced) = SlicedPacket::from_ethernet(&frame.bytes) else { continue };
        let (Some(net), Some(TransportSlice::Tcp(tcp))) = (sliced.net, sliced.transport) else { continue };
        if !tcp.syn() {
            continue;
        }
        if !is_outgoing {
            let checksum = match net {
                NetSlice::Ipv4(ip) => tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination())?,
                NetSlice::Ipv6(ip) => tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination())?,
                NetSlice::Arp(_) => continue,
            };
            ensure!(checksum == tcp.checksum(), "the checksum of a SYN is wrong");
        }
        let size = tcp.options_iterator().find_map(|option| match option {
            Ok(TcpOptionElement::MaximumSegmentSize(size)) => Some(size),
            _ => None,
        });
        sizes.push(size.context("a SYN without segment size")?);
    }
    Ok(sizes)
}

#[test]
fn syn_packets_announce_what_fits() -> Result<()> {
    let scene = Scene::new(&[V4])?;
    for (journey, expected) in scene.journeys().into_iter().zip([1396, 1376, 1396, 1376]) {
        let captures = [Capture::start(journey.from, "eth0")?, Capture::start(journey.to, "eth0")?];
        let port = journey.to.run(|| std::net::TcpListener::bind(("::", 0)))??;
        let to = std::net::SocketAddr::new(journey.address, port.local_addr()?.port());
        journey.from.run(|| std::net::TcpStream::connect_timeout(&to, Duration::from_secs(3)))??;
        std::thread::sleep(Duration::from_millis(30));
        let [near, far] = captures.map(Capture::stop);
        let (near, far) = (near?, far?);
        let sent = [announced(&near, true)?, announced(&far, true)?];
        let arrived = [announced(&near, false)?, announced(&far, false)?];
        ensure!(sent.iter().flatten().all(|size| *size > expected), "{journey}: the hosts announce {sent:?}");
        // A SYN that waited for the neighbour to be resolved may arrive with its repetition.
        let fits = |sizes: &Vec<u16>| !sizes.is_empty() && sizes.iter().all(|size| *size == expected);
        ensure!(arrived.iter().all(fits), "{journey}: what arrives announces {arrived:?}");
    }
    scene.close()
}
