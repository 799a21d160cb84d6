//! What a running tunnel can take over from a changed file.

use multipath_common::maps::Capacity;

use super::Config;

/// Why a running tunnel can't take a changed file over. Nothing of it may be applied then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// Sessions are made with the key.
    #[error("private_key has changed, which takes a restart of the daemon")]
    PrivateKey,
    /// Peers send to the port.
    #[error("listen_port has changed from {old} to {new}, which takes a restart of the daemon")]
    ListenPort {
        /// The port that the tunnel has.
        old: u16,
        /// The file's.
        new: u16,
    },
    /// The maps are as large as they were made.
    #[error("the maps have no room for so many peers or prefixes, which takes a restart of the daemon")]
    Capacity,
}

impl Config {
    /// Checks whether a tunnel that runs with this configuration, and has so much room in its maps, can take `new` over
    /// without a restart.
    ///
    /// # Errors
    /// The first thing that it can't.
    pub fn check_reload(&self, new: &Self, room: Capacity) -> Result<(), ReloadError> {
        let (old_port, new_port) = (self.tunnel.listen_port, new.tunnel.listen_port);
        let needed = new.capacity();
        if self.tunnel.private_key.public() != new.tunnel.private_key.public() {
            Err(ReloadError::PrivateKey)
        } else if old_port != new_port {
            Err(ReloadError::ListenPort { old: old_port, new: new_port })
        } else if needed.peers > room.peers || needed.prefixes > room.prefixes {
            Err(ReloadError::Capacity)
        } else {
            Ok(())
        }
    }
}
