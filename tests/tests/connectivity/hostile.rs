//! Bad packets from the wire: each is counted under its reason, nothing is delivered, and nothing changes.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use multipath_tests::traffic::{Capture, Captured};
use multipath_tests::{End, Family, Topology, eventually};

use crate::journey::Journey;
use crate::packet::{ETHERNET, Header, Outer, PAYLOAD_V4, inner_udp, repair, sealed, with_payload};
use crate::scene::{LINK, Scene};
use crate::status::Status;

/// Far beyond all counters in use: were the window marked for it, everything that follows would be behind the window.
const FAR_AHEAD: u64 = 1 << 40;
const A: [u8; 4] = [10, 98, 1, 2];
const B: [u8; 4] = [10, 98, 2, 2];
const CE: u8 = 3;

/// Frames that gateway b must drop, with the reason. (What bears a foreign source is counted as received.)
fn bad_frames(genuine: &[u8], header: Header) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let inner = inner_udp(A, B, 0, &[7; 100])?;
    let header = Header { counter: header.counter + FAR_AHEAD, ..header };
    let good = with_payload(genuine, &sealed(header, &inner));
    let carrying = |header: Header, inner: &[u8]| with_payload(genuine, &sealed(header, inner));
    let edited = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        edit(&mut frame);
        repair(&mut frame);
        frame
    };
    let mut six = inner.clone();
    six[0] = 0x55;
    Ok(vec![
        // More fragments follow.
        ("outer_fragment", edited(&|frame| frame[ETHERNET + 6] = 0x20)),
        ("truncated", edited(&|frame| frame.truncate(good.len() - 20))),
        ("truncated", edited(&|frame| frame.truncate(PAYLOAD_V4 + 10))),
        // The UDP header promises more than the IP header.
        ("truncated", edited(&|frame| frame[ETHERNET + 25] += 1)),
        ("truncated", with_payload(genuine, &header.to_bytes())),
        ("truncated", with_payload(genuine, &header.to_bytes()[..12])),
        ("truncated", with_payload(genuine, &[])),
        ("oversized", edited(&|frame| frame.extend([0; 30]))),
        ("oversized", edited(&|frame| frame[ETHERNET + 25] -= 1)),
        ("oversized", carrying(header, &[&inner[..], &[0; 9]].concat())),
        ("unknown_version", carrying(Header { packet_type: 9, ..header }, &inner)),
        ("unknown_version", carrying(Header { packet_type: 0, ..header }, &inner)),
        ("unknown_version", carrying(Header { flags: 0x4000, ..header }, &inner)),
        ("unknown_version", carrying(Header { flags: 0x8000, ..header }, &inner)),
        ("unknown_version", carrying(Header { flags: 0x0004, ..header }, &inner)),
        ("unknown_version", carrying(Header { flags: 0x3000, ..header }, &inner)),
        ("unknown_version", carrying(Header { path: 16, ..header }, &inner)),
        ("unknown_version", carrying(Header { path: 255, ..header }, &inner)),
        ("unknown_session", carrying(Header { receiver: header.receiver ^ 1, ..header }, &inner)),
        ("unknown_session", carrying(Header { receiver: 0, ..header }, &inner)),
        ("replayed", carrying(Header { counter: 0, ..header }, &inner)),
        ("replayed", carrying(Header { counter: header.counter - FAR_AHEAD, ..header }, &inner)),
        ("bad_tag", edited(&|frame| *frame.last_mut().unwrap_or(&mut 0) = 1)),
        ("bad_inner", carrying(header, &six)),
        ("bad_inner", carrying(header, &inner[..inner.len() - 1])),
        ("bad_inner", carrying(header, &inner[..12])),
        ("bad_inner", carrying(header, &[])),
        ("ecn_not_capable", edited(&|frame| frame[ETHERNET + 1] = CE)),
    ])
}

/// What gateway b delivers to the inner network; multicast is its own.
fn delivered(captured: &[Captured]) -> Vec<&Captured> {
    captured.iter().filter(|frame| !frame.is_outgoing && frame.bytes[0] & 1 == 0).collect()
}

