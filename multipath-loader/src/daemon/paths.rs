//! Paths follow the network: up when their uplink leads to the endpoint, down when it does not.

use std::net::IpAddr;

use anyhow::Result;
use multipath_common::maps::{PATH_UP, Path as PathEntry, address_bytes, address_from};
use tracing::{debug, info, warn};

use super::{Daemon, End, ManagedPath, port_error};
use crate::{
    config::{Config, Uplink},
    control::resolve::{Way, entry},
    dataplane::Attachments,
    underlay::{Change, Link},
};

impl Daemon {
    /// Writes the addresses that packets may be sent to.
    pub(super) async fn write_local_addresses(&mut self) -> Result<()> {
        let addresses: Vec<IpAddr> =
            self.underlay.addresses().await?.iter().map(|address| address.net.addr()).collect();
        self.maps.set_local_addresses(&addresses)
    }

    /// Applies a change of the underlay. `Some` when the daemon must end.
    pub(super) async fn apply(&mut self, change: Change) -> Result<Option<End>> {
        debug!("{change:?}");
        match change {
            Change::LinkGone { index, .. } if index == self.device.device.index => return Ok(Some(End::DeviceGone)),
            Change::LinkGone { index, .. } => {
                self.put_down(|path| path.ifindex == index)?;
                self.port.remove_uplink(index);
                for uplink in &self.config.uplinks {
                    if self.attachments.uplink(&uplink.name).is_some_and(|attached| attached.ifindex == index) {
                        self.attachments.forget_uplink(&uplink.name);
                    }
                }
                self.attachments.remove_stale(&self.device.port)?;
                self.refresh(Some(&[index])).await?;
            }
            Change::Link(link) => {
                if !link.is_usable() {
                    self.put_down(|path| path.ifindex == link.index)?;
                }
                if self.uplink_of(&link).is_some() {
                    self.refresh(Some(&[link.index])).await?;
                }
            }
            Change::AddressGone(address) => {
                let gone = address_bytes(address.net.addr());
                self.put_down(|path| path.ifindex == address.index && path.local == gone)?;
                self.write_local_addresses().await?;
                self.refresh(Some(&[address.index])).await?;
            }
            Change::Address(address) => {
                self.write_local_addresses().await?;
                self.refresh(Some(&[address.index])).await?;
            }
            // A full BGP table that flaps must not keep the daemon from what concerns its paths.
            Change::Route { prefix, .. }
                if !self.paths.values().any(|path| prefix.contains(&path.identity.remote.ip())) => {}
            Change::Route { interfaces, .. } => {
                let all = interfaces.is_empty();
                self.refresh(if all { None } else { Some(&interfaces) }).await?;
            }
            // That the device is gone may be among the messages that were lost.
            Change::Anything if !self.has_device().await => return Ok(Some(End::DeviceGone)),
            Change::Anything => {
                self.write_local_addresses().await?;
                self.refresh(None).await?;
            }
        }
        Ok(None)
    }

    fn uplink_of(&self, link: &Link) -> Option<&Uplink> {
        self.config.uplinks.iter().find(|uplink| uplink.interface == link.name)
    }

    /// Puts paths down at once, before anything is asked of the kernel.
    fn put_down(&mut self, is_affected: impl Fn(&PathEntry) -> bool) -> Result<()> {
        let mut any = false;
        for path in self.paths.values_mut() {
            if path.written.state == PATH_UP && is_affected(&path.written) {
                path.written = entry(&path.identity, None, self.config.tunnel.listen_port);
                self.maps.set_path(path.peer, path.id, path.written)?;
                info!("path {}: down", path.name);
                any = true;
            }
        }
        if !any {
            return Ok(());
        }
        self.has_changed_paths = true;
        self.maps.advance_automatic()
    }

