//! The stage of a test: two gateways with their tunnel up, over links that can be made worse, and nothing else beside it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use multipath_tests::{
    Daemon, End, Family, Gateway, LinkSpec, Process, Shape, Topology, TunnelConfig,
    traffic::{Ping, StreamReport, UdpStream, stream::RunningStream},
};

use crate::status::{path, paths};

/// How long anything may take that has no limit of its own.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long a path may have failed while it is idle until it is left.
pub const LEFT_WITHIN: Duration = Duration::from_millis(300);
/// How long a path may have been healed until it carries packets again.
pub const BACK_WITHIN: Duration = Duration::from_secs(1);
/// Weight of a path that takes all flows from others of weight 1.
const DOMINANT: u32 = 1_000_000;
/// How often [`attempts`] tries.
const ATTEMPTS: usize = 3;

/// Two gateways with their hosts, and `mp0` between them.
pub struct Scene {
    /// The daemons of `mp0`, gateway a's first.
    pub daemons: [Daemon; 2],
    /// Gateways, hosts and links.
    pub topology: Topology,
    _alone: MutexGuard<'static, ()>,
}

/// An IPv4 link without limit of its rate: one path.
pub const fn delayed(delay_ms: u64) -> LinkSpec {
    LinkSpec::PERFECT.shaped(Shape { delay_us: delay_ms * 1000, ..Shape::PERFECT }).family(Family::V4)
}

/// Has an uplink take all flows of both gateways, as long as it is used.
pub fn prefer(configs: &mut [TunnelConfig; 2], number: usize) {
    for config in configs {
        for (index, uplink) in config.uplinks.iter_mut().enumerate() {
            uplink.weight = Some(if index == number { DOMINANT } else { 1 });
        }
    }
}

/// Waits until no other test of this program runs.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scene {
    /// Links, and `mp0` over all of them.
    pub fn new(links: &[LinkSpec]) -> Result<Self> {
        Self::with(links, |_, _| Ok(()))
    }

    /// The same, with the configurations of the gateways changed before, or the links.
    pub fn with(
        links: &[LinkSpec],
        change: impl FnOnce(&Topology, &mut [TunnelConfig; 2]) -> Result<()>,
    ) -> Result<Self> {
        let alone = alone();
        let topology = Topology::new(links)?;
        meet(&topology)?;
        let mut configs = topology.tunnel_configs(0);
        change(&topology, &mut configs)?;
        let daemons = up_both(&topology, &configs)?;
        topology.wait_for_session("mp0")?;
        let scene = Self { daemons, topology, _alone: alone };
        scene.settle()?;
        Ok(scene)
    }

    /// The gateway of which most tests look at the paths.
    pub fn a(&self) -> &Gateway {
        &self.topology.a
    }

    /// The other one.
    pub fn b(&self) -> &Gateway {
        &self.topology.b
    }

    /// Both gateways.
    pub fn gateways(&self) -> [&Gateway; 2] {
        [&self.topology.a, &self.topology.b]
    }

    /// Starts one flow from a's host to b's: packets a second, bytes of UDP payload.
    pub fn stream(&self, pace: u32, size: u16) -> Result<RunningStream> {
        let stream = UdpStream::to(self.topology.b.host_v4(), pace, size, Duration::from_mins(1));
        stream.start(self.topology.ha(), self.topology.hb())
    }

    /// Bytes that have entered a link, in the direction that starts at this end.
    pub fn bytes(&self, link: usize, from: End) -> Result<u64> {
        Ok(self.topology.link(link)?.counters(from)?.bytes_in)
    }

    /// Packets pass between the hosts, both ways, and all of them.
    pub fn passes(&self) -> Result<()> {
        let report = Ping { count: 5, interval: Duration::ZERO, ..Ping::to(self.topology.b.host_v4()) }
            .run(self.topology.ha())?;
        ensure!(report.received == 5, "the hosts do not reach each other: {report:?}");
        Ok(())
    }

    /// Waits until nothing is new any more: every path has been measured for a while.
    fn settle(&self) -> Result<()> {
        for gateway in self.gateways() {
            let is_known =
                || Ok(paths(gateway)?.iter().all(|path| path.quality.rtt_us.is_some() && path.health != "probing"));
            until("all paths are known", PATIENCE, is_known)
                .with_context(|| format!("{}: {:?}", gateway.name(), paths(gateway).unwrap_or_default()))?;
        }
        self.passes()?;
        thread::sleep(Duration::from_millis(500));
        Ok(())
    }

    /// Ends the test.
    ///
    /// # Errors
    /// A daemon has ended on its own, or something is left behind.
    pub fn close(self) -> Result<()> {
        let Self { mut daemons, topology, _alone } = self;
        for daemon in &mut daemons {
            ensure!(daemon.is_running(), "a daemon has ended; its log:\n{}", daemon.log());
        }
        drop(daemons);
        let left = topology.lab.close()?;
        ensure!(left.is_empty(), "the lab left something behind: {left:?}");
        Ok(())
    }
}

