//! Paths that fail while packets flow, and while none do: how fast they are left, and that they are used again.

use std::{ops::Range, thread, time::Duration};

use anyhow::{Result, ensure};
use multipath_tests::{
    End, Gateway,
    traffic::{StreamReport, UdpStream},
};

use crate::{
    scene::{BACK_WITHIN, LEFT_WITHIN, Scene, attempts, check_whole, delayed, prefer, until, until_used},
    status::{dropped, path},
};

/// One-way delays of the path that fails and of the other one, milliseconds.
const NEAR_MS: u64 = 10;
const FAR_MS: u64 = 20;
/// Packets a second, and their bytes of UDP payload.
const PACE: u32 = 200;
const SIZE: u16 = 1200;
const PACKET_MS: f64 = 1000.0 / PACE as f64;
/// One round trip and 50 ms after the failure packets go by the other path, which takes longer by the difference.
const DOUBT_GAP_MS: f64 = (2 * NEAR_MS + 50 + FAR_MS - NEAR_MS) as f64 + PACKET_MS;
/// What was on its way is lost with the carrier; 10 ms later the next packet takes the other path. As much again for the
/// emulator and the receiver.
const NOTICE_GAP_MS: f64 = (NEAR_MS + 10 + FAR_MS - NEAR_MS) as f64 + PACKET_MS + 10.0;
/// Packets of a failover at this pace that may be lost.
const LOST_AT_MOST: u64 = 20;
/// When after its start a stream meets the failure, and when its gap lies, milliseconds.
const FAILURE_AFTER: Duration = Duration::from_millis(500);
const AROUND_FAILURE_MS: Range<f64> = 450.0..1000.0;
/// A path that has carried nothing for so long is idle.
const IDLE_AFTER: Duration = Duration::from_secs(1);
/// Bytes that say that data takes a link again: probes alone need more than a second for them.
const CARRIED: u64 = 20_000;

/// What happens to the link of `up0`.
#[derive(Clone, Copy, Debug)]
enum Failure {
    BlackHole,
    /// From gateway a to b only.
    BlackHoleOut,
    /// From gateway b to a only.
    BlackHoleIn,
    Carrier,
    Address,
    Interface,
}

impl Failure {
    fn begin(self, scene: &Scene, link: usize) -> Result<()> {
        let (topology, a) = (&scene.topology, scene.a().namespace());
        match self {
            Self::BlackHole => topology.link(link)?.set_black_hole(true),
            Self::BlackHoleOut => set_black_hole(scene, link, End::A, true),
            Self::BlackHoleIn => set_black_hole(scene, link, End::B, true),
            Self::Carrier => topology.link(link)?.set_carrier(End::A, false),
            Self::Address => a.ip(&format!("addr del 10.10{link}.0.1/24 dev up{link}")),
            Self::Interface => topology.link(link)?.remove_interface(End::A),
        }
    }

    fn end(self, scene: &Scene, link: usize) -> Result<()> {
        let (topology, a) = (&scene.topology, scene.a().namespace());
        match self {
            Self::BlackHole | Self::BlackHoleOut | Self::BlackHoleIn => topology.link(link)?.set_black_hole(false),
            Self::Carrier => topology.link(link)?.set_carrier(End::A, true),
            Self::Address => a.ip(&format!("addr add 10.10{link}.0.1/24 dev up{link}")),
            // With its addresses, under another index.
            Self::Interface => topology.link(link)?.restore_interface(End::A),
        }
    }
}

fn set_black_hole(scene: &Scene, link: usize, from: End, is_on: bool) -> Result<()> {
    let link = scene.topology.link(link)?;
    let mut shape = link.shape(from)?;
    shape.black_hole = is_on;
    link.set_shape(from, shape)
}

/// Two paths, of which the nearer one, `up0`, takes all flows.
fn near_and_far() -> Result<Scene> {
    Scene::with(&[delayed(NEAR_MS), delayed(FAR_MS)], |_, configs| {
        prefer(configs, 0);
        Ok(())
    })
}

/// A stream by `up0`, which fails for a while. What arrived, and how long after the end of the failure `up0` carried again.
fn fail_busy(failure: Failure) -> Result<(StreamReport, Duration)> {
    let scene = near_and_far()?;
    let stream = scene.stream(PACE, SIZE)?;
    thread::sleep(FAILURE_AFTER);
    failure.begin(&scene, 0)?;
    thread::sleep(Duration::from_millis(700));
    let before = scene.bytes(0, End::A)?;
    failure.end(&scene, 0)?;
    let carries = || Ok(scene.bytes(0, End::A)? > before + CARRIED);
    let back = until("the healed path carries packets", BACK_WITHIN, carries)?;
    thread::sleep(Duration::from_millis(100));
    let report = stream.stop()?;
    println!("{failure:?}: back after {back:.1?}");
    scene.close()?;
    Ok((report, back))
}

/// The stream has at most such a gap.
fn check_busy(failure: Failure, gap_ms: f64, lost: u64) -> Result<()> {
    attempts(|| {
        let (report, _) = fail_busy(failure)?;
        check_whole(&report, lost)?;
        let gap = report.largest_gap_within(AROUND_FAILURE_MS);
        ensure!(gap <= gap_ms, "{failure:?}: a gap of {gap:.1} ms, and {gap_ms:.1} ms are allowed");
        Ok(())
    })
}

#[test]
fn a_busy_path_that_becomes_a_black_hole() -> Result<()> {
    check_busy(Failure::BlackHole, DOUBT_GAP_MS, LOST_AT_MOST)
}

#[test]
fn a_busy_path_that_becomes_a_black_hole_in_the_direction_of_the_stream() -> Result<()> {
    check_busy(Failure::BlackHoleOut, DOUBT_GAP_MS, LOST_AT_MOST)
}

