//! Two gateways whose traffic ends in the gateways themselves: what a tunnel costs, and nothing else.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use multipath_tests::traffic::iperf::UdpLoad;
use multipath_tests::traffic::{Iperf, IperfReport, Ping};
use multipath_tests::{Daemon, Family, Gateway, LinkSpec, Namespace, Topology, TunnelConfig};

use super::bpf::Object;

/// Bytes of the headers of a UDP packet: IPv4 and UDP.
const UDP_HEADERS: u16 = 28;
const PATIENCE: Duration = Duration::from_secs(10);

/// A way from gateway a to gateway b.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    /// The device, which is called the same at both ends.
    pub(crate) device: String,
    /// Address of b on it.
    pub(crate) to: Ipv4Addr,
}

/// Two gateways joined by plain veth pairs `up0`, `up1`, ... with one path each.
pub(crate) struct Rig {
    /// The daemons that are up; before what they run in.
    daemons: Vec<Daemon>,
    topology: Topology,
}

impl Rig {
    /// Makes the gateways and so many uplinks, with the offloads that a tunnel cannot have switched off.
    pub(crate) fn new(uplinks: usize) -> Result<Self> {
        let topology = Topology::new(&vec![LinkSpec::VETH.family(Family::V4); uplinks])?;
        let rig = Self { daemons: Vec::new(), topology };
        for number in 0..uplinks {
            rig.switch_offloads(&format!("up{number}"), false)?;
        }
        Ok(rig)
    }

    /// The configurations of a tunnel at both gateways, over some of the uplinks.
    pub(crate) fn configs(&self, tunnel: u8, uplinks: &[String]) -> [TunnelConfig; 2] {
        self.topology.tunnel_configs(tunnel).map(|mut config| {
            config.uplinks.retain(|uplink| uplinks.contains(&uplink.name));
            for peer in &mut config.peers {
                peer.endpoints.retain(|endpoint| endpoint.uplinks.iter().all(|uplink| uplinks.contains(uplink)));
            }
            config
        })
    }

    /// Brings a tunnel up at both gateways and waits for its session; the longer of both times until they were ready.
    pub(crate) fn up(&mut self, configs: &[TunnelConfig; 2]) -> Result<Duration> {
        let mut longest = Duration::ZERO;
        for (gateway, config) in [&self.topology.a, &self.topology.b].into_iter().zip(configs) {
            let daemon = gateway.up(config)?;
            longest = longest.max(daemon.ready_after());
            self.daemons.push(daemon);
        }
        self.topology.wait_for_session(&configs[0].name)?;
        Ok(longest)
    }

    /// The inside of tunnel number `number`.
    pub(crate) fn tunnel(number: u8) -> Way {
        Way { device: format!("mp{number}"), to: Ipv4Addr::new(10, 99, number, 2) }
    }

    /// The bare uplink number `number`.
    pub(crate) fn uplink(number: u8) -> Way {
        Way { device: format!("up{number}"), to: Self::outer(number, 2) }
    }

