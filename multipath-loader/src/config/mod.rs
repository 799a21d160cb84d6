//! The configuration of one gateway's tunnel: what `/etc/mpvpn/NAME.toml` says, checked and typed.
//!
//! [`Config::load`] applies nothing. It reports every error that it can find in the file, each with its place, and
//! hands out a [`Config`] only if there is none.

mod assigned;
mod cipher;
mod class;
mod decimal;
mod delay;
mod diagnostic;
mod file;
mod key;
mod name;
mod prefix;
mod quota;
mod rate;
mod reader;
mod reload;
mod secret_file;
mod span;
#[cfg(test)]
mod tests;

use std::{
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use multipath_common::{
    health::Role,
    maps::{Capacity, MAX_PATHS},
    wire::DEFAULT_PORT,
};
use zeroize::Zeroizing;

pub use self::{
    cipher::Cipher,
    class::{Class, class_rules, classes_of},
    diagnostic::Diagnostic,
    key::{KeyError, PresharedKey, PublicKey, SecretKey},
    name::{INTERFACE_NAME_MAX, TUNNEL_NAME_MAX, check_interface_name, check_name, check_tunnel_name},
    quota::{Period, Quota, QuotaError},
    rate::{Rate, RateError},
    reload::ReloadError,
};

/// Where [`Config::path_for`] looks for the file of a tunnel that is given by name.
pub const DIRECTORY: &str = "/etc/mpvpn";
/// Smallest weight of an uplink; a weight has no unit.
pub const WEIGHT_MIN: u32 = 1;
/// Largest weight of an uplink.
pub const WEIGHT_MAX: u32 = 1_000_000;
/// Smallest MTU of the tunnel device, bytes: below it Linux takes IPv6 away from a device (RFC 8200, section 5).
pub const MTU_MIN: u32 = 1280;
/// Largest MTU of the tunnel device, bytes.
pub const MTU_MAX: u32 = 9000;
/// Most flows of an uplink.
pub const FLOWS_MAX: u32 = 8;

/// Everything that the file of one tunnel says. At least one uplink and one peer.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it was read from.
    pub file: PathBuf,
    /// The tunnel device, its key and its addresses.
    pub tunnel: Tunnel,
    /// The interfaces that the tunnel may send through, in the file's order.
    pub uplinks: Vec<Uplink>,
    /// The other gateways, in the file's order.
    pub peers: Vec<Peer>,
    /// Which flows are carried how, in the file's order: the first rule that a packet meets counts.
    pub classes: Vec<Class>,
}

/// The `[tunnel]` table.
#[derive(Debug, Clone)]
pub struct Tunnel {
    /// Name of the device and of all that belongs to it: the file's name without `.toml`, at most
    /// [`TUNNEL_NAME_MAX`] bytes.
    pub name: String,
    /// This gateway's static key.
    pub private_key: SecretKey,
    /// UDP port that peers send to, on every uplink. Not zero. Uplinks with several flows have the ports behind it too.
    pub listen_port: u16,
    /// Inner addresses of the device, each with the length of its prefix.
    pub addresses: Vec<IpNet>,
    /// MTU of the device, bytes; `None` is automatic.
    pub mtu: Option<u32>,
    /// Who makes the routes for the peers' `allowed_ips`.
    pub routes: Routes,
    /// Whether the processors share the work.
    pub spread: Spread,
    /// How much longer than by the nearest path packets take that are delivered by time; `None` is automatic.
    pub playout_delay: Option<Duration>,
}

/// Whether the processors share the work of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spread {
    /// Busy flows and paths are worked on by several processors.
    #[default]
    Auto,
    /// Every packet is worked on by the processor that it comes to.
    Off,
}

/// Who makes the routes for the peers' `allowed_ips`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Routes {
    /// The daemon: through the tunnel device, in the main table.
    #[default]
    Auto,
    /// Somebody else, for instance a routing daemon.
    Off,
}

/// An `[[uplink]]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The uplink's name, unique within the file.
    pub name: String,
    /// The interface's name, unique within the file.
    pub interface: String,
    /// The operator's weight, [`WEIGHT_MIN`] to [`WEIGHT_MAX`]; `None` is automatic.
    pub weight: Option<u32>,
    /// The operator's egress rate; `None` is automatic.
    pub rate: Option<Rate>,
    /// Where the ingress program is attached.
    pub xdp: Xdp,
    /// What its paths are for: [`Role::Active`], [`Role::Backup`] or [`Role::Metered`].
    pub role: Role,
    /// How much it may carry before it counts as metered.
    pub quota: Option<Quota>,
    /// From how many source ports it sends, each a path of its own: 1 to [`FLOWS_MAX`].
    pub flows: u32,
}

/// Where an uplink's ingress program is attached. The TC program is always there, whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Xdp {
    /// The driver's XDP hook if it has one, else TC alone.
    #[default]
    Auto,
    /// The driver's XDP hook, or fail.
    Native,
    /// The generic XDP hook, or fail.
    Generic,
    /// TC alone.
    Off,
}

/// A `[[peer]]` table.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The peer's name, unique within the file.
    pub name: String,
    /// The peer's static key, unique within the file and not this gateway's own.
    pub public_key: PublicKey,
    /// Where the peer can be reached. Empty: learned from its packets.
    pub endpoints: Vec<Endpoint>,
    /// Inner prefixes that the peer may send from and is sent to: at least one, no host bits set, none given to two
    /// peers.
    pub allowed_ips: Vec<IpNet>,
    /// How packets to and from this peer are protected.
    pub cipher: Cipher,
    /// Known to the two gateways alone, beside their own keys.
    pub preshared_key: Option<PresharedKey>,
}

