//! The stage of a test: a topology with its tunnel up, and nothing else running beside it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};
use multipath_loader::dataplane::{Maps, Pins};
use multipath_tests::{Daemon, Gateway, LinkSpec, Shape, Topology, TunnelConfig, eventually};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::journey::Journey;

/// Faster than any test needs, so that nothing is lost; and slow enough that the emulator leaves the processors to the others.
pub const LINK: LinkSpec = LinkSpec::PERFECT.shaped(Shape { rate: 50_000_000, queue: 1 << 20, ..Shape::PERFECT });

/// Two gateways with their hosts, `mp0` between them.
pub struct Scene {
    /// The daemons of `mp0`, gateway a's first.
    pub daemons: Vec<Daemon>,
    /// Gateways, hosts and links.
    pub topology: Topology,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    /// Links and `mp0` over all of them.
    pub fn new(links: &[LinkSpec]) -> Result<Self> {
        Self::with(links, |_, _| Ok(()))
    }

    /// The same, with the configurations of the gateways changed before.
    pub fn with(
        links: &[LinkSpec],
        change: impl FnOnce(&Topology, &mut [TunnelConfig; 2]) -> Result<()>,
    ) -> Result<Self> {
        let alone = alone()?;
        let topology = Topology::new(links)?;
        topology.a.meet_host()?;
        topology.b.meet_host()?;
        let mut configs = topology.tunnel_configs(0);
        change(&topology, &mut configs)?;
        let daemons = up_both(&topology, &configs)?;
        Ok(Self { daemons, topology, _alone: alone })
    }

    /// The same, with one ingress hook on all uplinks.
    pub fn with_hook(links: &[LinkSpec], hook: &str) -> Result<Self> {
        Self::with(links, |_, configs| {
            set_hook(configs, hook);
            Ok(())
        })
    }

    /// The same, with packets that a test can read and forge, and nobody but the test to send any: nothing is encrypted, and
    /// the daemons have ended, with their probes, and left the kernel forwarding.
    pub fn in_the_clear(links: &[LinkSpec], hook: &str) -> Result<Self> {
        let mut scene = Self::with(links, |_, configs| {
            set_hook(configs, hook);
            for peer in configs.iter_mut().flat_map(|config| &mut config.peers) {
                peer.cipher = Some("none".to_owned());
            }
            Ok(())
        })?;
        for mut daemon in scene.daemons.drain(..) {
            ensure!(daemon.terminate()?.success(), "{}", daemon.log());
        }
        Ok(scene)
    }

    /// From host to host, in both directions and with both inner families.
    pub fn journeys(&self) -> [Journey<'_>; 4] {
        let Topology { a, b, .. } = &self.topology;
        [
            Journey::new(a.host(), b.host(), b.host_v4()),
            Journey::new(a.host(), b.host(), b.host_v6()),
            Journey::new(b.host(), a.host(), a.host_v4()),
            Journey::new(b.host(), a.host(), a.host_v6()),
        ]
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

/// Waits until no other test of this program runs, and moves the test to one processor.
pub fn alone() -> Result<MutexGuard<'static, ()>> {
    static ALONE: Mutex<()> = Mutex::new(());
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    run_on(Processors::One)?;
    Ok(guard)
}

/// Where the calling thread and everything that it starts runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processors {
    /// In order: a sender or an emulator that moves to another processor overtakes its own packets, which still wait in the
    /// queue of the first one (net/core/dev.c, `enqueue_to_backlog`).
    One,
    /// As fast as the machine is.
    All,
}

/// Moves the calling thread.
pub fn run_on(processors: Processors) -> Result<()> {
    let mut set = CpuSet::new();
    let count = if processors == Processors::One { 1 } else { CpuSet::count() };
    (0..count).try_for_each(|processor| set.set(processor))?;
    sched_setaffinity(Pid::from_raw(0), &set).context("cannot choose a processor")
}

/// Starts a tunnel on both gateways at once, and waits for its session.
pub fn up_both(topology: &Topology, configs: &[TunnelConfig; 2]) -> Result<Vec<Daemon>> {
    up_all(&[(&topology.a, &configs[0]), (&topology.b, &configs[1])])
}

/// Starts a tunnel on all gateways at once, and waits for its sessions.
pub fn up_all(gateways: &[(&Gateway, &TunnelConfig)]) -> Result<Vec<Daemon>> {
    let up = |gateway: &Gateway, config| {
        run_on(Processors::All)?;
        gateway.up(config)
    };
    let daemons = thread::scope(|scope| {
        let starting: Vec<_> =
            gateways.iter().map(|(gateway, config)| scope.spawn(move || up(gateway, config))).collect();
        starting
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Result<_>>()
    })?;
    for (number, (gateway, config)) in gateways.iter().enumerate() {
        gateway.wait_for_sessions(&config.name)?;
        for (other, _) in &gateways[..number] {
            if config.peers.iter().any(|peer| peer.name == other.name()) {
                gateway.wait_for_session_with(other, &config.name)?;
            }
        }
        wait_for_mtus(gateway, &config.name)?;
        if config.uplinks.iter().all(|uplink| uplink.weight.is_none()) {
            wait_for_delays(gateway, &config.name)?;
        }
    }
    Ok(daemons)
}

/// Waits until probes have shown that every path carries what its interface allows: the links have no other limit.
fn wait_for_mtus(gateway: &Gateway, tunnel: &str) -> Result<()> {
    let sizes = || -> Result<Vec<(u32, u32)>> {
        let maps = Maps::open(&Pins::new(gateway.bpffs(), tunnel).current_maps()?)?;
        let mut sizes = Vec::new();
        for peer in maps.peers()? {
            let paths = maps.paths_of(peer.number)?;
            sizes.extend(paths.iter().map(|record| (record.path.inner_mtu, record.path.largest)));
        }
        Ok(sizes)
    };
    eventually("paths carry the largest packets", sizes, |sizes| {
        sizes.iter().all(|(proven, largest)| proven == largest)
    })?;
    Ok(())
}

/// Waits until probes have shown how long packets take by each path: then flows are chosen a path anew, and a packet may
/// overtake those before it.
fn wait_for_delays(gateway: &Gateway, tunnel: &str) -> Result<()> {
    let unknown = || -> Result<u32> {
        let maps = Maps::open(&Pins::new(gateway.bpffs(), tunnel).current_maps()?)?;
        let mut unknown = 0;
        for peer in maps.peers()? {
            let paths = maps.paths_of(peer.number)?.iter().fold(0, |set, record| set | 1 << record.id);
            unknown |= paths & !maps.bond(peer.number)?.measured;
        }
        Ok(unknown)
    };
    eventually("the delays of all paths are known", unknown, |unknown| *unknown == 0)?;
    Ok(())
}

/// Has all uplinks receive by one hook: `auto`, `native`, `generic` or `off`.
pub fn set_hook(configs: &mut [TunnelConfig; 2], hook: &str) {
    for uplink in configs.iter_mut().flat_map(|config| &mut config.uplinks) {
        uplink.xdp = Some(hook.to_owned());
    }
}