/// Sends packets of these sizes on a journey and returns what passed gateway a's uplink.
fn overhear(
    topology: &Topology,
    journey: &Journey<'_>,
    sizes: RangeInclusive<usize>,
    flows: usize,
) -> Result<Vec<Captured>> {
    let capture = Capture::start(topology.a.namespace(), "up0")?;
    journey.sweep(sizes, flows)?;
    thread::sleep(Duration::from_millis(50));
    capture.stop()
}

fn check(hook: &str) -> Result<()> {
    let scene = Scene::in_the_clear(&[LINK.family(Family::V4)], hook)?;
    let topology = &scene.topology;
    let link = topology.link(0)?;
    let journey = scene.journeys()[0];
    journey.ping(84)?;
    let captured = overhear(topology, &journey, 100..=150, 2)?;
    let genuine = Outer::sent(&captured, 5182)?;
    let (last, frame) = genuine.last().context("no packet was captured")?;

    let drops = || -> Result<BTreeMap<String, u64>> { Ok(Status::of(&topology.b, "mp0")?.drops()) };
    let before = drops()?;
    let arrived =
        || -> Result<u64> { Ok(Status::of(&topology.b, "mp0")?.paths().map(|path| path.ingress.packets).sum()) };
    let counted = arrived()?;
    let inside = Capture::start(topology.b.namespace(), "mp0")?;
    let mut expected = before.clone();
    for (reason, frame) in bad_frames(&frame.bytes, last.header)? {
        link.inject(End::B, &frame)?;
        *expected.entry(reason.to_owned()).or_default() += 1;
    }
    eventually("every bad packet is counted under its reason", drops, |drops| *drops == expected)?;
    // The whole capture again, forwards and backwards.
    for (_, frame) in genuine.iter().chain(genuine.iter().rev()) {
        link.inject(End::B, &frame.bytes)?;
    }
    *expected.entry("replayed".to_owned()).or_default() += 2 * genuine.len() as u64;
    eventually("every copy is counted as replayed", drops, |drops| *drops == expected)?;
    thread::sleep(Duration::from_millis(50));
    let inside = inside.stop()?;
    let delivered = delivered(&inside);
    ensure!(delivered.is_empty(), "nothing of it is delivered: {delivered:x?}");
    ensure!(arrived()? == counted, "nor is it counted as received");

    for journey in &scene.journeys() {
        journey.pings(1436)?;
        journey.stream()?;
    }
    ensure!(drops()? == expected, "the tunnel goes on without a loss: {expected:?}, now {:?}", drops()?);
    scene.close()
}

#[test]
fn at_xdp() -> Result<()> {
    check("native")
}

#[test]
fn at_generic_xdp() -> Result<()> {
    check("generic")
}

#[test]
fn at_tc() -> Result<()> {
    check("off")
}

#[test]
fn over_ipv6() -> Result<()> {
    let scene = Scene::in_the_clear(&[LINK.family(Family::V6)], "auto")?;
    let topology = &scene.topology;
    let link = topology.link(0)?;
    let journey = scene.journeys()[1];
    journey.ping(104)?;
    let captured = overhear(topology, &journey, 100..=120, 1)?;
    let genuine = Outer::sent(&captured, 5182)?;
    let inside = Capture::start(topology.b.namespace(), "mp0")?;
    let payload = ETHERNET + 40 + 8;
    let drops = || -> Result<BTreeMap<String, u64>> { Ok(Status::of(&topology.b, "mp0")?.drops()) };
    let mut expected = drops()?;
    let mut inject = |reason: &str, edit: &dyn Fn(&mut Vec<u8>)| -> Result<()> {
        let mut bad = genuine[0].1.bytes.clone();
        edit(&mut bad);
        link.inject(End::B, &bad)?;
        *expected.entry(reason.to_owned()).or_default() += 1;
        Ok(())
    };
    inject("truncated", &|frame| frame.truncate(frame.len() - 1))?;
    inject("oversized", &|frame| frame.push(0))?;
    inject("unknown_version", &|frame| frame[payload] = 6)?;
    inject("unknown_session", &|frame| frame[payload + 4] ^= 1)?;
    inject("replayed", &|_| ())?;
    eventually("every bad packet is counted under its reason", drops, |drops| *drops == expected)?;
    let inside = inside.stop()?;
    let delivered = delivered(&inside);
    ensure!(delivered.is_empty(), "nothing of it is delivered: {delivered:x?}");
    journey.stream()?;
    scene.close()
}
