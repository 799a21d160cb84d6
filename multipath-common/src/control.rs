//! Control messages: what the daemons of two gateways tell each other inside sealed packets of
//! [`PacketType::Control`](crate::wire::PacketType::Control).
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 1 | kind |
//! | 1 | 3 | zero |
//! | 4 | n | body of the kind |
//!
//! The daemon seals none of them itself: it writes a frame to `mp0`, and the egress program draws the counter, so that
//! there is one drawer of counters. The frame's MAC addresses are a [`ControlMark`].

/// Bytes of a message that reach the daemon of the peer.
pub const MAX_CONTROL_LEN: usize = 256;
/// Bytes before the body.
const PREFIX_LEN: usize = 4;
/// Kind of [`Message::Keepalive`].
const KEEPALIVE: u8 = 1;

/// A control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Says that the session and the path work, and keeps the mapping of an address translator alive.
    Keepalive,
}

/// Why bytes are not a message that this version accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// Longer or shorter than its kind.
    WrongLength,
    /// The kind is not known to this version.
    UnknownKind(u8),
    /// A byte that must be zero is not.
    ReservedByte,
}

impl core::fmt::Display for MessageError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::WrongLength => formatter.write_str("the control message has not the length of its kind"),
            Self::UnknownKind(kind) => write!(formatter, "control message of unknown kind {kind}"),
            Self::ReservedByte => formatter.write_str("a reserved byte of the control message is not zero"),
        }
    }
}

impl core::error::Error for MessageError {}

impl Message {
    /// The message as bytes.
    pub const fn to_bytes(self) -> [u8; PREFIX_LEN] {
        match self {
            Self::Keepalive => [KEEPALIVE, 0, 0, 0],
        }
    }

    /// Reads a message of exactly these bytes.
    ///
    /// # Errors
    /// A length, a kind or a reserved byte that this version does not know.
    pub const fn from_bytes(bytes: &[u8]) -> Result<Self, MessageError> {
        let Some((&[kind, reserved @ ..], body)) = bytes.split_first_chunk::<PREFIX_LEN>() else {
            return Err(MessageError::WrongLength);
        };
        if !matches!(reserved, [0, 0, 0]) {
            return Err(MessageError::ReservedByte);
        }
        match (kind, body) {
            (KEEPALIVE, []) => Ok(Self::Keepalive),
            (KEEPALIVE, _) => Err(MessageError::WrongLength),
            (kind, _) => Err(MessageError::UnknownKind(kind)),
        }
    }
}

/// Bytes of a mark: both MAC addresses of an Ethernet header.
pub const CONTROL_MARK_LEN: usize = CONTROL_MARK_WORDS * 4;
/// [`CONTROL_MARK_LEN`] in 32-bit words.
pub const CONTROL_MARK_WORDS: usize = 3;

/// First two bytes of a mark. Locally administered and not multicast, so no station has it and the kernel lets it pass.
const MARK: [u8; 2] = [0x06, 0x33];

/// In place of the MAC addresses of a frame that the daemon writes to `mp0`: seal what follows the Ethernet header as a
/// control message. The `EtherType` is that of the path's outer packets.
///
/// Only this gateway can write one: what others send to `mp0` leaves it under MAC addresses that the kernel writes, for
/// `mp0` has no neighbours (`IFF_NOARP`), and a raw socket on it takes `CAP_NET_RAW` here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlMark {
    /// Path to send by.
    pub path: u8,
    /// Number of the peer.
    pub peer: u32,
    /// Receiver index (ours) of the session to seal with; 0: the peer's current one.
    pub session: u32,
}

impl ControlMark {
    /// The mark as words in memory order.
    #[inline(always)]
    pub const fn to_words(self) -> [u32; CONTROL_MARK_WORDS] {
        [u32::from_ne_bytes([MARK[0], MARK[1], self.path, 0]), self.peer, self.session]
    }

    /// Reads the first words of a frame; `None` when they are no mark.
    #[inline(always)]
    pub const fn from_words(words: &[u32; CONTROL_MARK_WORDS]) -> Option<Self> {
        match words[0].to_ne_bytes() {
            [first, second, path, 0] if first == MARK[0] && second == MARK[1] => {
                Some(Self { path, peer: words[1], session: words[2] })
            }
            _ => None,
        }
    }

    /// The Ethernet header of a frame with this mark.
    pub fn to_ethernet(self, ethertype: u16) -> [u8; CONTROL_MARK_LEN + 2] {
        let mut header = [0; CONTROL_MARK_LEN + 2];
        header[..CONTROL_MARK_LEN].copy_from_slice(bytemuck::bytes_of(&self.to_words()));
        header[CONTROL_MARK_LEN..].copy_from_slice(&ethertype.to_be_bytes());
        header
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// The format is frozen by this vector: a change here is another protocol.
    #[test]
    fn message_bytes_are_frozen() {
        assert_eq!(Message::Keepalive.to_bytes(), [1, 0, 0, 0]);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for len in [0, 1, 3] {
            assert_eq!(Message::from_bytes(&[1, 0, 0, 0][..len]), Err(MessageError::WrongLength));
        }
        assert_eq!(Message::from_bytes(&[1, 0, 0, 0, 0]), Err(MessageError::WrongLength));
        for at in 1..4 {
            let mut bytes = [1, 0, 0, 0];
            bytes[at] = 1;
            assert_eq!(Message::from_bytes(&bytes), Err(MessageError::ReservedByte));
        }
        for kind in (0..=u8::MAX).filter(|kind| *kind != KEEPALIVE) {
            assert_eq!(Message::from_bytes(&[kind, 0, 0, 0]), Err(MessageError::UnknownKind(kind)));
        }
    }

    proptest! {
        #[test]
        fn accepted_messages_are_canonical(bytes in prop::collection::vec(0u8..3, 0..6)) {
            if let Ok(message) = Message::from_bytes(&bytes) {
                let again: Vec<u8> = message.to_bytes().into();
                prop_assert_eq!(again, bytes);
            }
        }

        #[test]
        fn marks_round_trip(path: u8, peer: u32, session: u32, ethertype: u16) {
            let mark = ControlMark { path, peer, session };
            prop_assert_eq!(ControlMark::from_words(&mark.to_words()), Some(mark));
            let header = mark.to_ethernet(ethertype);
            prop_assert_eq!(header[..4].to_vec(), [6, 0x33, path, 0].to_vec());
            prop_assert_eq!(&header[12..], &ethertype.to_be_bytes());
        }

        #[test]
        fn other_frames_are_no_marks(words: [u32; CONTROL_MARK_WORDS]) {
            let bytes = words[0].to_ne_bytes();
            let is_mark = bytes[..2] == MARK && bytes[3] == 0;
            prop_assert_eq!(ControlMark::from_words(&words).is_some(), is_mark);
        }
    }
}