/// Has all neighbours know each other, those on a link for good: a black hole is somewhere beyond the next hop, which goes
/// on to answer. The kernel may take a second to resolve a neighbour, and keeps few packets meanwhile.
pub fn meet(topology: &Topology) -> Result<()> {
    for gateway in [&topology.a, &topology.b] {
        gateway.meet_host()?;
    }
    for connection in &topology.connections {
        let far = connection.ends[1].v4.context("the link has IPv4")?;
        let ping = Ping { count: 2, ..Ping::to(far) }.run(topology.a.namespace())?;
        ensure!(ping.received > 0, "{far} is not reached");
        if let Ok(link) = connection.link()
            && connection.nat.is_none()
        {
            for end in [End::A, End::B] {
                let (near, far) = (link.interface(end), link.interface(end.other()));
                let (address, _) = far.v4.context("the link has IPv4")?;
                let neighbour = format!("neigh replace {address} lladdr {} dev {} nud permanent", far.mac, near.name);
                link.namespace(end).ip(&neighbour)?;
            }
        }
    }
    Ok(())
}

/// Starts the tunnel on both gateways at once.
pub fn up_both(topology: &Topology, [a, b]: &[TunnelConfig; 2]) -> Result<[Daemon; 2]> {
    thread::scope(|scope| {
        let first = scope.spawn(|| topology.a.up(a));
        let second = topology.b.up(b)?;
        Ok([first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?, second])
    })
}

/// Waits until something is so, and says how long that took.
pub fn until(what: &str, within: Duration, mut is_so: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let start = Instant::now();
    loop {
        let is_done = is_so()?;
        let took = start.elapsed();
        if took > within {
            bail!("not within {within:?}: {what}");
        }
        if is_done {
            return Ok(took);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until a path is used, or no longer.
pub fn until_used(gateway: &Gateway, name: &str, is_used: bool, within: Duration) -> Result<Duration> {
    let what = if is_used { "is used" } else { "is left" };
    until(&format!("{name} of {} {what}", gateway.name()), within, || Ok(path(gateway, name)?.used == is_used))
        .with_context(|| format!("{:?}", paths(gateway).unwrap_or_default()))
}

/// Tries again when it fails. For limits of some ten milliseconds alone: where processors are shared, something else may
/// keep a daemon or the emulator from them for as long.
pub fn attempts<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 1..ATTEMPTS {
        match attempt() {
            Err(error) => println!("once more, for {error:#}"),
            done => return done,
        }
    }
    attempt()
}

/// Nothing came twice, and no more than so many packets were lost by the tunnel.
pub fn check_whole(report: &StreamReport, lost_at_most: u64) -> Result<()> {
    println!(
        "sent {}, lost {}, refused {}, overflowed {}, duplicated {}, reordered {}, largest gap {:.1} ms at {:.0} ms",
        report.sent,
        report.lost,
        report.refused,
        report.overflowed,
        report.duplicated,
        report.reordered,
        report.largest_gap_ms,
        report.largest_gap_at_ms
    );
    let lost = report.lost.saturating_sub(report.refused + report.overflowed);
    ensure!(report.duplicated == 0, "{} packets came twice", report.duplicated);
    ensure!(lost <= lost_at_most, "{lost} packets were lost");
    Ok(())
}

/// Keeps a processor busy until it is dropped.
pub fn burn(scene: &Scene) -> Result<Process> {
    scene.topology.ha().spawn(&["sh", "-c", "while :; do :; done"])
}
