//! `OpenVPN` over Multipath TCP from gateway to gateway: the bond that can be had of Debian's packages alone.
//!
//! The kernel's own path manager and scheduler, with their defaults. `OpenVPN` uses several subflows only in `--mode server`.

use std::fs::{self, File};
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use multipath_tests::{Gateway, Namespace, Process, Topology, eventually};

use crate::bench::openvpn::{certificate, wait_until_ready};

const PORT: &str = "1194";
const DEVICE: &str = "ovpn0";
const NETWORK: [&str; 2] = ["10.8.0.0", "255.255.255.0"];
/// Address of the server, gateway b, inside.
pub(super) const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);

/// The tunnel over all links of a topology; ends when dropped.
pub(super) struct OpenVpnMptcp {
    #[expect(dead_code, reason = "held for its drop")]
    ends: [Process; 2],
}

impl OpenVpnMptcp {
    /// Brings it up and waits until each link has its subflow. The first one, over link 0, carries what is sent: the
    /// kernel's scheduler prefers the subflow with the least delay.
    pub(super) fn start(topology: &Topology) -> Result<Self> {
        let Topology { a: client, b: server, connections, .. } = topology;
        let addresses: Vec<Ipv4Addr> = connections.iter().filter_map(|connection| connection.ends[1].v4).collect();
        let (first, others) = addresses.split_first().context("there is a link with IPv4")?;
        for gateway in [client, server] {
            let limit = others.len();
            gateway.namespace().ip(&format!("mptcp limits set subflows {limit} add_addr_accepted {limit}"))?;
        }
        for (address, number) in others.iter().zip(1..) {
            server.namespace().ip(&format!("mptcp endpoint add {address} dev up{number} signal"))?;
        }

        let of_client = certificate(client.namespace(), client.directory())?;
        let of_server = certificate(server.namespace(), server.directory())?;
        let [network, mask] = NETWORK;
        let serve = ["--mode", "server", "--tls-server", "--dh", "none", "--proto", "tcp4-server"];
        let lease = ["--server", network, mask, "--topology", "subnet", "--port", PORT];
        let serving = end(server, &[&serve[..], &lease, &["--peer-fingerprint", &of_client]].concat())?;
        let first = first.to_string();
        let call = ["--tls-client", "--pull", "--proto", "tcp4-client", "--nobind", "--remote", &first, PORT];
        let calling = end(client, &[&call[..], &["--peer-fingerprint", &of_server]].concat())?;
        let joined = || joined_subflows(client.namespace());
        eventually("each further link has a subflow", joined, |&joined| joined >= others.len() as u64)?;
        Ok(Self { ends: [serving, calling] })
    }
}

/// Starts one end and waits until it is ready.
fn end(gateway: &Gateway, role: &[&str]) -> Result<Process> {
    let log = gateway.directory().join("openvpn.log");
    let mut command = gateway.namespace().command("mptcpize");
    command.current_dir(gateway.directory()).args(["run", "openvpn", "--dev", DEVICE, "--dev-type", "tun"]).args(role);
    command.args(["--cert", "openvpn.crt", "--key", "openvpn.key", "--tcp-nodelay"]);
    command.args(["--data-ciphers", "AES-256-GCM", "--cipher", "AES-256-GCM", "--allow-compression", "no"]);
    let file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
    let mut process = Process::spawn_logged(command, &file)?;
    wait_until_ready(&mut process, &log)?;
    Ok(process)
}

/// Subflows that have joined a connection, by the kernel's counters: a line of names and a line of numbers.
fn joined_subflows(namespace: &Namespace) -> Result<u64> {
    let path = "/proc/thread-self/net/netstat";
    let text = namespace.run(|| fs::read_to_string(path))?.with_context(|| format!("cannot read {path}"))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("MPTcpExt:")).map(str::split_whitespace);
    let names = lines.next().context("the kernel has no Multipath TCP")?;
    let count = names.zip(lines.next().into_iter().flatten()).find(|(name, _)| *name == "MPJoinSynAckRx");
    count.context("the kernel does not count joins")?.1.parse().context("a counter is a number")
}
