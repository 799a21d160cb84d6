//! A gateway that carries a stream while somebody floods it with initiations.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use multipath_tests::config::{LISTEN_PORT, UplinkSection};
use multipath_tests::device::{Interface, Mac};
use multipath_tests::traffic::{Flood, Ping, UdpStream};
use multipath_tests::{Daemon, Family, LinkSpec, Namespace, Topology};

use super::forgery::{Forgery, Route, SPOOFED_NETWORK};

/// Forged initiations per second.
pub(crate) const FLOOD_PPS: u32 = 50_000;
/// Packets of the stream per second.
pub(crate) const STREAM_PPS: u32 = 20_000;
/// Age at which a session is replaced, seconds.
pub(crate) const REKEY_AFTER: u32 = 5;

const TUNNEL: &str = "mp0";
/// The stream's flows and the bytes of its UDP payload.
const FLOWS: u16 = 16;
const SIZE: u16 = 64;
/// How long the stream runs before and after what is measured.
const MARGIN: Duration = Duration::from_millis(500);
/// How often the session is looked at: every look is a process.
const LOOK: Duration = Duration::from_secs(1);
/// Units of processor time in `/proc/PID/stat` (`USER_HZ`, include/asm-generic/param.h of the kernel).
const TICKS_PER_SECOND: f64 = 100.0;

/// Attacker (.1) and gateway (.2) on the link that has nothing to do with the tunnel's path.
const ATTACK: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 150, 0, 1), Ipv4Addr::new(10, 150, 0, 2)];
/// The attacker's interface and the gateway's uplink to it.
const INTERFACES: [&str; 2] = ["eth0", "up1"];
const MACS: [Mac; 2] = [Mac([0x02, 0x66, 0, 0, 0, 1]), Mac([0x02, 0x66, 0, 0, 0, 2])];

/// Gateway a with a tunnel to hub b, and an attacker at another uplink of b.
pub(crate) struct Siege {
    /// Of a and b; before what they run in.
    daemons: [Daemon; 2],
    attacker: Namespace,
    public_key: String,
    topology: Topology,
}

/// What became of the stream, and what the flood cost the hub.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Forged initiations per second that reached the hub's uplink.
    pub(crate) flood_pps: f64,
    /// Packets of the stream.
    pub(crate) sent: u64,
    /// Packets that the tunnel lost. Those that the sender's own kernel refused or the receiver's socket had no room for
    /// are not among them.
    pub(crate) lost: u64,
    /// Share of one processor that the hub's daemon had, 0 to 1.
    pub(crate) daemon: f64,
    /// What the hub answered the attacker per second.
    pub(crate) replies_pps: f64,
    /// Datagrams per second for which there was no room at the hub's sockets.
    pub(crate) unread_pps: f64,
    /// How often the hub changed to another session meanwhile.
    pub(crate) rekeys: usize,
}

/// Counters of the hub and the attacker that only grow.
#[derive(Clone, Copy, Debug)]
struct Counts {
    at: Instant,
    daemon_ticks: u64,
    replies: u64,
    unread: u64,
}

impl Siege {
    /// Brings everything up.
    pub(crate) fn new() -> Result<Self> {
        let topology = Topology::new(&[LinkSpec::VETH.family(Family::V4)])?;
        let Topology { a, b, lab, .. } = &topology;
        let attacker = lab.namespace("m")?;
        let interface = |end: usize| Interface {
            name: INTERFACES[end].to_owned(),
            mac: MACS[end],
            mtu: 1500,
            v4: Some((ATTACK[end], 24)),
            v6: None,
        };
        lab.veth([(&attacker, &interface(0)), (b.namespace(), &interface(1))])?;
        // An uplink to the Internet leads everywhere.
        b.namespace().ip(&format!("route add {SPOOFED_NETWORK} via {} dev {}", ATTACK[0], INTERFACES[1]))?;
        let mut configs = topology.tunnel_configs(0);
        configs[1].uplinks.push(UplinkSection::automatic(INTERFACES[1]));
        let public_key = configs[0].peers.first().context("a has a peer")?.public_key.clone();
        let rekey_after = REKEY_AFTER.to_string();
        let up = |gateway: &multipath_tests::Gateway, config| {
            gateway.daemon_with(&gateway.write_config(config)?, &["--rekey-after", &rekey_after])
        };
        let daemons = [up(a, &configs[0])?, up(b, &configs[1])?];
        topology.wait_for_session(TUNNEL)?;
        for (from, to) in [(a.host(), b.host_v4()), (&attacker, ATTACK[1])] {
            let report = Ping { count: 3, ..Ping::to(to) }.run(from)?;
            ensure!(report.received > 0, "{to} is not reached: {report:?}");
        }
        Ok(Self { daemons, attacker, public_key, topology })
    }

