//! Probes, answered by the other gateway's kernel alone: no daemon runs on either side.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use multipath_common::control::{ControlMark, Message, Probe, REPLY_LEN, Reply};
use multipath_common::drops::DropReason;
use multipath_common::maps::{FAMILY_IPV4, PATH_STANDBY};
use multipath_common::quality::ProbeEvent;
use multipath_loader::dataplane::{Maps, Pins, ProbeEvents, name_text};
use multipath_tests::traffic::{Capture, Captured, PacketSocket};
use multipath_tests::{Family, Gateway, Kind, LinkSpec, Shape};

use crate::scene::{LINK, Scene, set_hook};

/// Probes on each path.
const PROBES: u32 = 50;
/// By how much a measured round trip may differ from the captured one, in the median: 20 us of sealing and opening, and twice the
/// waking of a capture, which a packet has to wait for.
const ERROR_US: i64 = 100;

/// One way is slower than the other.
const SLOW: LinkSpec = LINK.shaped(Shape { rate: 0, delay_us: 8_000, ..Shape::PERFECT });

/// The two ends of a tunnel whose daemons have ended.
fn without_daemons(links: &[LinkSpec], hook: &str) -> Result<Scene> {
    let mut scene = Scene::with(links, |_, configs| {
        set_hook(configs, hook);
        Ok(())
    })?;
    for mut daemon in scene.daemons.drain(..) {
        ensure!(daemon.terminate()?.success(), "{}", daemon.log());
    }
    Ok(scene)
}

/// Packets that both gateways have dropped, but what the kernel says on `mp0` by itself (RFC 4861): that is for no peer.
fn drops(gateways: [&Maps; 2]) -> Result<BTreeMap<&'static str, u64>> {
    let mut drops = BTreeMap::new();
    for gateway in gateways {
        for drop in gateway.drops()?.into_iter().filter(|drop| drop.reason != DropReason::NoPeer) {
            *drops.entry(drop.reason.name()).or_default() += drop.packets;
        }
    }
    Ok(drops)
}

fn maps(gateway: &Gateway) -> Result<Maps> {
    Maps::open(&Pins::new(gateway.bpffs(), "mp0").current_maps()?)
}

/// Sends a probe by a path of the only peer; waits for the answer.
fn ask(
    socket: &PacketSocket,
    events: &mut ProbeEvents,
    ethertype: u16,
    path: u8,
    probe: Probe,
) -> Result<Option<(ProbeEvent, Reply)>> {
    let mark = ControlMark { path, peer: 0, session: 0 };
    let (message, len) = Message::Probe(probe).to_bytes();
    socket.send(&[&mark.to_ethernet(ethertype)[..], &message[..len]].concat())?;
    for _ in 0..100 {
        thread::sleep(Duration::from_millis(1));
        if let Some(event) = events.take() {
            let Ok(Message::Reply(reply)) = Message::from_bytes(&event.reply) else {
                anyhow::bail!("no reply: {:02x?}", event.reply)
            };
            return Ok(Some((event, reply)));
        }
    }
    Ok(None)
}

/// How long packets with so many bytes of UDP payload were on their way, from `from`'s uplink to `to`'s: nanoseconds, in order.
fn on_the_way(from: &[Captured], to: &[Captured], payload_len: usize) -> Vec<u64> {
    let times = |captured: &[Captured], is_outgoing| -> Vec<u64> {
        let has_len = |frame: &&Captured| {
            let udp = frame.bytes.len().checked_sub(payload_len + 4);
            frame.is_outgoing == is_outgoing
                && udp.is_some_and(|at| frame.bytes[at..at + 2] == (payload_len as u16 + 8).to_be_bytes())
        };
        captured.iter().filter(has_len).map(|frame| frame.at_ns).collect()
    };
    let (left, came) = (times(from, true), times(to, false));
    left.iter().zip(came).map(|(left, came)| came - left).collect()
}

