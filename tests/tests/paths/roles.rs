//! Backup and metered paths, quotas, and paths that are put up and down by hand.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use multipath_tests::{End, LinkSpec, Topology, TunnelConfig, traffic::UdpStream};

use crate::{
    scene::{BACK_WITHIN, PATIENCE, Scene, check_whole, delayed, until, until_used},
    status::{path, paths},
};

const LINKS: [LinkSpec; 2] = [delayed(10), delayed(20)];
/// Interval of probes on a metered path.
const METERED_INTERVAL_US: u32 = 5_000_000;

/// What a gateway says of its uplink `up1`; the other gateway's file says nothing.
fn with_role(role: &str) -> impl FnOnce(&Topology, &mut [TunnelConfig; 2]) -> Result<()> {
    move |_, configs| {
        configs[0].uplinks[1].role = Some(role.to_owned());
        Ok(())
    }
}

/// Sends many flows both ways for a moment: what went over each link, bytes, both directions together. Nothing is lost.
fn carried(scene: &Scene) -> Result<Vec<u64>> {
    let topology = &scene.topology;
    let count = || -> Result<Vec<u64>> {
        let both = |link| Ok(scene.bytes(link, End::A)? + scene.bytes(link, End::B)?);
        (0..topology.connections.len()).map(both).collect()
    };
    let before = count()?;
    let many = |to| UdpStream {
        port: 7002,
        flows: 40,
        linger: Duration::from_millis(200),
        ..UdpStream::to(to, 500, 1000, Duration::from_millis(400))
    };
    let streams = [
        many(topology.b.host_v4()).start(topology.ha(), topology.hb())?,
        many(topology.a.host_v4()).start(topology.hb(), topology.ha())?,
    ];
    for stream in streams {
        check_whole(&stream.finish()?, 0)?;
    }
    Ok(count()?.iter().zip(before).map(|(after, before)| after - before).collect())
}

/// Which links carry data: some 400 packets of 1000 bytes where they do, probes alone where not.
fn carrying(scene: &Scene) -> Result<Vec<bool>> {
    Ok(carried(scene)?.iter().map(|bytes| *bytes > 50_000).collect())
}

/// The other gateway respects what a gateway wants of its uplink.
#[test]
fn a_backup_path_waits_until_it_is_needed() -> Result<()> {
    let scene = Scene::with(&LINKS, with_role("backup"))?;
    for (gateway, name) in [(scene.a(), "b/up1"), (scene.b(), "a/up1")] {
        let path = path(gateway, name)?;
        ensure!((path.health, path.role, path.used) == ("backup", "backup", false), "{path:?}");
    }
    ensure!(carrying(&scene)? == [true, false]);

    scene.topology.link(0)?.set_black_hole(true)?;
    let taken = until_used(scene.a(), "b/up1", true, BACK_WITHIN)?;
    until_used(scene.b(), "a/up1", true, BACK_WITHIN)?;
    until_used(scene.a(), "b/up0", false, BACK_WITHIN)?;
    ensure!(carrying(&scene)? == [false, true]);

    scene.topology.link(0)?.set_black_hole(false)?;
    let back = until_used(scene.a(), "b/up0", true, BACK_WITHIN)?;
    until_used(scene.a(), "b/up1", false, BACK_WITHIN)?;
    until_used(scene.b(), "a/up1", false, BACK_WITHIN)?;
    println!("taken after {taken:.0?}, back after {back:.0?}");
    ensure!(carrying(&scene)? == [true, false]);
    scene.close()
}

#[test]
fn a_metered_path_is_probed_seldom_and_used_last() -> Result<()> {
    let scene = Scene::with(&LINKS, with_role("metered"))?;
    let metered = path(scene.a(), "b/up1")?;
    println!("{metered:?}");
    ensure!(metered.role == "metered" && !metered.used, "{metered:?}");
    let metered = metered.quality;
    ensure!(metered.interval_us == METERED_INTERVAL_US, "{metered:?}");
    // Three intervals and a round trip at most: once an answer is overdue, it is probed more often.
    ensure!((5_000_000..=15_040_000).contains(&metered.failover_us), "{metered:?}");
    let active = path(scene.a(), "b/up0")?.quality;
    ensure!(active.interval_us <= 80_000 && active.failover_us <= 300_000, "{active:?}");
    // A probe and its answer take 136 bytes of IP each, and both gateways probe.
    let per_day = 86_400_000_000 / u64::from(METERED_INTERVAL_US) * 2 * 136;
    ensure!((per_day..=2 * per_day).contains(&metered.probe_bytes_per_day), "{metered:?}");
    ensure!(carrying(&scene)? == [true, false]);
    let before = scene.bytes(1, End::A)?;
    thread::sleep(Duration::from_secs(4));
    let idle = scene.bytes(1, End::A)? - before;
    ensure!(idle <= 1000, "{idle} bytes in 4 s");

    scene.topology.link(0)?.set_black_hole(true)?;
    until_used(scene.a(), "b/up1", true, BACK_WITHIN)?;
    until_used(scene.b(), "a/up1", true, BACK_WITHIN)?;
    until_used(scene.a(), "b/up0", false, BACK_WITHIN)?;
    ensure!(carrying(&scene)? == [false, true]);
    scene.close()
}

