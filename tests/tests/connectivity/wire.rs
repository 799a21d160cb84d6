//! What stands on the wire is the wire format.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use multipath_tests::Family;
use multipath_tests::traffic::Capture;

use crate::packet::Outer;
use crate::scene::{LINK, Scene};
use crate::status::Status;

/// How far two clocks may run apart between two looks at them on a busy machine, microseconds.
const CLOCK_TOLERANCE: i64 = 100_000;

#[test]
fn every_packet_is_in_the_wire_format() -> Result<()> {
    let links = [LINK.family(Family::V4), LINK.family(Family::V6)];
    let scene = Scene::in_the_clear(&links, "auto")?;
    let a = &scene.topology.a;
    let journeys = scene.journeys();
    journeys[0].ping(84)?;
    let captures = [Capture::start(a.namespace(), "up0")?, Capture::start(a.namespace(), "up1")?];
    for journey in &journeys[..2] {
        journey.sweep(journey.ip_header() + 8..=140, 8)?;
        journey.sweep(1300..=1416, 2)?;
    }
    thread::sleep(Duration::from_millis(50));
    let [first, second] = captures.map(Capture::stop);
    let frames = [first?, second?];
    let status = Status::of(a, "mp0")?;
    let mut counters = BTreeSet::new();
    let mut of_path: BTreeMap<u8, u64> = BTreeMap::new();
    let mut clock = None;
    for (number, frames) in frames.iter().enumerate() {
        let packets = Outer::sent(frames, 5182)?;
        ensure!(packets.len() > 200, "both uplinks carry packets, up{number}: {}", packets.len());
        for (outer, frame) in packets {
            let header = outer.header;
            let path = status.paths().find(|path| path.uplink == format!("up{number}"));
            ensure!(Some((header.path, outer.destination)) == path.map(|path| (path.id, path.remote)), "{outer:?}");
            ensure!(
                (header.packet_type, header.flags, outer.tag) == (4, 0, [0; 16]),
                "a whole pinned packet: {outer:?}"
            );
            ensure!(outer.source.port() == 5182, "{outer:?}");
            let (checksum, computed) = outer.checksum;
            ensure!(checksum == if number == 0 { 0 } else { computed }, "the UDP checksum: {outer:?}");
            let (version, tos) =
                (outer.sealed[0] >> 4, outer.sealed[..2].iter().fold(0, |word, byte| word << 8 | u16::from(*byte)));
            let inner_tos = if version == 4 { tos & 0xff } else { tos >> 4 & 0xff };
            ensure!(u16::from(outer.tos) == inner_tos, "the inner type of service: {outer:?}");
            let length = u16::from_be_bytes(if version == 4 {
                [outer.sealed[2], outer.sealed[3]]
            } else {
                [outer.sealed[4], outer.sealed[5]]
            });
            let length = usize::from(length) + if version == 4 { 0 } else { 40 };
            ensure!(length == outer.sealed.len(), "nothing but the inner packet is sealed: {outer:?}");

            ensure!(counters.insert((header.receiver, header.counter)), "no counter comes twice: {outer:?}");
            let last = of_path.insert(header.path, header.counter);
            ensure!(last.is_none_or(|last| last < header.counter), "counters grow: {last:?}, {outer:?}");
            let (at_ns, timestamp) = *clock.get_or_insert((frame.at_ns, header.timestamp));
            let by_kernel = (frame.at_ns.cast_signed() - at_ns.cast_signed()) / 1000;
            let by_header = i64::from(header.timestamp.wrapping_sub(timestamp).cast_signed());
            ensure!(
                (by_kernel - by_header).abs() < CLOCK_TOLERANCE,
                "{by_kernel} us passed, not {by_header}: {outer:?}"
            );
        }
    }
    let sessions: BTreeSet<u32> = counters.iter().map(|(receiver, _)| *receiver).collect();
    ensure!(sessions.len() == 1, "one session: {sessions:?}");
    scene.close()
}
