//! What the maps of tunnel `mp0` say of its paths.

use anyhow::{Context, Result};
use multipath_loader::{
    dataplane::{Maps, Pins},
    observe::{PathChange, PathStatus, TunnelStatus, collect, path_changes},
};
use multipath_tests::Gateway;

/// The tunnel.
pub fn tunnel(gateway: &Gateway) -> Result<TunnelStatus> {
    collect(&Pins::new(gateway.bpffs(), "mp0"))
}

/// All paths.
pub fn paths(gateway: &Gateway) -> Result<Vec<PathStatus>> {
    Ok(tunnel(gateway)?.peers.into_iter().flat_map(|peer| peer.paths).collect())
}

/// A path.
pub fn path(gateway: &Gateway, name: &str) -> Result<PathStatus> {
    paths(gateway)?.into_iter().find(|path| path.name == name).with_context(|| format!("there is no path {name}"))
}

/// Packets that were dropped for a reason.
pub fn dropped(gateway: &Gateway, reason: &str) -> Result<u64> {
    Ok(tunnel(gateway)?.drops.iter().filter(|drop| drop.reason == reason).map(|drop| drop.packets).sum())
}

/// The history, oldest first.
pub fn changes(gateway: &Gateway) -> Result<Vec<PathChange>> {
    path_changes(&Maps::open(&Pins::new(gateway.bpffs(), "mp0").current_maps()?)?)
}
