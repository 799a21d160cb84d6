//! What a tunnel does now, read from its pinned maps; the daemon need not run.

mod status;

pub use self::status::{DropStatus, PathStatus, PeerStatus, SessionStatus, TrafficStatus, TunnelStatus, collect};

/// The name of a path: PEER/UPLINK, and from the peer's second endpoint on that uplink on PEER/UPLINK/NUMBER.
pub fn path_name(peer: &str, uplink: &str, endpoint: u32) -> String {
    if endpoint == 0 { format!("{peer}/{uplink}") } else { format!("{peer}/{uplink}/{}", endpoint + 1) }
}
