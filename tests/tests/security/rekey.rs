//! New keys under load, and no keys that live on without a daemon.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use multipath_common::maps::session_slot;
use multipath_tests::traffic::{PacketSocket, StreamReport, UdpStream};
use multipath_tests::{End, Family, Gateway, LinkSpec, eventually};

use crate::recording::Recording;
use crate::scene::Scene;
use crate::state;

const REKEY_AFTER: Duration = Duration::from_secs(2);
/// When the programs refuse a session, after it was made.
const REJECT_AFTER: Duration = Duration::from_secs(3);
const OPTIONS: [&str; 2] = ["--rekey-after", "2"];
const REKEYS: usize = 20;
const PACE: u32 = 20_000;
/// How long a rekey may take beyond its time.
const SLACK: Duration = Duration::from_millis(500);

/// Not one packet was lost or doubled by the tunnel. What the sender's own kernel refused, or the receiver's socket had no
/// room for, never was the tunnel's to lose.
fn whole(report: &StreamReport) -> Result<()> {
    let lost = report.lost - report.refused - report.overflowed;
    println!("sent {}, lost {lost}, twice {}, gap {:.1} ms", report.sent, report.duplicated, report.largest_gap_ms);
    ensure!((lost, report.duplicated) == (0, 0), "of {} packets {lost} are lost", report.sent);
    Ok(())
}

/// Slots without session have no keys; and sessions that are no longer needed have gone.
fn old_keys_are_wiped(gateway: &Gateway) -> Result<()> {
    let look = || -> Result<bool> {
        let used: BTreeSet<u32> = state::sessions(gateway)?.iter().map(|session| session_slot(session.index)).collect();
        let keys = state::session_keys(gateway)?;
        let unused = (0..).zip(&keys).filter(|(slot, _)| !used.contains(slot));
        let is_wiped = unused.into_iter().all(|(_, keys)| (keys.send, keys.receive) == ([0; 8], [0; 8]));
        Ok(is_wiped && used.len() < keys.len())
    };
    eventually("keys of sessions that are gone are wiped", look, |is_wiped| *is_wiped)?;
    Ok(())
}

#[test]
fn twenty_rekeys_lose_nothing_and_sessions_end_without_daemons() -> Result<()> {
    let mut scene = Scene::new(&[LinkSpec::VETH.family(Family::V4); 2])?;
    let configs = scene.topology.tunnel_configs(0);
    scene.up(&configs, &OPTIONS)?;
    let [a, b] = [&scene.topology.a, &scene.topology.b];
    let stream =
        |to: &Gateway, pace| UdpStream { flows: 16, ..UdpStream::to(to.host_v4(), pace, 64, Duration::from_mins(2)) };

    let running = [stream(b, PACE).start(a.host(), b.host())?, stream(a, PACE / 20).start(b.host(), a.host())?];
    let mut seen: [BTreeSet<u32>; 2] = Default::default();
    let start = Instant::now();
    while seen.iter().any(|seen| seen.len() <= REKEYS) {
        ensure!(start.elapsed() < (REKEY_AFTER + SLACK) * REKEYS as u32, "only these sessions: {seen:x?}");
        for (gateway, seen) in [a, b].into_iter().zip(&mut seen) {
            seen.insert(state::current(gateway)?.context("there is no session")?.index);
        }
        thread::sleep(Duration::from_millis(100));
    }
    println!("{REKEYS} rekeys in {:.1} s", start.elapsed().as_secs_f64());
    for running in running {
        let report = running.stop()?;
        let drops = [state::drops(&state::maps(a)?)?, state::drops(&state::maps(b)?)?];
        whole(&report).with_context(|| format!("dropped by a and b: {drops:?}"))?;
    }
    for gateway in [a, b] {
        old_keys_are_wiped(gateway)?;
        let drops = state::drops(&state::maps(gateway)?)?;
        ensure!(drops.is_empty(), "{drops:?}");
    }

    // Without daemons the programs themselves refuse the session when its time has come.
    let running = stream(b, PACE).start(a.host(), b.host())?;
    let recording = Recording::start(&scene.topology)?;
    scene.daemons.clear();
    thread::sleep(Duration::from_millis(100));
    let sent = recording.stop()?;
    let last = sent.iter().rfind(|sent| sent.from == End::A && !sent.datagram.is_handshake());
    let last = last.context("nothing passes after the daemons have died")?;
    thread::sleep(REJECT_AFTER);
    let [received, refused] = [running.received(), state::dropped(a, "session_expired")?];
    thread::sleep(Duration::from_millis(300));
    ensure!(running.received() == received, "{} packets still pass", running.received() - received);
    let counted = state::dropped(a, "session_expired")? - refused;
    ensure!(counted > u64::from(PACE) / 10, "{counted} packets are counted as session_expired");
    running.stop()?;

    let uplink = PacketSocket::sender(a.namespace(), &format!("up{}", last.link))?;
    let before = state::dropped(b, "session_expired")?;
    uplink.send(last.datagram.frame())?;
    let count = || Ok(state::dropped(b, "session_expired")? - before);
    eventually("what comes for the session is refused too", count, |count| *count == 1)?;

    // Daemons that come back find nothing that they could go on with.
    scene.start(&configs, &OPTIONS)?;
    scene.established()?;
    scene.streams()?;
    scene.close()
}
