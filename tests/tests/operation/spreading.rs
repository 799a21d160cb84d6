//! Work on several processors: what is set up for it, and that packets of a flow stay in order.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use multipath_tests::traffic::{Iperf, UdpStream};
use multipath_tests::{Family, LinkSpec, Namespace, Topology};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::{PATIENCE, alone};

/// The receive steering of an interface, all queues, as the kernel writes it. `/sys` shows the network namespace that it was
/// mounted in, hence a mount of its own.
fn masks(namespace: &Namespace, interface: &str, write: Option<&str>) -> Result<Vec<u128>> {
    let files = format!("/sys/class/net/{interface}/queues/rx-*/rps_cpus");
    let change = write.map_or(String::new(), |mask| format!("for file in {files}; do echo {mask} > $file; done; "));
    let script = format!("mount -t sysfs none /sys && {change} cat {files}");
    let output = namespace.output(&["unshare", "--mount", "sh", "-c", &script], PATIENCE)?;
    let lines = output.success()?.lines();
    lines.map(|line| u128::from_str_radix(&line.replace(',', ""), 16).with_context(|| line.to_owned())).collect()
}

fn processors() -> Result<u32> {
    let online = fs::read_to_string("/sys/devices/system/cpu/online")?;
    Ok(online.trim().rsplit('-').next().unwrap_or_default().parse::<u32>()? + 1)
}

#[test]
fn only_the_own_port_is_steered_and_only_when_asked() -> Result<()> {
    let _alone = alone();
    let topology = Topology::new(&[LinkSpec::VETH.family(Family::V4)])?;
    let [mut config, _] = topology.tunnel_configs(0);
    let gateway = topology.a.namespace();
    masks(gateway, "up0", Some("1"))?;
    let all = u128::from(u64::MAX >> (64 - processors()?.min(64)));
    let expected = if all == 1 { 0 } else { all };

    let mut daemon = topology.a.up(&config)?;
    assert!(masks(gateway, "mp0-port", None)?.iter().all(|mask| *mask == expected));
    assert!(masks(gateway, "mp0", None)?.iter().all(|mask| *mask == 0));
    assert!(masks(gateway, "up0", None)?.iter().all(|mask| *mask == 1), "the operator's");

    daemon.terminate()?;
    config.tunnel.spread = Some("off".to_owned());
    let mut daemon = topology.a.up(&config)?;
    assert!(masks(gateway, "mp0-port", None)?.iter().all(|mask| *mask == 0));

    // Processor 1 alone is no mask of ours.
    daemon.terminate()?;
    masks(gateway, "mp0-port", Some("2"))?;
    config.tunnel.spread = None;
    let mut daemon = topology.a.up(&config)?;
    assert!(masks(gateway, "mp0-port", None)?.iter().all(|mask| *mask == 2), "somebody else's stays");
    daemon.interrupt()?;
    assert!(masks(gateway, "up0", None)?.iter().all(|mask| *mask == 1), "the operator's");
    Ok(())
}

#[test]
fn packets_of_a_flow_stay_in_order_while_its_lane_moves() -> Result<()> {
    let _alone = alone();
    let topology = Topology::new(&[LinkSpec::VETH.family(Family::V4)])?;
    let [a, b] = topology.tunnel_configs(0);
    let _daemons = [topology.a.up(&a)?, topology.b.up(&b)?];
    topology.wait_for_session("mp0")?;
    // On one processor: when a sender moves to another, the kernel itself may let packets overtake each other.
    let mut first = CpuSet::new();
    first.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &first)?;
    // The stream alone is light; with the first burst its path's lane is heavy, and goes home.
    let stream = UdpStream::to([10, 99, 0, 2], 10_000, 1_200, Duration::from_secs(6));
    let stream = stream.start(topology.a.namespace(), topology.b.namespace())?;
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(500));
        let burst = Iperf { streams: 4, ..Iperf::tcp([10, 99, 0, 2], 1) };
        burst.run(topology.a.namespace(), topology.b.namespace())?;
    }
    let report = stream.finish()?;
    assert_eq!((report.reordered, report.duplicated), (0, 0), "{} of {} arrived", report.received, report.sent);
    assert!(report.received > report.sent / 2, "{} of {} arrived", report.received, report.sent);
    Ok(())
}
