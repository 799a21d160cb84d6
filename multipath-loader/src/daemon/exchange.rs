//! Handshake datagrams in and out.

use std::net::SocketAddr;

use anyhow::Result;
use multipath_common::maps::address_from;
use tracing::debug;

use super::{Daemon, End, health::has_way};
use crate::{
    clock,
    underlay::{Datagram, DatagramRoute},
};

impl Daemon {
    /// Hands datagrams to the handshakes, and does what these say.
    pub(super) fn receive(&mut self, datagrams: &[Datagram]) -> Result<Option<End>> {
        let now = clock::since_boot()?;
        for Datagram { route, bytes } in datagrams {
            let actions = self.handshakes.receive(now, route.remote, bytes);
            self.carry_out(now, actions, Some(route));
        }
        Ok(None)
    }

    /// Sends a datagram over every path of a peer that leads anywhere: none may work but one that nobody knows to work.
    pub(super) fn broadcast(&self, peer: u32, datagram: &[u8]) {
        for path in self.paths_of(peer).filter(|path| has_way(&path.written)) {
            let entry = &path.written;
            let route = DatagramRoute {
                ifindex: entry.ifindex,
                local: address_from(entry.local),
                local_port: entry.local_port,
                remote: SocketAddr::new(address_from(entry.remote), entry.remote_port),
            };
            self.send(&route, datagram);
        }
    }

    /// Sends a datagram; one that is lost is sent again by whoever waits for the answer.
    pub(super) fn send(&self, route: &DatagramRoute, datagram: &[u8]) {
        if let Err(error) = self.ports.send(route, datagram) {
            debug!("a handshake to {} was not sent: {error}", route.remote);
        }
    }
}
