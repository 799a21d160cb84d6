//! The tunnel's device: what the programs must know of it, and its MTU.

use anyhow::{Context, Result};
use multipath_common::{health::Health, maps::Tunnel as TunnelEntry};
use tracing::warn;

use super::Daemon;
use crate::{
    config::Config,
    control::mtu::device_mtu,
    dataplane::name_bytes,
    underlay::{TunnelDevice, TunnelLink},
};

impl Daemon {
    /// Writes what the programs must know of the tunnel.
    pub(super) fn write_tunnel(&mut self) -> Result<()> {
        let TunnelLink { device, port } = &self.device;
        self.maps.set_tunnel(TunnelEntry {
            device_ifindex: device.index,
            port_ifindex: port.index,
            mtu: device.mtu,
            port_count: self.config.port_count(),
            listen_port: self.config.tunnel.listen_port,
            device_mac: device.mac.with_context(|| format!("{} has no hardware address", device.name))?,
            name: name_bytes(&self.config.tunnel.name),
            configured_ns: self.configured_ns,
            refused_ns: self.refused_ns,
        })
    }

    /// Gives the device the MTU that the paths carry.
    pub(super) async fn adapt_mtu(&mut self) -> Result<()> {
        let works = |health| matches!(health, Health::Up | Health::Lossy | Health::Stalled | Health::Backup);
        let working = self.paths.values().filter(|path| works(path.monitor.verdict().health));
        let carried = working.map(|path| path.written.inner_mtu);
        let Some(mtu) = device_mtu(self.config.tunnel.mtu, carried) else { return Ok(()) };
        // A device that was just taken down must not be made again.
        if mtu == self.device.device.mtu || !self.has_device().await {
            return Ok(());
        }
        if let Some(configured) = self.config.tunnel.mtu.filter(|configured| *configured > mtu) {
            warn!("the MTU is {mtu}, not {configured} as configured: the paths carry no more, not even in two parts");
        }
        self.device = self.underlay.ensure_tunnel(&tunnel_device(&self.config, mtu)).await?;
        self.write_tunnel()
    }

    /// Whether the tunnel's device is still there.
    pub(super) async fn has_device(&self) -> bool {
        matches!(self.underlay.tunnel(&self.config.tunnel.name).await, Ok(Some(_)))
    }
}

/// The tunnel's device. Its hardware addresses come from the key, so that they stay the same.
pub(super) fn tunnel_device(config: &Config, mtu: u32) -> TunnelDevice {
    let hash = blake3::hash(config.tunnel.private_key.public().as_bytes());
    // 02: locally administered, not multicast (IEEE 802, section 8.4).
    let mac = |from: usize| {
        let bytes = hash.as_bytes();
        [0x02, 0x6d, 0x70, bytes[from], bytes[from + 1], bytes[from + 2]]
    };
    TunnelDevice { name: config.tunnel.name.clone(), mtu, mac: mac(0), port_mac: mac(3) }
}