fn check(links: &[LinkSpec], hook: &str) -> Result<()> {
    let scene = without_daemons(links, hook)?;
    let (a, b) = (&scene.topology.a, &scene.topology.b);
    let (mut own, other) = (maps(a)?, maps(b)?);
    let mut events = own.probe_events()?;
    // The last answers to what the daemons have asked.
    thread::sleep(Duration::from_millis(100));
    while events.take().is_some() {}
    // The daemons may have sent before there was a session, or asked for sizes that do not pass.
    let mut expected = drops([&own, &other])?;
    let socket = PacketSocket::sender(a.namespace(), "mp0")?;
    for (number, record) in own.paths_of(0)?.into_iter().enumerate() {
        let id = record.id;
        let ethertype = if record.path.family == FAMILY_IPV4 { 0x0800 } else { 0x86dd };
        // What waits is measured as what carries data.
        let mut waiting = record.path;
        waiting.state = PATH_STANDBY;
        own.amend_path(0, id, waiting)?;
        let before = other.arrivals(other.paths_of(0)?[number].slot())?;
        let uplink = name_text(record.path.uplink);
        let captures = [Capture::start(a.namespace(), &uplink)?, Capture::start(b.namespace(), &uplink)?];
        let mut round_trips = Vec::new();
        for sequence in 0..PROBES {
            let probe = Probe {
                role: 1,
                len: REPLY_LEN as u16,
                sequence,
                path: id,
                is_member: 0,
                sent_packets: before.packets + u64::from(sequence) + 1,
            };
            let (event, reply) = ask(&socket, &mut events, ethertype, id, probe)?.context("no answer")?;
            ensure!((reply.sequence, reply.path, reply.len) == (sequence, id, REPLY_LEN as u16), "{reply:?}");
            ensure!(reply.packets == before.packets + u64::from(sequence) + 1, "{reply:?}, before {before:?}");
            let came_us = (event.received_ns / 1000) as u32;
            round_trips.push(came_us.wrapping_sub(reply.sent_us) - event.timestamp.wrapping_sub(reply.reached_us));
        }
        let [left, right] = captures.map(Capture::stop);
        let (left, right) = (left?, right?);
        let len = REPLY_LEN + 36;
        let (there, back) = (on_the_way(&left, &right, len), on_the_way(&right, &left, len));
        ensure!(there.len() == PROBES as usize && back.len() == PROBES as usize, "{} and {}", there.len(), back.len());
        let mut errors: Vec<i64> = round_trips
            .iter()
            .zip(there.iter().zip(&back))
            .map(|(measured, (there, back))| i64::from(*measured) - ((there + back) / 1000).cast_signed())
            .collect();
        errors.sort_unstable();
        println!(
            "{uplink}, {hook}: round trip {} us; measured too much by {} us in the median, {} to {} us",
            round_trips[0],
            errors[errors.len() / 2],
            errors[0],
            errors[errors.len() - 1]
        );
        ensure!(errors[errors.len() / 2].abs() <= ERROR_US, "{errors:?}");
        let after = other.arrivals(other.paths_of(0)?[number].slot())?;
        ensure!((after.peer_role, after.probes - before.probes) == (1, PROBES.into()), "{after:?}");

        // Padded ones: as long as the path carries, and answered by a short reply.
        for len in [REPLY_LEN as u16 + 1, 700, record.path.largest as u16] {
            let probe = Probe { role: 1, len, sequence: 0, path: id, is_member: 0, sent_packets: 0 };
            let (event, reply) = ask(&socket, &mut events, ethertype, id, probe)?.context("no answer")?;
            ensure!(reply.len == len && event.len < 160, "{reply:?}, {} bytes", event.len);
        }
        let longer = Probe {
            role: 1,
            len: record.path.largest as u16 + 1,
            sequence: 0,
            path: id,
            is_member: 0,
            sent_packets: 0,
        };
        ensure!(ask(&socket, &mut events, ethertype, id, longer)?.is_none(), "longer than the path may carry");
    }
    *expected.entry(DropReason::TooBig.name()).or_default() += links.len() as u64;
    let dropped = drops([&own, &other])?;
    ensure!(dropped == expected, "{dropped:?}, expected {expected:?}");
    scene.close()
}

#[test]
fn over_both_families() -> Result<()> {
    check(&[SLOW.family(Family::V4), SLOW.family(Family::V6)], "off")
}

#[test]
fn with_xdp_before_tc() -> Result<()> {
    check(&[SLOW.family(Family::V4)], "native")
}

#[test]
fn over_uplinks_without_ethernet() -> Result<()> {
    check(&[SLOW.kind(Kind::RawIp).family(Family::V4), SLOW.kind(Kind::RawIp).family(Family::V6)], "off")
}
