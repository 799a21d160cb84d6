//! What goes in and out of [`Handshakes`](super::Handshakes).

use std::{fmt, time::Duration};

use zeroize::Zeroizing;

use crate::config::PublicKey;

/// Where randomness comes from. Keys depend on it: outside of tests it must be the kernel's.
pub trait Random: Send {
    /// Fills `bytes` with bytes that nobody else can predict.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// A peer as the configuration knows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The peer's number in the maps, below `multipath_common::maps::MAX_PEERS`.
    pub number: u32,
    /// The peer's static key.
    pub public_key: PublicKey,
    /// A key that both configurations know besides; all zeros if there is none.
    pub preshared_key: Zeroizing<[u8; 32]>,
    /// How packets are protected: one of `multipath_common::maps::CIPHER_*`.
    pub cipher: u32,
}

/// A session that stood in the maps when the daemon began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adopted {
    /// Our receiver index; its slot says whose session it is.
    pub index: u32,
    /// The peer's receiver index.
    pub remote_index: u32,
    /// The cipher that the session was made with.
    pub cipher: u32,
    /// When the programs refuse it, on `CLOCK_BOOTTIME`.
    pub expires: Duration,
    /// This gateway began the handshake.
    pub is_initiator: bool,
    /// The peer's packets are sealed with it.
    pub is_current: bool,
}

/// A session that both ends have the keys of.
pub struct NewSession {
    /// Our receiver index; its slot is free until the session is installed.
    pub index: u32,
    /// The peer's receiver index.
    pub remote_index: u32,
    /// The peer's number.
    pub peer: u32,
    /// The cipher that both configurations name.
    pub cipher: u32,
    /// This gateway began the handshake.
    pub is_initiator: bool,
    /// When the programs must refuse it, on `CLOCK_BOOTTIME`.
    pub expires: Duration,
    /// Key of the packets that go to the peer.
    pub send: Zeroizing<[u8; 32]>,
    /// Key of the packets that come from the peer.
    pub receive: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for NewSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSession")
            .field("index", &self.index)
            .field("remote_index", &self.remote_index)
            .field("peer", &self.peer)
            .field("cipher", &self.cipher)
            .field("is_initiator", &self.is_initiator)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// What the daemon has to do, in this order.
#[derive(Debug)]
pub enum Action {
    /// Send over every path of the peer that is up, or that may be: an initiation.
    Broadcast {
        /// Whom to.
        peer: u32,
        /// UDP payload.
        datagram: Vec<u8>,
    },
    /// Send to where the datagram that is being handled came from, by the uplink that it came through.
    Reply {
        /// UDP payload.
        datagram: Vec<u8>,
    },
    /// Fill the slot of the session: keys, then the session with index 0, then its index.
    Install(NewSession),
    /// Seal the peer's packets with this session from now on; with none if `index` is 0.
    Activate {
        /// The peer's number.
        peer: u32,
        /// Our receiver index.
        index: u32,
    },
    /// Send a keepalive that is sealed with this session over every path of the peer that is up.
    Confirm {
        /// The peer's number.
        peer: u32,
        /// Our receiver index.
        index: u32,
    },
    /// Empty the session's slot, and leave its keys.
    Retire {
        /// Our receiver index.
        index: u32,
    },
    /// Zero the keys in the session's slot: no program can hold them any more.
    Wipe {
        /// Our receiver index.
        index: u32,
    },
    /// Tell the operator, once: said again only after a handshake with the peer was through or the trouble changed.
    Report {
        /// The peer's number.
        peer: u32,
        /// What is wrong.
        trouble: Trouble,
    },
}

/// Why no session is made with a peer that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The two configurations name different ciphers.
    #[error("the peer's configuration names cipher {theirs}, this one {own}: they must be the same")]
    CipherDiffers {
        /// One of `multipath_common::maps::CIPHER_*`.
        own: u32,
        /// What the peer says.
        theirs: u32,
    },
    /// The peer's answer can't be opened: the preshared keys differ, or somebody forges answers.
    #[error("the peer's answer to the handshake is not authentic: the preshared keys differ, or it is forged")]
    NotAuthentic,
    /// No secret can be agreed on with the peer's public key.
    #[error("the peer's public key is of low order: it is nobody's")]
    WeakKey,
}

/// How a peer's handshakes stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HandshakeStatus {
    /// When the session that packets are sealed with was made, on `CLOCK_BOOTTIME`; `None` if there is none, or if an
    /// earlier daemon made it.
    pub last_handshake: Option<Duration>,
    /// When that session expires.
    pub expires: Option<Duration>,
    /// An initiation is on its way.
    pub in_progress: bool,
    /// Initiations in a row that nothing came of.
    pub attempts: u32,
    /// What is wrong, if something is.
    pub trouble: Option<Trouble>,
}
