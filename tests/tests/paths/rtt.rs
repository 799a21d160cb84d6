//! Round trips and one-way delays against what packets on the wire show.

use std::{collections::HashMap, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use multipath_common::control::{PROBE, REPLY, REPLY_LEN};
use multipath_loader::observe::DirectionStatus;
use multipath_tests::{
    Family, LinkSpec, Shape, TunnelConfig,
    config::LISTEN_PORT,
    traffic::{Capture, Captured},
};

use crate::{
    scene::{Scene, attempts, delayed},
    status::path,
};

/// How far a measured round trip may be from the one that packets on the wire show.
const ERROR_US: f64 = 50.0;
/// Gain of the smoothed round trip (RFC 6298 section 2.3).
const GAIN: f64 = 1.0 / 8.0;
/// Answers that may have come after the status was last written, which is once a second; and some more.
const NEWEST: usize = 20;
/// Ethernet, IPv4, UDP, and the header of the wire format: with `cipher = "none"` the message follows as it is.
const MESSAGE: usize = 14 + 20 + 8 + 20;
/// Type of a control message in the wire format.
const CONTROL: u8 = 5;

/// Bytes of the tag behind the message.
const TAG: usize = 16;

/// A probe or an answer that passed an interface: its kind, and the sequence that belongs to the prober's probes. Not those
/// of a train, which are longer and wait for one another.
fn message(frame: &Captured) -> Option<(u8, u32)> {
    let bytes = &frame.bytes;
    if bytes.len() > MESSAGE + REPLY_LEN + TAG {
        return None;
    }
    let is_control = bytes.get(36..38)? == LISTEN_PORT.to_be_bytes() && *bytes.get(42)? == CONTROL;
    let sequence = bytes.get(MESSAGE + 4..MESSAGE + 8)?.try_into().ok()?;
    is_control.then_some((*bytes.get(MESSAGE)?, u32::from_le_bytes(sequence)))
}

/// Round trips on the wire of the probes that gateway a sent, microseconds, in their order: without what b took to answer.
fn round_trips_us(at_a: &[Captured], at_b: &[Captured]) -> Vec<f64> {
    let when = |frames: &[Captured], kind: u8, is_outgoing: bool| -> HashMap<u32, u64> {
        let of_kind = frames.iter().filter(|frame| frame.is_outgoing == is_outgoing);
        let stamped = of_kind.filter_map(|frame| Some((message(frame)?, frame.at_ns)));
        stamped.filter(|((found, _), _)| *found == kind).map(|((_, sequence), at_ns)| (sequence, at_ns)).collect()
    };
    let (sent, reached) = (when(at_a, PROBE, true), when(at_b, PROBE, false));
    let (answered, received) = (when(at_b, REPLY, true), when(at_a, REPLY, false));
    let mut sequences: Vec<u32> = received.keys().copied().collect();
    sequences.sort_unstable();
    let round_trip = |sequence: &u32| {
        let away = received.get(sequence)? - sent.get(sequence)?;
        let inside = answered.get(sequence)? - reached.get(sequence)?;
        Some((away - inside) as f64 / 1e3)
    };
    sequences.iter().filter_map(round_trip).collect()
}

/// Smoothed round trips after each of them.
fn smoothed(round_trips: &[f64]) -> Vec<f64> {
    let smooth = |state: &mut Option<f64>, next: &f64| {
        let before = state.unwrap_or(*next);
        *state = Some(before + GAIN * (next - before));
        *state
    };
    round_trips.iter().scan(None, smooth).collect()
}

/// Readable on the wire, and seen by the captures: what XDP takes, they miss.
fn readable(configs: &mut [TunnelConfig; 2]) {
    for config in configs {
        config.peers.iter_mut().for_each(|peer| peer.cipher = Some("none".to_owned()));
        config.uplinks.iter_mut().for_each(|uplink| uplink.xdp = Some("off".to_owned()));
    }
}

fn check_round_trips() -> Result<()> {
    let mut captures = Vec::new();
    let links = [LinkSpec::VETH.family(Family::V4), delayed(25)];
    // From before the first probe on: the smallest round trip may be any.
    let scene = Scene::with(&links, |topology, configs| {
        readable(configs);
        for link in 0..links.len() {
            let capture = |gateway| Capture::start(gateway, &format!("up{link}"));
            captures.push((capture(topology.a.namespace())?, capture(topology.b.namespace())?));
        }
        Ok(())
    })?;
    thread::sleep(Duration::from_secs(3));
    let paths = [path(scene.a(), "b/up0")?, path(scene.a(), "b/up1")?];
    for (path, (at_a, at_b)) in paths.iter().zip(captures) {
        let truth = round_trips_us(&at_a.stop()?, &at_b.stop()?);
        ensure!(truth.len() > NEWEST, "{} round trips on the wire", truth.len());
        let measured = f64::from(path.quality.rtt_us.context("a round trip")?);
        let smoothed = smoothed(&truth);
        let errors = smoothed[smoothed.len() - NEWEST..].iter().map(|truth| measured - truth);
        let error = errors.min_by(|one, other| one.abs().total_cmp(&other.abs())).context("an error")?;
        let least = truth.iter().copied().fold(f64::INFINITY, f64::min);
        let least_error = f64::from(path.quality.rtt_min_us.context("a smallest round trip")?) - least;
        println!(
            "{}: {measured:.0} us, error {error:.1} us; smallest {least:.0} us, error {least_error:.1} us",
            path.name
        );
        ensure!(error.abs() < ERROR_US && least_error.abs() < ERROR_US, "{}: {path:?}", path.name);
    }
    scene.close()
}

/// The programs stamp packets: neither daemon takes part in a round trip.
#[test]
fn round_trips_are_those_of_the_wire() -> Result<()> {
    attempts(check_round_trips)
}

/// One-way delays need no common clock: the paths of a peer are compared with one another.
#[test]
fn one_way_delays_of_links_that_are_slow_one_way() -> Result<()> {
    let way = |delay_ms: u64| Shape { delay_us: delay_ms * 1000, ..Shape::PERFECT };
    let lopsided = LinkSpec { shapes: Some([way(100), way(10)]), ..delayed(0) };
    let scene = Scene::new(&[delayed(10), lopsided])?;
    thread::sleep(Duration::from_secs(2));
    for (gateway, peer, [out, back]) in [(scene.a(), "b", [90.0, 0.0]), (scene.b(), "a", [0.0, 90.0])] {
        let [plain, slow] = [path(gateway, &format!("{peer}/up0"))?, path(gateway, &format!("{peer}/up1"))?];
        let difference = |slow: &DirectionStatus, plain: &DirectionStatus| -> Result<f64> {
            Ok(f64::from(slow.delay_us.context("a delay")? - plain.delay_us.context("a delay")?) / 1e3)
        };
        let differences = [
            difference(&slow.quality.out, &plain.quality.out)?,
            difference(&slow.quality.inward, &plain.quality.inward)?,
        ];
        println!("{}: out {:.2} ms more, in {:.2} ms more", gateway.name(), differences[0], differences[1]);
        for (found, expected) in differences.into_iter().zip([out, back]) {
            ensure!((found - expected).abs() < 2.0, "{found:.2} ms instead of {expected}: {slow:?}");
        }
        let round_trip = slow.quality.rtt_us.context("a round trip")?;
        ensure!((110_000..112_000).contains(&round_trip), "{slow:?}");
    }
    scene.close()
}
