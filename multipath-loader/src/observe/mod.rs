//! What a tunnel does now and what its paths did, read from its pinned maps; the daemon need not run.

mod bond;
mod class;
mod log;
mod path;
mod status;

use nix::net::if_::if_indextoname;

pub use self::{
    bond::{BondStatus, PathBondStatus},
    class::{CarriedStatus, ClassStatus, classes},
    log::{PathChange, path_changes},
    path::{ArrivalsStatus, DirectionStatus, PacingStatus, PathStatus, QualityStatus, TrafficStatus},
    status::{DropStatus, PeerStatus, SessionStatus, TunnelStatus, collect},
};

/// The name of an interface, or its index when it is gone.
fn interface_name(ifindex: u32) -> String {
    let name = if_indextoname(ifindex).unwrap_or_default().to_string_lossy().into_owned();
    if name.is_empty() { format!("#{ifindex}") } else { name }
}