    /// Address of gateway a (1) or b (2) on uplink number `number`.
    pub(crate) fn outer(number: u8, gateway: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 100 + number, 0, gateway)
    }

    /// Address of gateway a (1) or b (2) in another tunnel over uplink number `number`.
    pub(crate) fn inner(number: u8, gateway: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 200 + number, 0, gateway)
    }

    /// The inside of another tunnel over uplink number `number`.
    pub(crate) fn inside(device: &str, number: u8) -> Way {
        Way { device: device.to_owned(), to: Self::inner(number, 2) }
    }

    /// Makes a VXLAN over uplink number `number`.
    pub(crate) fn vxlan(&self, number: u8) -> Result<Way> {
        let device = format!("vx{number}");
        for (gateway, own, far) in [(self.a(), 1, 2), (self.b(), 2, 1)] {
            let [own_outer, far_outer] = [own, far].map(|end| Self::outer(number, end));
            let inner = Self::inner(number, own);
            gateway.ip(&format!(
                "link add {device} type vxlan id {number} dstport 4789 dev up{number} local {own_outer} remote {far_outer}\n\
                 addr add {inner}/24 dev {device}\n\
                 link set {device} up"
            ))?;
        }
        Ok(Self::inside(&device, number))
    }

    /// Switches the segmentation and checksum offloads of a device at both ends.
    pub(crate) fn switch_offloads(&self, device: &str, on: bool) -> Result<()> {
        let state = if on { "on" } else { "off" };
        self.ethtool(device, &["tx", state, "sg", state, "tso", state, "gso", state])
    }

    /// Switches generic receive offload of a device at both ends.
    pub(crate) fn switch_gro(&self, device: &str, on: bool) -> Result<()> {
        self.ethtool(device, &["gro", if on { "on" } else { "off" }])
    }

    fn ethtool(&self, device: &str, features: &[&str]) -> Result<()> {
        for gateway in [self.a(), self.b()] {
            let words = [&["ethtool", "-K", device], features].concat();
            gateway.output(&words, PATIENCE)?.success()?;
        }
        Ok(())
    }

    /// Sends as many UDP packets as a can, each an inner packet of `length` bytes, in so many flows.
    pub(crate) fn flood(&self, way: &Way, length: u16, flows: u32, seconds: u32) -> Result<IperfReport> {
        let load = UdpLoad { rate: 0, length: length - UDP_HEADERS };
        let run = Iperf { udp: Some(load), streams: flows, ..tcp(way, seconds) };
        run.run(self.a(), self.b()).with_context(|| format!("UDP through {}", way.device))
    }

    /// Goodput of one TCP flow, Mbit/s.
    pub(crate) fn tcp(&self, way: &Way, seconds: u32) -> Result<f64> {
        let report = tcp(way, seconds).run(self.a(), self.b());
        Ok(report.with_context(|| format!("TCP through {}", way.device))?.received_mbps)
    }

    /// Median round-trip time of `count` requests, microseconds.
    pub(crate) fn round_trip(&self, way: &Way, count: u32) -> Result<f64> {
        let ping = Ping { count, interval: Duration::from_millis(2), ..Ping::to(way.to) };
        let report = ping.run(self.a())?;
        anyhow::ensure!(report.received > 0, "no reply through {}: {:?}", way.device, report.errors);
        Ok(report.median_ms() * 1000.0)
    }

    /// The program of a tunnel that the pin of its link names, such as `egress-`.
    pub(crate) fn program(gateway: &Gateway, tunnel: &Way, pin: &str) -> Result<Object> {
        let links = pins(gateway, tunnel).join("links");
        let names = entries(&links)?;
        let link =
            names.iter().find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(pin)));
        let link =
            link.with_context(|| format!("no link {pin}* in {}: the tunnel attached {names:?}", links.display()))?;
        Object::pinned(link)?.program_of_link()
    }

    /// All programs that a tunnel has attached, each once.
    pub(crate) fn programs(gateway: &Gateway, tunnel: &Way) -> Result<Vec<Object>> {
        let links = entries(&pins(gateway, tunnel).join("links"))?;
        let mut programs = BTreeMap::new();
        for link in links {
            let program = Object::pinned(&link)?.program_of_link()?;
            programs.insert(program.program_id()?, program);
        }
        Ok(programs.into_values().collect())
    }

    /// Kernel memory of all maps of a tunnel, bytes.
    pub(crate) fn map_memory(&self, tunnel: &Way) -> Result<u64> {
        let pins = pins(&self.topology.a, tunnel);
        let layouts = entries(&pins)?.into_iter().filter(|path| !path.ends_with("links"));
        let mut bytes = 0;
        for layout in layouts {
            for map in entries(&layout)? {
                bytes += Object::pinned(&map)?.memory()?;
            }
        }
        Ok(bytes)
    }

    /// The tunnels' daemons, those of the sending gateway first.
    pub(crate) fn daemons(&self) -> &[Daemon] {
        &self.daemons
    }

    /// The sending gateway.
    pub(crate) fn gateway_a(&self) -> &Gateway {
        &self.topology.a
    }

    /// The receiving gateway.
    pub(crate) fn gateway_b(&self) -> &Gateway {
        &self.topology.b
    }

    fn a(&self) -> &Namespace {
        self.topology.a.namespace()
    }

    fn b(&self) -> &Namespace {
        self.topology.b.namespace()
    }
}

/// Sets the cipher of all peers.
pub(crate) fn protect(config: &mut TunnelConfig, cipher: &str) {
    for peer in &mut config.peers {
        peer.cipher = Some(cipher.to_owned());
    }
}

fn tcp(way: &Way, seconds: u32) -> Iperf {
    // All that the kernel does for a packet, it does on the sender's processor.
    Iperf { processors: Some([0, 1]), ..Iperf::tcp(way.to, seconds) }
}

fn pins(gateway: &Gateway, tunnel: &Way) -> PathBuf {
    gateway.bpffs().join("mpvpn").join(&tunnel.device)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = directory.read_dir().with_context(|| format!("cannot read {}", directory.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}