/// One place where a peer can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Address and UDP port; the port is not zero.
    pub address: SocketAddr,
    /// Names of the uplinks that may be used for it, all of them in the file. `None` is every uplink.
    pub uplinks: Option<Vec<String>>,
}

/// A combination of an uplink and an endpoint that a path may be made of, if the uplink has an address of the
/// endpoint's family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// As [`path_name`] says.
    pub name: String,
    /// Index in [`Config::uplinks`].
    pub uplink: usize,
    /// The peer's address; `None` while it is not learned.
    pub endpoint: Option<SocketAddr>,
    /// Which endpoint of the peer on this uplink, from 0.
    pub number: u32,
    /// Which of the uplink's source ports, from 0.
    pub flow: u32,
}

impl Config {
    /// Reads and checks the file at `path`, whose name names the tunnel.
    ///
    /// # Errors
    /// The file can't be read, or something in it is wrong: then the error lists everything that is.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = || -> std::io::Result<_> {
            let mut file = std::fs::File::open(path)?;
            let mut text = Zeroizing::new(String::new());
            file.read_to_string(&mut text)?;
            Ok((file.metadata()?, text))
        };
        let (metadata, text) = read().map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        file::decode(&text, path, Some(&metadata)).map_err(|diagnostics| ConfigError::Invalid { diagnostics })
    }

    /// Checks `text` as if it had been read from `path`, by nobody else; a relative `private_key_file` or
    /// `preshared_key_file` is found beside it.
    ///
    /// # Errors
    /// Something is wrong: the error lists everything that is.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        file::decode(text, path, None).map_err(|diagnostics| ConfigError::Invalid { diagnostics })
    }

    /// The file that `FILE` on a command line means: a bare tunnel name (no `/`, no `.`) is looked for in
    /// [`DIRECTORY`].
    pub fn path_for(file: &Path) -> PathBuf {
        match file.to_str() {
            Some(name) if check_tunnel_name(name).is_ok() => Path::new(DIRECTORY).join(format!("{name}.toml")),
            _ => file.to_owned(),
        }
    }

    /// The combinations of uplink, endpoint and source port that paths to `peer` may be made of, at most [`MAX_PATHS`], in
    /// the order of endpoints, then uplinks, then ports. A peer without endpoints has one for every uplink, still to be
    /// learned.
    pub fn candidates(&self, peer: &Peer) -> Vec<Candidate> {
        let candidate = |uplink: usize, endpoint, number, flow| Candidate {
            name: path_name(&peer.name, &self.uplinks[uplink].name, number, flow),
            uplink,
            endpoint,
            number,
            flow,
        };
        if peer.endpoints.is_empty() {
            return (0..self.uplinks.len()).map(|uplink| candidate(uplink, None, 0, 0)).collect();
        }
        let mut numbers = vec![0; self.uplinks.len()];
        let mut candidates = Vec::new();
        for endpoint in &peer.endpoints {
            for (index, uplink) in self.uplinks.iter().enumerate().filter(|(_, uplink)| endpoint.may_use(&uplink.name))
            {
                let address = Some(endpoint.address);
                candidates.extend((0..uplink.flows).map(|flow| candidate(index, address, numbers[index], flow)));
                numbers[index] += 1;
            }
        }
        candidates
    }

    /// How many UDP ports the tunnel has, from its `listen_port` on: none of them is beyond the last one that there is.
    pub fn port_count(&self) -> u32 {
        self.uplinks.iter().map(|uplink| uplink.flows).max().unwrap_or(1)
    }

    /// The room that its peers and their prefixes need in the maps.
    pub fn capacity(&self) -> Capacity {
        let prefixes: usize = self.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
        // One more: what keeps IPv6 prefixes from holding IPv4 addresses.
        Capacity::for_counts(self.peers.len(), prefixes + 1)
    }
}

/// The name of a path: `PEER/UPLINK`; for the peer's n-th endpoint on the same uplink, n >= 2, `PEER/UPLINK/n`; from the
/// uplink's n-th source port, n >= 2, with `#n` behind it. Both numbers count from 0 here.
pub fn path_name(peer: &str, uplink: &str, endpoint: u32, flow: u32) -> String {
    let from_second = |mark: char, number: u32| match number {
        0 => String::new(),
        _ => format!("{mark}{}", number + 1),
    };
    format!("{peer}/{uplink}{}{}", from_second('/', endpoint), from_second('#', flow))
}

impl Uplink {
    /// What its paths are for while its quota is, or is not, used up. One that has a quota is spared beyond it, and not
    /// before.
    pub fn role_with(&self, is_used_up: bool) -> Role {
        match (self.quota, self.role) {
            (Some(_), _) if is_used_up => Role::Metered,
            (Some(_), Role::Metered) => Role::Active,
            (_, role) => role,
        }
    }
}

impl Endpoint {
    /// Whether this endpoint may be reached through the uplink of that name.
    pub fn may_use(&self, uplink: &str) -> bool {
        self.uplinks.as_ref().is_none_or(|names| names.iter().any(|name| name == uplink))
    }
}

/// Why there is no [`Config`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The file is wrong; nothing of it may be applied.
    #[error("the configuration is wrong, nothing of it is applied:\n{}", lines(diagnostics))]
    Invalid {
        /// Everything that is wrong, in the file's order; never empty.
        diagnostics: Vec<Diagnostic>,
    },
}

fn lines(diagnostics: &[Diagnostic]) -> String {
    let lines: Vec<_> = diagnostics.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