/// Up to its quota the uplink is used like any other one; then it is spared, also by the next daemon.
#[test]
fn a_quota_is_kept() -> Result<()> {
    let mut scene = Scene::with(&LINKS, |_, configs| {
        configs[0].uplinks[1].quota = Some("1MB/day".to_owned());
        // By weights, or all flows would take the nearer link.
        for uplink in configs.iter_mut().flat_map(|config| &mut config.uplinks) {
            uplink.weight = Some(1);
        }
        Ok(())
    })?;
    ensure!(carrying(&scene)? == [true, true]);
    let before = path(scene.a(), "b/up1")?;
    ensure!(before.quality.quota_bytes == Some(1_000_000) && before.role == "active", "{before:?}");

    let stream = scene.stream(400, 1000)?;
    let more =
        UdpStream { flows: 40, port: 7001, ..UdpStream::to(scene.b().host_v4(), 800, 1000, Duration::from_mins(1)) };
    let more = more.start(scene.topology.ha(), scene.topology.hb())?;
    until("the quota is used up", PATIENCE, || Ok(path(scene.a(), "b/up1")?.role == "metered"))?;
    until_used(scene.a(), "b/up1", false, BACK_WITHIN)?;
    for stream in [stream, more] {
        check_whole(&stream.stop()?, 0)?;
    }
    let spent = path(scene.a(), "b/up1")?;
    ensure!(spent.quality.quota_used_bytes.is_some_and(|used| (1_000_000..4_000_000).contains(&used)), "{spent:?}");
    until_used(scene.b(), "a/up1", false, BACK_WITHIN)?;
    ensure!(carrying(&scene)? == [true, false]);

    // Everything goes but the file.
    scene.daemons[0].interrupt()?;
    scene.daemons[0] = scene.a().daemon(&scene.a().directory().join("mp0.toml"))?;
    scene.topology.wait_for_session("mp0")?;
    until_used(scene.a(), "b/up0", true, PATIENCE)?;
    let kept = path(scene.a(), "b/up1")?;
    ensure!(kept.role == "metered" && kept.quality.quota_used_bytes >= spent.quality.quota_used_bytes, "{kept:?}");
    until_used(scene.b(), "a/up1", false, PATIENCE)?;
    ensure!(carrying(&scene)? == [true, false]);
    scene.close()
}

/// At once, without losing a packet, and also while no daemon runs.
#[test]
fn paths_are_put_up_and_down_by_hand() -> Result<()> {
    let mut scene = Scene::new(&LINKS)?;
    let set = |scene: &Scene, path: &str, role: &str| -> Result<()> {
        scene.a().mpvpn(&["path", "set", path, role])?.success().map(drop)
    };
    ensure!(carrying(&scene)? == [true, true]);

    let stream = scene.stream(500, 100)?;
    set(&scene, "b/up0", "down")?;
    until_used(scene.a(), "b/up0", false, BACK_WITHIN)?;
    until_used(scene.b(), "a/up0", false, BACK_WITHIN).context("the other gateway is told")?;
    let down = path(scene.a(), "b/up0")?;
    ensure!(down.health == "disabled" && down.reason == "operator", "{down:?}");
    ensure!(carrying(&scene)? == [false, true]);
    set(&scene, "up0", "up")?;
    until_used(scene.a(), "b/up0", true, BACK_WITHIN)?;
    set(&scene, "b/up1", "backup")?;
    until_used(scene.a(), "b/up1", false, BACK_WITHIN)?;
    until_used(scene.b(), "a/up1", false, BACK_WITHIN)?;
    ensure!(carrying(&scene)? == [true, false]);
    set(&scene, "b/up1", "auto")?;
    until_used(scene.a(), "b/up1", true, BACK_WITHIN)?;

    scene.daemons[0].terminate()?;
    thread::sleep(Duration::from_millis(100));
    set(&scene, "b/up0", "down")?;
    let at = scene.bytes(0, End::A)?;
    let many = UdpStream {
        flows: 40,
        port: 7001,
        ..UdpStream::to(scene.b().host_v4(), 500, 1000, Duration::from_millis(400))
    };
    check_whole(&many.run(scene.topology.ha(), scene.topology.hb())?, 0)?;
    let by_it = scene.bytes(0, End::A)? - at;
    ensure!(by_it < 50_000, "{by_it} bytes by a path that was put down without a daemon");
    check_whole(&stream.stop()?, 0)?;
    scene.daemons[0] = scene.a().daemon(&scene.a().directory().join("mp0.toml"))?;
    until("the next daemon respects it", PATIENCE, || Ok(path(scene.a(), "b/up0")?.health == "disabled"))?;
    ensure!(carrying(&scene)? == [false, true], "{:?}", paths(scene.a())?);
    scene.close()
}