    /// Looks up the way of every path, or of those whose uplink has one of these interface indices (or had, or may
    /// have now), and writes what changed. Attaches programs to uplinks that have appeared.
    pub(super) async fn refresh(&mut self, interfaces: Option<&[u32]>) -> Result<()> {
        let links = self.underlay.links().await?;
        let mut lacks_port = false;
        for (uplink, link) in unattached(&self.config, &self.attachments, &links) {
            let port = self.config.tunnel.listen_port;
            let opened = self.port.add_uplink(link).map_err(|error| port_error(port, error));
            // Nothing tells when somebody else gives the port up.
            lacks_port |= opened.is_err();
            let attached = opened.and_then(|()| self.attachments.attach_uplink(&mut self.programs, uplink, link));
            // It may be gone again already; whatever happens to it next is another reason to try.
            if let Err(error) = attached {
                warn!("uplink {}: {error:#}", uplink.name);
            }
        }
        if lacks_port {
            self.try_again();
        }
        let mut any = false;
        let slots: Vec<u32> = self.paths.keys().copied().collect();
        for slot in slots {
            let path = &self.paths[&slot];
            let link = links.iter().find(|link| link.name == self.config.uplinks[path.uplink].interface);
            let concerned = |interfaces: &[u32]| {
                link.is_none_or(|link| interfaces.contains(&link.index)) || interfaces.contains(&path.written.ifindex)
            };
            if !interfaces.is_none_or(concerned) {
                continue;
            }
            let way = self.way(path, link).await?;
            let new = entry(&path.identity, way, self.config.tunnel.listen_port);
            let Some(path) = self.paths.get_mut(&slot) else { continue };
            if bytemuck::bytes_of(&new) == bytemuck::bytes_of(&path.written) {
                continue;
            }
            self.maps.set_path(path.peer, path.id, new)?;
            if new.state == PATH_UP {
                let remote = path.identity.remote;
                info!("path {}: up, {} to {remote}, inner MTU {}", path.name, address_from(new.local), new.inner_mtu);
            } else {
                info!("path {}: down", path.name);
            }
            path.written = new;
            any = true;
        }
        if any {
            self.has_changed_paths = true;
            self.maps.advance_automatic()?;
            self.adapt_mtu().await?;
        }
        Ok(())
    }

    /// The way to a path's endpoint; `None` while there is none.
    async fn way(&self, path: &ManagedPath, link: Option<&Link>) -> Result<Option<Way>> {
        // What the peer sends on an uplink without programs would be lost.
        let attached = self.attachments.uplink(&self.config.uplinks[path.uplink].name);
        let has_programs = |link: &&Link| attached.is_some_and(|attached| attached.ifindex == link.index);
        let Some(link) = link.filter(|link| link.is_usable()).filter(has_programs) else { return Ok(None) };
        let remote = path.identity.remote.ip();
        let Some(route) = self.underlay.route_to(remote, link.index).await? else { return Ok(None) };
        let preferred = match path.preferred_local {
            Some(local) => {
                let addresses = self.underlay.addresses().await?;
                Some(local).filter(|local| addresses.iter().any(|address| address.net.addr() == *local))
            }
            None => None,
        };
        let mtu = route.mtu.unwrap_or(link.mtu).min(link.mtu);
        Ok(preferred.or(route.source).map(|local| Way { ifindex: link.index, local, next_hop: route.next_hop, mtu }))
    }
}

/// The uplinks whose interface is there and has none of our programs yet.
pub(super) fn unattached<'a>(
    config: &'a Config,
    attachments: &Attachments,
    links: &'a [Link],
) -> Vec<(&'a Uplink, &'a Link)> {
    let link_of = |uplink: &'a Uplink| Some((uplink, links.iter().find(|link| link.name == uplink.interface)?));
    let is_new = |(uplink, link): &(&Uplink, &Link)| {
        attachments.uplink(&uplink.name).is_none_or(|attached| attached.ifindex != link.index)
    };
    config.uplinks.iter().filter_map(link_of).filter(is_new).collect()
}
