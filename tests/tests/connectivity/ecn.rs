//! DSCP and ECN through the tunnel (RFC 6040).

use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use multipath_tests::traffic::Capture;
use multipath_tests::{End, Family, eventually};
use nix::sys::socket::{setsockopt, sockopt};

use crate::journey::Journey;
use crate::packet::{ETHERNET, Outer, repair};
use crate::scene::{LINK, Scene};
use crate::status::Status;

const PORT: u16 = 7777;
/// Type of a packet with an inner packet; the others are probes and their answers.
const DATA: u8 = 4;
const CE: u8 = 3;
/// Expedited forwarding with each of the ECN codepoints, and nothing.
const CODEPOINTS: [u8; 5] = [0xb8, 0xb9, 0xba, 0xbb, 0];

/// Sends one UDP packet for each type-of-service byte, which is also its payload.
fn send(journey: &Journey, bytes: &[u8]) -> Result<()> {
    let any = if journey.address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = journey.from.run(|| UdpSocket::bind(any))??;
    for &byte in bytes {
        if journey.address.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4Tos, &i32::from(byte))?;
        } else {
            setsockopt(&socket, sockopt::Ipv6TClass, &i32::from(byte))?;
        }
        socket.send_to(&[byte], (journey.address, PORT))?;
    }
    Ok(())
}

/// Payload and type-of-service byte of the packets of `send` among some frames.
fn received(frame: &[u8]) -> Result<Option<(u8, u8)>> {
    let Ok(sliced) = SlicedPacket::from_ethernet(frame) else { return Ok(None) };
    let (Some(net), Some(TransportSlice::Udp(udp))) = (sliced.net, sliced.transport) else { return Ok(None) };
    if udp.destination_port() != PORT {
        return Ok(None);
    }
    let tos = match net {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            ensure!(header.header_checksum == header.calc_header_checksum(), "the IPv4 header's checksum is wrong");
            header.dscp.value() << 2 | header.ecn.value()
        }
        NetSlice::Ipv6(ip) => ip.header().traffic_class(),
        NetSlice::Arp(_) => return Ok(None),
    };
    Ok(Some((*udp.payload().first().context("no payload")?, tos)))
}

fn check(family: Family, hook: &str) -> Result<()> {
    let scene = Scene::with_hook(&[LINK.family(family)], hook)?;
    let topology = &scene.topology;
    let link = topology.link(0)?;
    for journey in &scene.journeys()[..2] {
        journey.ping(84)?;

        let uplink = Capture::start(topology.a.namespace(), "up0")?;
        let inside = Capture::start(topology.hb(), "eth0")?;
        send(journey, &CODEPOINTS)?;
        thread::sleep(Duration::from_millis(50));
        let captured = uplink.stop()?;
        let sent = Outer::sent(&captured, 5182)?;
        let data = sent.iter().filter(|(outer, _)| outer.header.packet_type == DATA);
        let outer: Vec<u8> = data.map(|(outer, _)| outer.tos).collect();
        ensure!(outer == CODEPOINTS, "{journey}: on the uplink: {outer:x?}");
        let mut arrived = Vec::new();
        for frame in inside.stop()?.iter().filter(|frame| !frame.is_outgoing) {
            arrived.extend(received(&frame.bytes)?);
        }
        ensure!(arrived == CODEPOINTS.map(|byte| (byte, byte)), "{journey}: inside: {arrived:x?}");

        // A router marks: what is caught on a dead link is marked and put on the wire again.
        let uplink = Capture::start(topology.a.namespace(), "up0")?;
        link.set_black_hole(true)?;
        send(journey, &CODEPOINTS)?;
        thread::sleep(Duration::from_millis(50));
        link.set_black_hole(false)?;
        let before = Status::of(&topology.b, "mp0")?.dropped("ecn_not_capable");
        let inside = Capture::start(topology.hb(), "eth0")?;
        let captured = uplink.stop()?;
        let sent = Outer::sent(&captured, 5182)?;
        for (_, frame) in sent.iter().filter(|(outer, _)| outer.header.packet_type == DATA) {
            let mut marked = frame.bytes.clone();
            if family == Family::V4 {
                marked[ETHERNET + 1] |= CE;
                repair(&mut marked);
            } else {
                // The traffic class begins in the middle of the first byte.
                marked[ETHERNET + 1] |= CE << 4;
            }
            link.inject(End::B, &marked)?;
        }
        let look = || Ok(Status::of(&topology.b, "mp0")?.dropped("ecn_not_capable") - before);
        eventually("two packets whose flow cannot hear of congestion are dropped", look, |dropped| *dropped == 2)?;
        let mut arrived = Vec::new();
        for frame in inside.stop()?.iter().filter(|frame| !frame.is_outgoing) {
            arrived.extend(received(&frame.bytes)?);
        }
        let marked: Vec<(u8, u8)> =
            CODEPOINTS.into_iter().filter(|byte| byte & CE != 0).map(|byte| (byte, byte | CE)).collect();
        ensure!(arrived == marked, "{journey}: marked and arrived: {arrived:x?}");
        journey.ping(84)?;
    }
    scene.close()
}

#[test]
fn over_ipv4_by_xdp() -> Result<()> {
    check(Family::V4, "native")
}

#[test]
fn over_ipv6_by_tc() -> Result<()> {
    check(Family::V6, "off")
}

/// A TCP connection with ECN: its segments are marked as capable on the uplink.
#[test]
fn of_tcp() -> Result<()> {
    let scene = Scene::new(&[LINK.family(Family::V4)])?;
    for host in [scene.topology.ha(), scene.topology.hb()] {
        host.sysctl("net/ipv4/tcp_ecn", "1")?;
    }
    let uplink = Capture::start(scene.topology.a.namespace(), "up0")?;
    let journey = scene.journeys()[0];
    ensure!(matches!(journey.address, IpAddr::V4(_)));
    journey.tcp()?;
    let captured = uplink.stop()?;
    let packets = Outer::sent(&captured, 5182)?;
    let full = packets.iter().filter(|(outer, _)| outer.sealed.len() > 1000);
    let (capable, all) =
        full.fold((0, 0), |(capable, all), (outer, _)| (capable + usize::from(outer.tos == 2), all + 1));
    // Segments that TCP sends again are not capable (RFC 3168 section 6.1.5).
    ensure!(all > 100 && capable * 10 > all * 9, "{capable} of {all} full segments are ECT(0) on the uplink");
    scene.close()
}
