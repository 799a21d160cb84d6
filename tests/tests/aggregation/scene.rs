//! The stage of a test: two gateways with hosts behind them, and a tunnel with rules over links of a given rate and delay.

use std::{
    fs,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use multipath_loader::{
    dataplane::{Maps, Pins},
    observe::{ClassStatus, PathStatus, PeerStatus, TunnelStatus, classes, collect},
};
use multipath_tests::{
    Daemon, End, Gateway, Namespace, Profile, Topology, TunnelConfig,
    config::ClassSection,
    traffic::{Iperf, IperfReport, Ping, UdpStream},
};

/// Ports of flows that are `aggregate` by rule.
pub const AGGREGATE: u16 = 7000;
/// Ports of flows that are `duplicate` by rule.
pub const DUPLICATE: u16 = 7100;
/// Ports of flows that are `pin` by rule.
pub const PIN: u16 = 7200;
/// How long anything may take that has no limit of its own.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How often [`attempts`] tries.
const ATTEMPTS: usize = 3;
/// Smallest, default and largest buffer of a TCP socket in bytes: no flow is to be limited by its hosts.
const TCP_BUFFERS: &str = "4096 131072 33554432";
/// How long a flow takes to find its rate before it is measured, seconds.
const WARM_UP: u32 = 4;
/// How long a flow is measured, seconds.
const MEASURED: u32 = 6;

/// Two gateways with their hosts, and `mp0` between them.
pub struct Scene {
    /// The daemons of `mp0`, gateway a's first.
    pub daemons: [Daemon; 2],
    /// Their configurations.
    pub configs: [TunnelConfig; 2],
    /// Gateways, hosts and links.
    pub topology: Topology,
    _alone: MutexGuard<'static, ()>,
}

/// The rules of gateway a; all that is sent by its host is judged by them.
fn rules() -> Vec<ClassSection> {
    [("bulk", "aggregate", AGGREGATE), ("voice", "duplicate", DUPLICATE), ("steady", "pin", PIN)]
        .map(|(name, class, port)| ClassSection {
            name: Some(name.to_owned()),
            ..ClassSection::ports(class, &port.to_string())
        })
        .into()
}

/// Waits until no other test of this program runs.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scene {
    /// Links as [`Profile::from_links`] has them, and `mp0` over all of them, everything automatic but the rules.
    pub fn new(links: &str) -> Result<Self> {
        Self::with(links, |_| ())
    }

    /// The same, with the rates of the links in the configurations: nothing is to be found out.
    pub fn rated(links: &str) -> Result<Self> {
        let rates: Vec<String> =
            Profile::from_links(links)?.links.iter().map(|link| format!("{}kbit", link.rate * 1000.0)).collect();
        Self::with(links, |configs| {
            for config in configs {
                for (uplink, rate) in config.uplinks.iter_mut().zip(&rates) {
                    uplink.rate = Some(rate.clone());
                }
            }
        })
    }

    /// The first again, with the configurations of the gateways changed before.
    pub fn with(links: &str, change: impl FnOnce(&mut [TunnelConfig; 2])) -> Result<Self> {
        let alone = alone();
        let topology = Topology::from_profile(&Profile::from_links(links)?)?;
        for host in [topology.ha(), topology.hb()] {
            host.sysctls(&[("net/ipv4/tcp_rmem", TCP_BUFFERS), ("net/ipv4/tcp_wmem", TCP_BUFFERS)])?;
        }
        for gateway in [&topology.a, &topology.b] {
            gateway.meet_host()?;
        }
        meet(&topology)?;
        let mut configs = topology.tunnel_configs(0);
        configs[0].classes = rules();
        change(&mut configs);
        let daemons = [topology.a.up(&configs[0])?, topology.b.up(&configs[1])?];
        topology.wait_for_session("mp0")?;
        let scene = Self { daemons, configs, topology, _alone: alone };
        scene.settle()?;
        Ok(scene)
    }

    /// The gateway whose host sends.
    pub fn a(&self) -> &Gateway {
        &self.topology.a
    }

    /// The other one.
    pub fn b(&self) -> &Gateway {
        &self.topology.b
    }

    /// A stream from a's host to b's, port and so class given: packets a second, bytes of UDP payload.
    pub fn stream(&self, port: u16, pace: u32, size: u16, duration: Duration) -> UdpStream {
        UdpStream { port, ..UdpStream::to(self.b().host_v4(), pace, size, duration) }
    }

    /// A TCP flow from a's host to b's, which is measured once it has found its rate.
    pub fn flow(&self, port: u16) -> Iperf {
        Iperf { port, omit: WARM_UP, ..Iperf::tcp(self.b().host_v4(), MEASURED) }
    }

    /// Runs a TCP flow.
    pub fn run(&self, flow: &Iperf) -> Result<IperfReport> {
        let report = flow.run(self.topology.ha(), self.topology.hb())?;
        println!(
            "{:.1} Mbit/s, {} segments sent again, shares {:.2?}, round trips {:.0?} ms",
            report.received_mbps,
            report.retransmits,
            self.shares()?,
            report.rtts_ms
        );
        Ok(report)
    }

    /// What of the striped packets came to gateway b by each path, from 0 to 1.
    pub fn shares(&self) -> Result<Vec<f64>> {
        Ok(paths(self.b())?.iter().map(|path| path.bond.share_in).collect())
    }

    /// Striped packets that came to gateway b, by all paths: how many, and how many of them were late.
    pub fn striped(&self) -> Result<(u64, u64)> {
        let paths = paths(self.b())?;
        let sum = |count: fn(&PathStatus) -> u64| paths.iter().map(count).sum();
        Ok((sum(|path| path.arrivals.striped), sum(|path| path.arrivals.overdue)))
    }

    /// Packets pass in order: of those that come to gateway b within two seconds, one in twenty is late at most.
    pub fn is_in_order(&self) -> Result<()> {
        let (striped_before, late_before) = self.striped()?;
        thread::sleep(Duration::from_secs(2));
        let (striped, late) = self.striped()?;
        let (striped, late) = (striped - striped_before, late - late_before);
        println!("of {striped} packets {late} were late");
        ensure!(striped > 100 && late * 20 < striped, "of {striped} packets {late} were late");
        Ok(())
    }

    /// Bytes that have entered a link from a to b.
    pub fn bytes(&self, link: usize) -> Result<u64> {
        Ok(self.topology.link(link)?.counters(End::A)?.bytes_in)
    }

    /// Sets the role of an uplink at both gateways, and waits until its path is used, or no longer.
    pub fn set_role(&self, uplink: &str, role: &str) -> Result<()> {
        for gateway in [self.a(), self.b()] {
            gateway.mpvpn(&["path", "set", uplink, role])?.success()?;
        }
        for gateway in [self.a(), self.b()] {
            until(&format!("{uplink} is {role}"), PATIENCE, || {
                Ok(paths(gateway)?.iter().all(|path| path.uplink != uplink || path.used == (role != "down")))
            })?;
        }
        thread::sleep(Duration::from_secs(1));
        Ok(())
    }

    /// Waits until nothing is new any more: every path has been measured for a while, and both gateways agree on the bond.
    fn settle(&self) -> Result<()> {
        for gateway in [self.a(), self.b()] {
            let is_known = || Ok(paths(gateway)?.iter().all(|path| path.quality.rtt_us.is_some() && path.used));
            until("all paths are known", PATIENCE, is_known)?;
        }
        let report =
            Ping { count: 5, interval: Duration::ZERO, ..Ping::to(self.b().host_v4()) }.run(self.topology.ha())?;
        ensure!(report.received == 5, "the hosts do not reach each other: {report:?}");
        thread::sleep(Duration::from_secs(2));
        Ok(())
    }

    /// Ends the test.
    ///
    /// # Errors
    /// A daemon has ended on its own, or something is left behind.
    pub fn close(mut self) -> Result<()> {
        for daemon in &mut self.daemons {
            ensure!(daemon.is_running(), "a daemon has ended; its log:\n{}", daemon.log());
        }
        self.abandon()
    }

    /// Ends a test that has killed daemons.
    pub fn abandon(self) -> Result<()> {
        let Self { daemons, topology, _alone, .. } = self;
        drop(daemons);
        let left = topology.lab.close()?;
        ensure!(left.is_empty(), "the lab left something behind: {left:?}");
        Ok(())
    }
}

