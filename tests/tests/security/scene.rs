//! The stage of a test: two gateways, and nothing else running beside it.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use multipath_tests::traffic::{Ping, UdpStream};
use multipath_tests::{Daemon, Family, Gateway, LinkSpec, Namespace, Topology, TunnelConfig, eventually};

use crate::state;

/// An emulated link that loses nothing: whatever is lost, the tunnel has lost.
pub const LINK: LinkSpec = LinkSpec::PERFECT.family(Family::V4);
/// How often a gateway probes an idle path.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(80);

/// Two gateways with their hosts and links, and their daemons once they are up.
pub struct Scene {
    /// Gateways, hosts and links.
    pub topology: Topology,
    /// The daemons of `mp0`, gateway a's first.
    pub daemons: Vec<Daemon>,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    /// Gateways and links without tunnel; all neighbours know each other.
    pub fn new(links: &[LinkSpec]) -> Result<Self> {
        let alone = alone();
        let topology = Topology::new(links)?;
        for gateway in [&topology.a, &topology.b] {
            gateway.meet_host()?;
        }
        for connection in &topology.connections {
            let far = connection.ends[1].v4.context("the link has IPv4")?;
            reaches(topology.a.namespace(), far)?;
        }
        Ok(Self { topology, daemons: Vec::new(), _alone: alone })
    }

    /// Starts both daemons at once, and waits until both gateways have keys.
    pub fn up(&mut self, configs: &[TunnelConfig; 2], options: &[&str]) -> Result<()> {
        self.start(configs, options)?;
        self.established()
    }

    /// Starts both daemons at once.
    pub fn start(&mut self, configs: &[TunnelConfig; 2], options: &[&str]) -> Result<()> {
        let Topology { a, b, .. } = &self.topology;
        self.daemons = up_all(&[(a, &configs[0]), (b, &configs[1])], options)?;
        Ok(())
    }

    /// Ends both daemons and removes the tunnels.
    pub fn down(&mut self) -> Result<()> {
        self.daemons.drain(..).try_for_each(|mut daemon| {
            let status = daemon.interrupt()?;
            ensure!(status.success(), "a daemon failed ({status}); its log:\n{}", daemon.log());
            Ok(())
        })
    }

    /// Waits until each gateway seals with a session that the other one has too.
    pub fn established(&self) -> Result<()> {
        let Topology { a, b, .. } = &self.topology;
        eventually("both gateways have keys", || state::have_keys(a, b), |have_keys| *have_keys)?;
        Ok(())
    }

    /// The log of both daemons.
    pub fn logs(&self) -> [String; 2] {
        std::array::from_fn(|number| self.daemons.get(number).map(Daemon::log).unwrap_or_default())
    }

    /// Streams of many flows in both directions: nothing is lost and nothing comes twice.
    pub fn streams(&self) -> Result<()> {
        let Topology { a, b, .. } = &self.topology;
        for (from, to) in [(a, b), (b, a)] {
            let stream = UdpStream { flows: 40, ..UdpStream::to(to.host_v4(), 2000, 200, Duration::from_millis(200)) };
            let report = stream.run(from.host(), to.host())?;
            ensure!(
                (report.lost, report.duplicated) == (0, 0),
                "from {} to {}: {} sent, {} lost, {} twice",
                from.name(),
                to.name(),
                report.sent,
                report.lost,
                report.duplicated
            );
        }
        Ok(())
    }

    /// Ends the test.
    ///
    /// # Errors
    /// A daemon has ended on its own, or something is left behind.
    pub fn close(self) -> Result<()> {
        let Self { topology, mut daemons, _alone } = self;
        for daemon in &mut daemons {
            ensure!(daemon.is_running(), "a daemon has ended; its log:\n{}", daemon.log());
        }
        drop(daemons);
        let left = topology.lab.close()?;
        ensure!(left.is_empty(), "the lab left something behind: {left:?}");
        Ok(())
    }
}

/// Labs share the machine: one at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pings: every one is answered.
pub fn reaches(from: &Namespace, to: impl Into<IpAddr>) -> Result<()> {
    let to = to.into();
    let report = Ping { count: 2, interval: Duration::ZERO, ..Ping::to(to) }.run(from)?;
    ensure!(report.received == 2, "{} does not reach {to}: {report:?}", from.role());
    Ok(())
}

/// Starts the tunnel on all gateways at once.
pub fn up_all(gateways: &[(&Gateway, &TunnelConfig)], options: &[&str]) -> Result<Vec<Daemon>> {
    let up = |gateway: &Gateway, config| gateway.daemon_with(&gateway.write_config(config)?, options);
    thread::scope(|scope| {
        let starting: Vec<_> =
            gateways.iter().map(|(gateway, config)| scope.spawn(move || up(gateway, config))).collect();
        starting
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}
