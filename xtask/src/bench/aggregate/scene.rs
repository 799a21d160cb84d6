//! Two gateways with a tunnel over the links of a profile, of which all or only one is used.

use std::ops::RangeInclusive;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use multipath_tests::config::ClassSection;
use multipath_tests::traffic::Ping;
use multipath_tests::{Daemon, End, Gateway, Profile, Topology, eventually};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Ports of the servers: a new one makes a destination that the tunnel does not know.
pub(super) const PORTS: RangeInclusive<u16> = 5201..=6200;

const TUNNEL: &str = "mp0";
/// How long a change of the paths is left alone before something is sent.
const REST: Duration = Duration::from_secs(2);
/// Smallest, default and largest buffer of a TCP socket in bytes: no flow is to be limited by its hosts.
const TCP_BUFFERS: &str = "4096 131072 33554432";
/// Requests of the measurement of an idle round trip.
const REQUESTS: u32 = 20;

/// How the measured flow comes to its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Class {
    /// The tunnel finds out by itself; its destination is new to it
    Auto,
    /// By a rule, from the first packet on
    Rule,
    /// The tunnel knows its destination from an earlier flow
    Remembered,
}

/// A tunnel that carries packets from host to host.
pub(super) struct Scene {
    /// Inner MTU of the tunnel, bytes.
    pub(super) mtu: u32,
    #[expect(dead_code, reason = "held for its drop")]
    daemons: [Daemon; 2],
    /// The gateways, and what is between them. Goes last.
    pub(super) topology: Topology,
}

/// What `mpvpn path list --json` says of a path.
#[derive(Debug, Deserialize)]
struct Path {
    uplink: String,
    health: String,
    used: bool,
}

impl Class {
    /// Name on the command line and in the figures.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Rule => "rule",
            Self::Remembered => "remembered",
        }
    }
}

impl Scene {
    /// Brings a tunnel up over all links.
    pub(super) fn new(profile: &Profile, class: Class) -> Result<Self> {
        let topology = Topology::from_profile(profile)?;
        for host in [topology.ha(), topology.hb()] {
            host.sysctls(&[("net/ipv4/tcp_rmem", TCP_BUFFERS), ("net/ipv4/tcp_wmem", TCP_BUFFERS)])?;
        }
        let [mut config_a, config_b] = topology.tunnel_configs(0);
        if class == Class::Rule {
            // Only the gateway that the flow leaves by has the rule: a rule knows no direction, and what goes back is for the
            // tunnel to decide.
            config_a.classes.push(rule());
        }
        let daemons = [topology.a.up(&config_a)?, topology.b.up(&config_b)?];
        topology.wait_for_session(TUNNEL)?;
        let scene = Self { mtu: mtu(&topology.a)?, daemons, topology };
        for gateway in scene.gateways() {
            gateway.meet_host()?;
        }
        scene.settle(None)?;
        Ok(scene)
    }

    /// Has the tunnel use one link only, or all.
    pub(super) fn use_only(&self, link: Option<usize>) -> Result<()> {
        for (number, connection) in self.topology.connections.iter().enumerate() {
            let role = if link.is_none_or(|link| link == number) { "auto" } else { "down" };
            for (gateway, end) in self.gateways().into_iter().zip(&connection.ends) {
                gateway.mpvpn(&["path", "set", &end.interface, role])?.success()?;
            }
        }
        self.settle(link)
    }

    fn settle(&self, link: Option<usize>) -> Result<()> {
        let is_wanted = |uplink: &str| {
            let own = link.and_then(|link| self.topology.connections.get(link));
            own.is_none_or(|connection| connection.ends[0].interface == uplink)
        };
        for gateway in self.gateways() {
            let are_right = |paths: &Vec<Path>| {
                let is_right = |path: &Path| {
                    let is_used = is_wanted(&path.uplink);
                    path.used == is_used && (!is_used || path.health == "up")
                };
                paths.len() == self.topology.connections.len() && paths.iter().all(is_right)
            };
            eventually("the paths are used as they should", || paths(gateway), are_right)?;
        }
        thread::sleep(REST);
        Ok(())
    }

    /// Median round trip of echo requests from host to host, milliseconds.
    pub(super) fn idle_round_trip(&self) -> Result<f64> {
        let ping = Ping { count: REQUESTS, ..Ping::to(self.topology.b.host_v4()) }.run(self.topology.ha())?;
        ensure!(ping.received > 0, "the hosts do not reach each other: {:?}", ping.errors);
        Ok(ping.median_ms())
    }

    /// IP bytes so far of each link from a to b: what went in, and what arrived.
    pub(super) fn carried(&self) -> Result<Vec<[u64; 2]>> {
        let carried = |number| {
            let counters = self.topology.link(number)?.counters(End::A)?;
            Ok([counters.bytes_in, counters.bytes_forwarded])
        };
        (0..self.topology.connections.len()).map(carried).collect()
    }

    fn gateways(&self) -> [&Gateway; 2] {
        [&self.topology.a, &self.topology.b]
    }
}

/// The measured flows are told by their servers' ports. Of a TCP flow the rule has the SYN too: what BBR holds for the
/// smallest round trip starts with it.
fn rule() -> ClassSection {
    let ports = format!("{}-{}", PORTS.start(), PORTS.end());
    ClassSection { name: Some("bench".to_owned()), ..ClassSection::ports("aggregate", &ports) }
}

fn mtu(gateway: &Gateway) -> Result<u32> {
    #[derive(Deserialize)]
    struct Document {
        tunnels: Vec<Tunnel>,
    }
    #[derive(Deserialize)]
    struct Tunnel {
        mtu: u32,
    }
    let document: Document = answer(gateway, &["status", TUNNEL, "--json"])?;
    Ok(document.tunnels.first().context("there is no tunnel in the status")?.mtu)
}

fn paths(gateway: &Gateway) -> Result<Vec<Path>> {
    #[derive(Deserialize)]
    struct Document {
        paths: Vec<Path>,
    }
    answer(gateway, &["path", "list", TUNNEL, "--json"]).map(|document: Document| document.paths)
}

fn answer<T: DeserializeOwned>(gateway: &Gateway, command: &[&str]) -> Result<T> {
    let output = gateway.mpvpn(command)?;
    serde_json::from_str(output.success()?).with_context(|| format!("`mpvpn {}`", command.join(" ")))
}