    /// Carries the stream for some time, under a flood or without.
    pub(crate) fn measure(&mut self, forgery: Option<Forgery>, duration: Duration) -> Result<Outcome> {
        let peer = self.topology.connections[0].ends[0].v4.context("the path has IPv4")?;
        let route = Route { macs: MACS, addresses: ATTACK, peer };
        let frames = forgery.map(|forgery| forgery.frames(&route, &self.public_key)).transpose()?;
        let flood = frames.map(|frames| Flood { frames, pace: FLOOD_PPS, duration });
        let Topology { a, b, .. } = &self.topology;
        let stream =
            UdpStream { flows: FLOWS, ..UdpStream::to(b.host_v4(), STREAM_PPS, SIZE, duration + 2 * MARGIN + LOOK) };
        let running = stream.start(a.host(), b.host())?;
        thread::sleep(MARGIN);
        let before = self.counts()?;
        let (flood_pps, sessions) = thread::scope(|scope| -> Result<_> {
            let flooding = scope.spawn(|| match &flood {
                Some(flood) => flood.run(&self.attacker, INTERFACES[0]),
                None => Ok(0.0),
            });
            let sessions = self.sessions_within(duration)?;
            let flood_pps = flooding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok((flood_pps, sessions))
        })?;
        let after = self.counts()?;
        thread::sleep(MARGIN);
        let report = running.stop()?;
        for daemon in &mut self.daemons {
            ensure!(daemon.is_running(), "a daemon has ended; its log:\n{}", daemon.log());
        }
        let seconds = (after.at - before.at).as_secs_f64();
        let per_second = |count: fn(&Counts) -> u64| (count(&after) - count(&before)) as f64 / seconds;
        Ok(Outcome {
            flood_pps,
            sent: report.sent,
            lost: report.lost.saturating_sub(report.refused + report.overflowed),
            daemon: per_second(|counts| counts.daemon_ticks) / TICKS_PER_SECOND,
            replies_pps: per_second(|counts| counts.replies),
            unread_pps: per_second(|counts| counts.unread),
            rekeys: sessions.len().saturating_sub(1),
        })
    }

    /// The sessions that the hub seals with, one after the other.
    fn sessions_within(&self, duration: Duration) -> Result<BTreeSet<u32>> {
        let start = Instant::now();
        let mut seen = BTreeSet::new();
        loop {
            // None is no error here: that packets are lost without one shows.
            seen.extend(self.topology.b.sessions(TUNNEL)?.into_iter().flatten().map(|session| session.index));
            let left = duration.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(seen);
            }
            thread::sleep(left.min(LOOK));
        }
    }

    fn counts(&self) -> Result<Counts> {
        let own = |namespace: &Namespace, file: &str| -> Result<String> {
            let path = format!("/proc/thread-self/net/{file}");
            namespace.run(|| fs::read_to_string(&path))?.with_context(|| format!("cannot read {path}"))
        };
        let stat = format!("/proc/{}/stat", self.daemons[1].pid());
        let ticks = fs::read_to_string(&stat).with_context(|| format!("cannot read {stat}"))?;
        Ok(Counts {
            at: Instant::now(),
            daemon_ticks: processor_time(&ticks),
            replies: received_packets(&own(&self.attacker, "dev")?, INTERFACES[0]),
            unread: unread_datagrams(&own(self.topology.b.namespace(), "udp")?),
        })
    }
}

/// Time in user mode and in the kernel (man 5 `proc_pid_stat`, fields 14 and 15), ticks.
fn processor_time(stat: &str) -> u64 {
    // The program's name may have spaces, and ends with the last parenthesis.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// Packets that an interface has received, of the text of `/proc/net/dev`.
fn received_packets(text: &str, interface: &str) -> u64 {
    let mut interfaces = text.lines().filter_map(|line| line.split_once(':'));
    let counters = interfaces.find(|(name, _)| name.trim() == interface).map(|(_, counters)| counters);
    counters.and_then(|counters| counters.split_whitespace().nth(1)?.parse().ok()).unwrap_or_default()
}

/// Datagrams for which the tunnel's sockets had no room, of the text of `/proc/net/udp`.
fn unread_datagrams(text: &str) -> u64 {
    let port = format!(":{LISTEN_PORT:04X}");
    let sockets = text.lines().filter(|line| line.split_whitespace().nth(1).is_some_and(|own| own.ends_with(&port)));
    sockets.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok()).sum()
}
