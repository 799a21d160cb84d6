//! Paths follow the network: they have a way when their uplink leads to the endpoint, and none when it does not.

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use multipath_common::{
    health::Reason,
    maps::{FAMILY_IPV4, Path as PathEntry, address_bytes},
};
use tracing::{debug, info, warn};

use super::{Daemon, End, ManagedPath, health::has_way, port_error};
use crate::{
    clock,
    config::{Config, Uplink},
    control::{
        path_mtu::PathMtu,
        rate::RateController,
        resolve::{Way, entry},
        train::Trains,
    },
    dataplane::Attachments,
    underlay::{Address, Change, Link},
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
        if matches!(change, Change::Link(_) | Change::LinkGone { .. }) {
            self.carriers.begin(clock::since_boot()?);
        }
        match change {
            Change::LinkGone { index, .. } if index == self.device.device.index => return Ok(Some(End::DeviceGone)),
            Change::LinkGone { index, .. } => {
                self.put_down(Reason::InterfaceGone, |path| path.ifindex == index)?;
                self.ports.remove_uplink(index);
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
                    self.put_down(Reason::Carrier, |path| path.ifindex == link.index)?;
                }
                if self.uplink_of(&link).is_some() {
                    self.refresh(Some(&[link.index])).await?;
                }
            }
            Change::AddressGone(address) => {
                let gone = address_bytes(address.net.addr());
                self.put_down(Reason::NoAddress, |path| path.ifindex == address.index && path.local == gone)?;
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
    pub(super) fn put_down(&mut self, reason: Reason, is_affected: impl Fn(&PathEntry) -> bool) -> Result<()> {
        let now = clock::since_boot()?;
        let listen_port = self.config.tunnel.listen_port;
        for path in self.paths.values_mut() {
            if has_way(&path.written) && is_affected(&path.written) {
                path.follow(now, Err(reason), listen_port);
            }
        }
        self.choose_paths(now)
    }

    /// Looks up the way of every path, or of those whose uplink has one of these interface indices (or had, or may
    /// have now), and writes what changed. Attaches programs to uplinks that have appeared.
    pub(super) async fn refresh(&mut self, interfaces: Option<&[u32]>) -> Result<()> {
        let links = self.underlay.links().await?;
        let addresses = self.underlay.addresses().await?;
        let mut lacks_port = false;
        for (uplink, link) in unattached(&self.config, &self.attachments, &links) {
            let opened = self.ports.add_uplink(link).map_err(|error| port_error(&self.config, error));
            // Nothing tells when somebody else gives the port up.
            lacks_port |= opened.is_err();
            let attached = opened.and_then(|()| self.attachments.attach_uplink(&mut self.programs, uplink, link));
            self.must_learn = true;
            // It may be gone again already; whatever happens to it next is another reason to try.
            if let Err(error) = attached {
                warn!("uplink {}: {error:#}", uplink.name);
            }
        }
        if lacks_port {
            self.try_again();
        }
        let listen_port = self.config.tunnel.listen_port;
        let mut renewed = Vec::new();
        let slots: Vec<u32> = self.paths.keys().copied().collect();
        for slot in slots {
            let path = &self.paths[&slot];
            let link = links.iter().find(|link| link.name == self.config.uplinks[path.uplink].interface);
            let concerned = |interfaces: &[u32]| {
                link.is_none_or(|link| interfaces.contains(&link.index)) || interfaces.contains(&path.written.ifindex)
            };
            if path.link.is_some() && !interfaces.is_none_or(concerned) {
                continue;
            }
            let way = self.way(path, link, &addresses).await?;
            let Some(path) = self.paths.get_mut(&slot) else { continue };
            if path.follow(clock::since_boot()?, way, listen_port) {
                renewed.push(slot);
            }
        }
        self.choose_paths(clock::since_boot()?)?;
        for slot in renewed {
            // Its health may be what it was: then nobody has written the new address.
            if self.write_path(slot)? {
                self.maps.advance_automatic()?;
            }
        }
        self.adapt_mtu().await
    }

    /// The way to a path's endpoint, or why there is none.
    async fn way(&self, path: &ManagedPath, link: Option<&Link>, addresses: &[Address]) -> Result<Result<Way, Reason>> {
        let Some(link) = link else { return Ok(Err(Reason::InterfaceGone)) };
        if !link.is_usable() {
            return Ok(Err(Reason::Carrier));
        }
        // What the peer sends on an uplink without programs would be lost.
        let attached = self.attachments.uplink(&self.config.uplinks[path.uplink].name);
        if attached.is_none_or(|attached| attached.ifindex != link.index) {
            return Ok(Err(Reason::InterfaceGone));
        }
        let remote = path.identity.remote.ip();
        let route = self.underlay.route_to(remote, link.index).await?;
        let Some(route) = route else {
            // An address that goes takes routes with it.
            let mut own = addresses.iter().filter(|address| address.index == link.index);
            let has_address = own.any(|address| address.net.addr().is_ipv4() == remote.is_ipv4());
            return Ok(Err(if has_address { Reason::NoRoute } else { Reason::NoAddress }));
        };
        let preferred =
            path.preferred_local.filter(|local| addresses.iter().any(|address| address.net.addr() == *local));
        let mtu = route.mtu.unwrap_or(link.mtu).min(link.mtu);
        let way = |local| Way { ifindex: link.index, local, next_hop: route.next_hop, mtu };
        Ok(preferred.or(route.source).map(way).ok_or(Reason::NoAddress))
    }
}

impl ManagedPath {
    /// Takes over what was found out about the way. Whether it is another one.
    fn follow(&mut self, now: Duration, way: Result<Way, Reason>, listen_port: u16) -> bool {
        let resolved = entry(&self.identity, way.ok(), listen_port);
        let is_new = bytemuck::bytes_of(&resolved) != bytemuck::bytes_of(&self.resolved);
        let link = way.map(drop);
        if !is_new && self.link == Some(link) {
            return false;
        }
        self.resolved = resolved;
        self.link = Some(link);
        if let Ok(way) = way {
            let measured_by = (resolved.ifindex, resolved.local);
            if std::mem::replace(&mut self.measured_by, measured_by) == measured_by {
                self.mtu.set_largest(resolved.largest);
            } else {
                // Another network, maybe: nothing of what was measured need be true of it.
                self.mtu = PathMtu::new(resolved.largest, resolved.family == FAMILY_IPV4);
                self.rate = RateController::new();
                self.trains = Trains::new(now, self.peer, self.id);
            }
            if is_new {
                let remote = self.identity.remote;
                info!("path {}: {} to {remote}, at most {} bytes", self.name, way.local, resolved.largest);
            }
        }
        self.monitor.set_link(now, link);
        is_new
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
