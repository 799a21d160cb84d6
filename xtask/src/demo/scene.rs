//! What the demo plays on: two gateways, three links, a tunnel, the flows through it.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use multipath_tests::traffic::iperf::RunningIperf;
use multipath_tests::traffic::stream::RunningStream;
use multipath_tests::traffic::{Iperf, IperfReport, Ping, StreamReport, UdpStream};
use multipath_tests::{Daemon, End, LinkProfile, Profile, Topology};

use super::meter::Snapshot;

/// The profile of the links, and what its links are.
const PROFILE: &str = "ref_wifi_3g_ethernet";
const NAMES: [&str; 3] = ["wifi", "3g", "ethernet"];

/// TCP flows of the load.
pub(crate) const FLOWS: u32 = 32;
/// Packets per second and payload bytes of the UDP stream: 0.26 Mbit/s.
const STREAM: (u32, u16) = (200, 160);
/// Packets per second and payload bytes of all small flows together: less than the slowest link carries.
const SMALL: (u32, u16) = (600, 250);
/// How long a stream goes on unless it is stopped.
const STREAM_PATIENCE: Duration = Duration::from_mins(2);

/// The lab with its links.
pub(crate) struct Scene {
    /// The links, in the order of the uplinks.
    pub(crate) links: Vec<Uplink>,
    topology: Topology,
}

/// A link of the scene.
pub(crate) struct Uplink {
    /// Name of the uplink at both gateways.
    pub(crate) name: &'static str,
    /// What it is like.
    pub(crate) profile: LinkProfile,
}

/// A tunnel that is up.
pub(crate) struct Tunnel {
    daemons: [Daemon; 2],
    uplinks: Vec<usize>,
}

impl Uplink {
    /// Weight in the tunnel: the rate in Mbit/s.
    fn weight(&self) -> u32 {
        format!("{:.0}", self.profile.rate).parse().unwrap_or(1)
    }

    /// One-way delay with a full queue, milliseconds.
    pub(crate) fn full_delay_ms(&self) -> f64 {
        self.profile.delay + self.profile.queue * 1024.0 * 8e-3 / self.profile.rate
    }

    /// `8 Mbit/s, 5 ms ± 3 ms, 0.2 % loss`.
    pub(crate) fn describe(&self) -> String {
        let LinkProfile { rate, delay, jitter, loss, queue } = self.profile;
        let mut text = format!("{rate} Mbit/s, {delay} ms");
        if jitter > 0.0 {
            let _ = write!(text, " ± {jitter} ms");
        }
        if loss > 0.0 {
            let _ = write!(text, ", {loss} % loss");
        }
        format!("{text}, queue {queue} KiB")
    }
}

impl Scene {
    /// Makes the lab.
    pub(crate) fn new() -> Result<Self> {
        let profile = Profile::named(PROFILE)?;
        ensure!(profile.links.len() == NAMES.len(), "profile {PROFILE} has not {} links", NAMES.len());
        let topology = Topology::from_profile(&profile)?;
        let links = NAMES.into_iter().zip(profile.links).map(|(name, profile)| Uplink { name, profile }).collect();
        Ok(Self { links, topology })
    }

    /// Brings a tunnel up at both gateways that has only these uplinks, and waits until it carries packets.
    pub(crate) fn tunnel(&self, uplinks: &[usize]) -> Result<Tunnel> {
        let mut configs = self.topology.tunnel_configs(0);
        let is_kept = |name: &str| uplinks.iter().any(|number| self.links[*number].name == name);
        for config in &mut configs {
            for uplink in &mut config.uplinks {
                let link = self.behind(&uplink.interface)?;
                link.name.clone_into(&mut uplink.name);
                uplink.weight = Some(link.weight());
            }
            config.uplinks.retain(|uplink| is_kept(&uplink.name));
            for peer in &mut config.peers {
                for uplink in peer.endpoints.iter_mut().flat_map(|endpoint| &mut endpoint.uplinks) {
                    self.behind(uplink)?.name.clone_into(uplink);
                }
                peer.endpoints.retain(|endpoint| endpoint.uplinks.iter().all(|name| is_kept(name)));
            }
        }
        let [a, b] = &configs;
        let daemons = [self.topology.a.up(a)?, self.topology.b.up(b)?];
        self.topology.wait_for_session(&a.name)?;
        let ping = Ping { count: 3, ..Ping::to(self.topology.b.host_v4()) }.run(self.topology.ha())?;
        if ping.received == 0 {
            bail!("the tunnel is up, but the hosts do not reach each other: {:?}", ping.errors);
        }
        Ok(Tunnel { daemons, uplinks: uplinks.to_vec() })
    }