/// Has all neighbours know each other for good: a black hole is somewhere beyond the next hop, which goes on to answer.
fn meet(topology: &Topology) -> Result<()> {
    for connection in &topology.connections {
        let link = connection.link()?;
        for end in [End::A, End::B] {
            let (near, far) = (link.interface(end), link.interface(end.other()));
            let (address, _) = far.v4.context("the link has IPv4")?;
            let neighbour = format!("neigh replace {address} lladdr {} dev {} nud permanent", far.mac, near.name);
            link.namespace(end).ip(&neighbour)?;
        }
    }
    Ok(())
}

/// All paths of a gateway.
pub fn paths(gateway: &Gateway) -> Result<Vec<PathStatus>> {
    Ok(peer(gateway)?.paths)
}

/// What a gateway says of the other one.
pub fn peer(gateway: &Gateway) -> Result<PeerStatus> {
    status(gateway)?.peers.pop().context("there is no peer")
}

/// What a gateway says of its tunnel.
pub fn status(gateway: &Gateway) -> Result<TunnelStatus> {
    collect(&Pins::new(gateway.bpffs(), "mp0"))
}

/// The rules of a gateway, and what each has caught.
pub fn class_list(gateway: &Gateway) -> Result<Vec<ClassStatus>> {
    classes(&Maps::open(&Pins::new(gateway.bpffs(), "mp0").current_maps()?)?)
}

/// A counter of a host's TCP (`TcpExt` in `/proc/net/netstat`), such as `TCPTimeouts`.
pub fn tcp_counter(host: &Namespace, name: &str) -> Result<u64> {
    let text = host.run(|| fs::read_to_string("/proc/thread-self/net/netstat"))??;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:")).map(str::split_whitespace);
    let (names, values) = lines.next().zip(lines.next()).context("there is no TcpExt")?;
    let value = names.zip(values).find(|(found, _)| *found == name).with_context(|| format!("there is no {name}"))?.1;
    Ok(value.parse()?)
}

/// The value below which 95 of 100 lie.
pub fn p95(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() * 95 / 100).copied().unwrap_or(f64::INFINITY)
}

/// Waits until something is so.
pub fn until(what: &str, within: Duration, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !is_so()? {
        if start.elapsed() > within {
            bail!("not within {within:?}: {what}");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Tries again when it fails: where processors are shared, something else may keep a daemon, the emulator or a host from them
/// for some ten milliseconds.
pub fn attempts(mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 1..ATTEMPTS {
        match attempt() {
            Err(error) => println!("once more, for {error:#}"),
            done => return done,
        }
    }
    attempt()
}
