//! Daemons that die, and come back, while packets flow.

use std::{fs, os::unix::fs::PermissionsExt as _, thread, time::Duration};

use anyhow::{Result, ensure};
use multipath_loader::daemon::DOUBT;
use multipath_tests::{
    Family, Gateway, LinkSpec, Process, Topology,
    gateway::{READY, mpvpn_binary},
    traffic::{StreamReport, UdpStream},
};
use nix::sys::signal::Signal;

use crate::{PATIENCE, alone, close, passes, path, paths, status, until, up};

const PACE: u32 = 20_000;

/// Starts another build of `mpvpn`, as an upgrade does: the same layout under another path.
fn start_copy(gateway: &Gateway) -> Result<Process> {
    let copy = gateway.directory().join("mpvpn-new");
    fs::copy(mpvpn_binary()?, &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    let mut command = gateway.namespace().command(&copy);
    command.arg("--bpffs").arg(gateway.bpffs()).arg("up").arg(gateway.directory().join("mp0.toml"));
    let mut daemon = Process::spawn(command)?;
    until("the new build is ready", || {
        ensure!(daemon.is_running(), "the new build ended: {}", daemon.stderr());
        Ok(daemon.stdout().contains(READY))
    })?;
    Ok(daemon)
}

/// Not one packet was lost or doubled by the tunnel. What the sender's own kernel refused, or the receiver's socket had
/// no room for, never was the tunnel's to lose.
fn assert_whole(report: &StreamReport) {
    println!(
        "sent {}, refused {}, lost {}, of these overflowed {}, duplicated {}, reordered {}, largest gap {:.1} ms",
        report.sent,
        report.refused,
        report.lost,
        report.overflowed,
        report.duplicated,
        report.reordered,
        report.largest_gap_ms
    );
    assert_eq!(report.lost - report.refused - report.overflowed, 0, "lost in the tunnel");
    assert_eq!(report.duplicated, 0);
}

#[test]
fn not_one_packet_is_lost_while_daemons_die_and_come_back() -> Result<()> {
    let _alone = alone();
    let topology = Topology::new(&[LinkSpec::VETH.family(Family::V4); 2])?;
    let [mut a, mut b] = up(&topology)?;
    let stream = UdpStream { flows: 16, ..UdpStream::to(topology.b.host_v4(), PACE, 64, Duration::from_mins(1)) };
    let running = stream.start(topology.ha(), topology.hb())?;
    let pause = |millis| thread::sleep(Duration::from_millis(millis));
    let mut before = 0;
    let mut step = |what: &str| {
        let received = running.received();
        println!("{what}: {} received", received - before);
        before = received;
    };

    pause(500);
    step("before");
    a.kill()?;
    pause(2000);
    step("2 s without the sender's daemon");
    let mut a = topology.a.daemon(&topology.a.directory().join("mp0.toml"))?;
    b.kill()?;
    pause(2000);
    step("2 s without the receiver's daemon");
    let mut b = topology.b.daemon(&topology.b.directory().join("mp0.toml"))?;
    pause(300);
    a.terminate()?;
    b.terminate()?;
    let new = [start_copy(&topology.a)?, start_copy(&topology.b)?];
    pause(300);
    step("upgraded");
    for mut daemon in new {
        daemon.signal(Signal::SIGTERM)?;
        assert!(daemon.wait(PATIENCE)?.success());
    }
    let _daemons = [&topology.a, &topology.b].map(|gateway| gateway.daemon(&gateway.directory().join("mp0.toml")));
    pause(300);
    step("ended by SIGTERM and started");
    assert_whole(&running.stop()?);
    for gateway in [&topology.a, &topology.b] {
        // The kernel's own multicast on the device has no peer; everything else does. A probe may come, to be answered,
        // before the daemon has taken up the first session; and long ones, of trains, before the path by which they are to be
        // answered. The stream's packets are short.
        let drops = status(gateway)?.drops;
        let is_known = |reason: &str, length: u64| match reason {
            "no_peer" | "no_session" => true,
            "no_path" => length > 1000,
            _ => false,
        };
        assert!(drops.iter().all(|drop| is_known(drop.reason, drop.bytes / drop.packets.max(1))), "{drops:?}");
    }
    close(topology)
}

/// The shares of a stream of many flows on the sender's paths, from 0 to 1; a few probes are counted with it.
fn shares(topology: &Topology) -> Result<Vec<f64>> {
    let sent = || Ok::<_, anyhow::Error>(paths(&topology.a)?.iter().map(|path| path.egress.packets as u32).collect());
    let before: Vec<u32> = sent()?;
    let stream = UdpStream {
        flows: 200,
        linger: Duration::from_millis(100),
        ..UdpStream::to(topology.b.host_v4(), 4000, 64, Duration::from_millis(300))
    };
    let report = stream.run(topology.ha(), topology.hb())?;
    assert_eq!(report.lost, 0, "{report:?}");
    let packets: Vec<u32> = sent()?.iter().zip(before).map(|(after, before)| after - before).collect();
    let total: u32 = packets.iter().sum();
    Ok(packets.iter().map(|packets| f64::from(*packets) / f64::from(total)).collect())
}

#[test]
fn weights_act_without_a_daemon_and_survive_its_restart() -> Result<()> {
    let _alone = alone();
    let topology = Topology::new(&[LinkSpec::VETH.family(Family::V4); 2])?;
    let [mut a, _b] = up(&topology)?;
    let set =
        |path: &str, weight: &str| topology.a.mpvpn(&["path", "set", path, "weight", weight])?.success().map(drop);

    a.kill()?;
    assert!(!status(&topology.a)?.daemon);
    set("b/up0", "1")?;
    set("up1", "1000000")?;
    let dead = shares(&topology)?;
    assert!(dead[1] > 0.95, "{dead:?}");

    let _a = topology.a.daemon(&topology.a.directory().join("mp0.toml"))?;
    assert!(status(&topology.a)?.daemon);
    assert_eq!(path(&topology.a, "b/up1")?.operator_weight, Some(1_000_000));
    let restarted = shares(&topology)?;
    assert!(restarted[1] > 0.95, "{restarted:?}");

    set("b/up0", "auto")?;
    set("b/up1", "auto")?;
    assert_eq!(path(&topology.a, "b/up1")?.operator_weight, None);
    let automatic = shares(&topology)?;
    println!("dead {dead:.3?}, restarted {restarted:.3?}, automatic {automatic:.3?}");
    // 200 flows with random ports: the standard deviation is 3.5 points.
    assert!((0.35..0.65).contains(&automatic[0]), "{automatic:?}");
    close(topology)
}

#[test]
fn a_peer_that_has_lost_the_session_is_found_again() -> Result<()> {
    let _alone = alone();
    // b can't begin: it does not know where a is.
    let topology = Topology::new(&[LinkSpec::PERFECT.family(Family::V4).natted()])?;
    let [a, b] = topology.tunnel_configs(0);
    let _a = topology.a.up(&a)?;
    let mut daemon = topology.b.up(&b)?;
    passes(&topology)?;
    daemon.interrupt()?;
    let _b = topology.b.up(&b)?;
    // a doubts a peer that it has heard nothing of for so long.
    thread::sleep(DOUBT);
    passes(&topology)?;
    close(topology)
}
