//! The history of the paths as data.

use std::time::Duration;

use anyhow::Result;
use multipath_common::{
    health::{Health, Reason},
    quality::PathLogEntry,
};
use serde::Serialize;

use crate::{
    calendar::timestamp,
    config::path_name,
    dataplane::{Maps, name_text},
};

/// A change of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PathChange {
    /// Its number; the first one of a tunnel is 1.
    pub sequence: u64,
    /// When, nanoseconds since 1970.
    pub at_ns: u64,
    /// The same for people: RFC 3339, UTC.
    pub at: String,
    /// PEER/UPLINK, as [`path_name`] says.
    pub path: String,
    /// Name of the peer.
    pub peer: String,
    /// Name of the uplink.
    pub uplink: String,
    /// How the path was: a [`Health`].
    pub from: &'static str,
    /// How it is since then.
    pub to: &'static str,
    /// The [`Reason`].
    pub reason: &'static str,
    /// The MTU after it, bytes of outer packets, where that is what has changed.
    pub mtu_bytes: Option<u32>,
    /// Packets lost in the last seconds, parts per million, where that is the reason.
    pub loss_ppm: Option<u32>,
}

/// The changes that are remembered, oldest first.
pub fn path_changes(maps: &Maps) -> Result<Vec<PathChange>> {
    Ok(maps.path_log()?.iter().map(path_change).collect())
}

fn path_change(entry: &PathLogEntry) -> PathChange {
    let health = |number| Health::from_number(number).unwrap_or(Health::Unknown).name();
    let reason = Reason::from_number(entry.reason).unwrap_or(Reason::None);
    let (peer, uplink) = (name_text(entry.peer), name_text(entry.uplink));
    PathChange {
        sequence: entry.sequence,
        at_ns: entry.at_ns,
        at: timestamp(Duration::from_nanos(entry.at_ns)),
        path: path_name(&peer, &uplink, entry.endpoint, entry.flow),
        peer,
        uplink,
        from: health(entry.from),
        to: health(entry.to),
        reason: reason.name(),
        mtu_bytes: (reason == Reason::PathMtu).then_some(entry.detail),
        loss_ppm: (reason == Reason::Loss).then_some(entry.detail),
    }
}
