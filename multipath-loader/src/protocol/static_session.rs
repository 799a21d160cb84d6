//! The session of two peers that trust their underlay (`cipher = "none"`): both ends derive it from the public keys,
//! nothing is exchanged.

use multipath_common::maps::{CIPHER_NONE, Session, bpf_spin_lock};

use crate::config::PublicKey;

/// BLAKE3 derive-key context: names protocol, version and purpose.
const INDEX_CONTEXT: &str = "mpvpn 1 static session receiver index";

/// The receiver index that `sender` writes into packets for `receiver`. Never 0, which means no session.
pub fn receiver_index(receiver: &PublicKey, sender: &PublicKey) -> u32 {
    let mut hasher = blake3::Hasher::new_derive_key(INDEX_CONTEXT);
    hasher.update(receiver.as_bytes());
    hasher.update(sender.as_bytes());
    let hash = hasher.finalize();
    let bytes = hash.as_bytes();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]).max(1)
}

/// The session with a peer, as `own` has it.
///
/// `unix_ns` is the wall clock, nanoseconds since 1970. Counters begin there: a session that begins anew (after a
/// reboot, say) then lies ahead of what the peer's window has seen, as long as clocks go forward and no path carries
/// more than 10^9 packets per second.
pub fn session(own: &PublicKey, peer: &PublicKey, peer_number: u32, unix_ns: u64) -> (u32, Session) {
    let session = Session {
        peer: peer_number,
        remote_index: receiver_index(peer, own),
        expires_ns: u64::MAX,
        next_counter: unix_ns,
        cipher: CIPHER_NONE,
        lock: bpf_spin_lock { val: 0 },
        window: bytemuck::Zeroable::zeroed(),
    };
    (receiver_index(own, peer), session)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_derive_the_same_indices() {
        let (one, other) = (PublicKey::from([1; 32]), PublicKey::from([2; 32]));
        let (one_index, at_one) = session(&one, &other, 0, 5);
        let (other_index, at_other) = session(&other, &one, 0, 7);
        assert_eq!(one_index, at_other.remote_index);
        assert_eq!(other_index, at_one.remote_index);
        assert_ne!(one_index, other_index);
        assert_eq!((at_one.next_counter, at_other.next_counter), (5, 7));
    }

    /// Frozen: both ends must agree, also across versions.
    #[test]
    fn the_derivation_is_frozen() {
        assert_eq!(receiver_index(&PublicKey::from([1; 32]), &PublicKey::from([2; 32])), FROZEN);
    }

    const FROZEN: u32 = 186_379_826;
}