/// Answers are missing, packets are not: while the path is doubted, they go twice, and arrive once.
#[test]
fn a_busy_path_that_becomes_a_black_hole_in_the_other_direction() -> Result<()> {
    check_busy(Failure::BlackHoleIn, DOUBT_GAP_MS, 0)
}

#[test]
fn a_busy_path_that_loses_its_carrier() -> Result<()> {
    check_busy(Failure::Carrier, NOTICE_GAP_MS, LOST_AT_MOST)
}

#[test]
fn a_busy_path_that_loses_its_address() -> Result<()> {
    check_busy(Failure::Address, NOTICE_GAP_MS, LOST_AT_MOST)
}

#[test]
fn a_busy_path_whose_interface_is_unplugged_and_comes_back_under_another_index() -> Result<()> {
    check_busy(Failure::Interface, NOTICE_GAP_MS, LOST_AT_MOST)
}

fn fail_idle() -> Result<()> {
    let scene = Scene::new(&[delayed(NEAR_MS), delayed(NEAR_MS), delayed(NEAR_MS), delayed(FAR_MS)])?;
    let both = |link: usize| [(scene.a(), format!("b/up{link}")), (scene.b(), format!("a/up{link}"))];
    let until_both = |link, is_used, within| -> Result<Vec<Duration>> {
        let wait = |(gateway, name): &(&Gateway, String)| until_used(gateway, name, is_used, within);
        both(link).iter().map(wait).collect()
    };
    for (link, failure) in [Failure::BlackHole, Failure::BlackHoleOut, Failure::BlackHoleIn].into_iter().enumerate() {
        thread::sleep(IDLE_AFTER);
        failure.begin(&scene, link)?;
        let left = until_both(link, false, LEFT_WITHIN)?;
        let many = UdpStream {
            flows: 40,
            linger: Duration::from_millis(100),
            ..UdpStream::to(scene.b().host_v4(), 1000, 64, Duration::from_millis(200))
        };
        check_whole(&many.run(scene.topology.ha(), scene.topology.hb())?, 0)?;
        for (gateway, name) in both(link) {
            let path = path(gateway, &name)?;
            ensure!(path.health == "down", "{failure:?}: {path:?}");
        }
        failure.end(&scene, link)?;
        let back = until_both(link, true, BACK_WITHIN)?;
        println!("{failure:?}: left after {left:.0?}, back after {back:.0?}");
    }
    scene.close()
}

/// Both gateways leave it and use it again, also where only one direction fails. What is sent afterwards arrives.
#[test]
fn idle_paths_that_become_black_holes() -> Result<()> {
    attempts(fail_idle)
}

/// While a path is only doubted, its packets go by another one as well: the receiver drops the second copies.
#[test]
fn a_short_silence_costs_nothing() -> Result<()> {
    let scene = near_and_far()?;
    let stream = scene.stream(PACE, SIZE)?;
    thread::sleep(Duration::from_millis(500));
    for _ in 0..3 {
        set_black_hole(&scene, 0, End::B, true)?;
        thread::sleep(Duration::from_millis(70));
        set_black_hole(&scene, 0, End::B, false)?;
        thread::sleep(Duration::from_millis(400));
    }
    check_whole(&stream.stop()?, 0)?;
    let copies = dropped(scene.b(), "duplicate")?;
    println!("{copies} second copies");
    ensure!(copies > 0, "no packet went twice");
    // The last silence may have been long enough for leaving it.
    until_used(scene.a(), "b/up0", true, BACK_WITHIN)?;
    scene.close()
}

/// A path that loses every third packet is left for a better one, and used again when it is over.
#[test]
fn a_path_that_loses_30_percent() -> Result<()> {
    let scene = near_and_far()?;
    let stream = scene.stream(PACE, SIZE)?;
    thread::sleep(Duration::from_millis(500));
    scene.topology.link(0)?.change(|shape| shape.loss = 0.3)?;
    let left = until_used(scene.a(), "b/up0", false, Duration::from_secs(2))?;
    // What was on its way may still be lost.
    thread::sleep(Duration::from_millis(50));
    let (sent, received) = (stream.sent(), stream.received());
    thread::sleep(Duration::from_secs(1));
    let (sent, received) = (stream.sent() - sent, stream.received() - received);
    ensure!(received + 10 > sent, "of {sent} packets {received} came, after the path was left");
    scene.topology.link(0)?.change(|shape| shape.loss = 0.0)?;
    let back = until_used(scene.a(), "b/up0", true, Duration::from_secs(6))?;
    println!("left after {left:.0?}, back after {back:.0?}");
    let report = stream.stop()?;
    check_whole(&report, u64::from(PACE) / 2)?;
    scene.close()
}

/// Every path loses many packets: the one that loses fewest carries them.
#[test]
fn the_least_bad_path_when_all_are_bad() -> Result<()> {
    let scene = near_and_far()?;
    let stream = scene.stream(PACE, SIZE)?;
    scene.topology.link(0)?.set_black_hole(true)?;
    scene.topology.link(1)?.change(|shape| shape.loss = 0.25)?;
    thread::sleep(Duration::from_millis(2500));
    let (sent, received) = (stream.sent(), stream.received());
    thread::sleep(Duration::from_secs(2));
    let (sent, received) = (stream.sent() - sent, stream.received() - received);
    let path = path(scene.a(), "b/up1")?;
    ensure!(path.used, "{path:?}");
    // 400 packets: the standard deviation is 2.2 %.
    ensure!(received as f64 > 0.65 * sent as f64, "of {sent} packets {received} came: {path:?}");
    check_whole(&stream.stop()?, u64::MAX)?;
    scene.close()
}