    /// The link behind an interface of either gateway.
    fn behind(&self, interface: &str) -> Result<&Uplink> {
        let mut links = self.topology.connections.iter().zip(&self.links);
        let link = links.find(|(connection, _)| connection.ends.iter().any(|end| end.interface == interface));
        link.map(|(_, link)| link).with_context(|| format!("the lab has no link behind {interface}"))
    }

    /// Starts [`FLOWS`] TCP flows (CUBIC) from host to host, for so many seconds.
    pub(crate) fn load(&self, seconds: u32, omit: u32) -> Result<RunningIperf> {
        let load = Iperf { streams: FLOWS, omit, ..Iperf::tcp(self.topology.b.host_v4(), seconds) };
        load.start(self.topology.ha(), self.topology.hb())
    }

    /// Starts the UDP stream from host to host: one flow.
    pub(crate) fn stream(&self) -> Result<RunningStream> {
        self.udp(STREAM, 1)
    }

    /// Payload of the TCP flows and the stream that their receivers got, Mbit/s.
    pub(crate) fn goodput_mbps(tcp: &IperfReport, stream: &StreamReport) -> f64 {
        let seconds: f64 = tcp.samples.iter().map(|sample| sample.end - sample.start).sum();
        let megabits: f64 = tcp.samples.iter().map(|sample| sample.mbps * (sample.end - sample.start)).sum();
        let (pace, size) = STREAM;
        megabits / seconds.max(f64::MIN_POSITIVE) + f64::from(pace) * f64::from(size) * 8e-6 * (1.0 - stream.loss())
    }

    /// Starts many small UDP flows from host to host.
    pub(crate) fn small_flows(&self, flows: u16) -> Result<RunningStream> {
        self.udp(SMALL, flows)
    }

    fn udp(&self, (pace, size): (u32, u16), flows: u16) -> Result<RunningStream> {
        let stream = UdpStream { flows, ..UdpStream::to(self.topology.b.host_v4(), pace, size, STREAM_PATIENCE) };
        stream.start(self.topology.ha(), self.topology.hb())
    }

    /// Has a link swallow everything without a word, or heals it.
    pub(crate) fn set_black_hole(&self, number: usize, is_on: bool) -> Result<()> {
        self.topology.link(number)?.set_black_hole(is_on)
    }

    /// Runs `mpvpn path set NAME weight VALUE` at the sending gateway and returns the command's text.
    pub(crate) fn set_weight(&self, path: &str, value: &str) -> Result<String> {
        let arguments = ["path", "set", path, "weight", value];
        self.topology.a.mpvpn(&arguments)?.success()?;
        Ok(format!("mpvpn {}", arguments.join(" ")))
    }

    /// Reads all counters of the tunnel.
    pub(crate) fn look(&self, tunnel: &Tunnel) -> Result<Snapshot> {
        let [sender, receiver] =
            [&self.topology.a, &self.topology.b].map(|gateway| gateway.mpvpn(&["status", "--json"]));
        let mut lost = Vec::new();
        for number in &tunnel.uplinks {
            let counters = self.topology.link(*number)?.counters(End::A)?;
            lost.push((self.links[*number].name, counters.dropped_queue + counters.dropped_loss));
        }
        Snapshot::read(sender?.success()?, receiver?.success()?, &lost)
    }

    /// Removes the lab.
    ///
    /// # Errors
    /// Something is left of it.
    pub(crate) fn close(self) -> Result<()> {
        let left = self.topology.lab.close()?;
        ensure!(left.is_empty(), "the demo has left something behind: {left:?}");
        Ok(())
    }
}

impl Tunnel {
    /// Takes the tunnel down as Ctrl-C does.
    ///
    /// # Errors
    /// A daemon fails; the error has its log.
    pub(crate) fn close(mut self) -> Result<()> {
        for daemon in &mut self.daemons {
            let status = daemon.interrupt()?;
            ensure!(status.success(), "`mpvpn up` ended with {status}; its log:\n{}", daemon.log());
        }
        Ok(())
    }
}
