//! Control messages: what two gateways tell each other inside sealed packets of
//! [`PacketType::Control`](crate::wire::PacketType::Control). Numbers are little-endian.
//!
//! | offset | size | field of a keepalive |
//! | --- | --- | --- |
//! | 0 | 1 | kind: 1 |
//! | 1 | 3 | zero |
//!
//! | offset | size | field of a probe |
//! | --- | --- | --- |
//! | 0 | 1 | kind: 2 |
//! | 1 | 1 | what the sender wants the path to be: a [`Role`](crate::health::Role) |
//! | 2 | 2 | bytes of the message, which is padded with zeros |
//! | 4 | 4 | sequence |
//! | 8 | 1 | path id, in the sender's numbering |
//! | 9 | 1 | 1: the path takes part in aggregation |
//! | 10 | 6 | zero |
//! | 16 | 8 | packets that the sender has sent on the path |
//! | 24 | n | zero, at least 48 |
//!
//! | offset | size | field of a reply |
//! | --- | --- | --- |
//! | 0 | 1 | kind: 3 |
//! | 1 | 1 | path id of the probe |
//! | 2 | 2 | bytes of the probe |
//! | 4 | 4 | sequence of the probe |
//! | 8 | 4 | sender timestamp of the probe's packet |
//! | 12 | 4 | when the probe came, microseconds of the replying gateway's clock |
//! | 16 | 8 | packets that have come over the path |
//! | 24 | 8 | bytes of outer IP packets that have come over the path |
//! | 32 | 8 | counter of the last packet that came over it |
//! | 40 | 8 | packets that came out of order |
//! | 48 | 8 | packets that came late |
//! | 56 | 4 | smoothed transit time, microseconds |
//! | 60 | 4 | interarrival jitter, microseconds |
//! | 64 | 4 | how much longer than by the nearest path packets take by this one, microseconds |
//! | 68 | 4 | how much longer than that packets are held that are delivered by time, microseconds |
//!
//! A keepalive is for the peer's daemon. A probe is answered by the peer's programs, which make the reply out of it in
//! place and send it back by the path that it came by; so a probe is at least as long as a reply. With the sender
//! timestamp of the reply's own packet and the time of its arrival the prober has all four times of a round trip, each
//! taken by a program (RFC 5905 section 8 has the arithmetic).
//!
//! The daemon seals none of them itself: it writes a frame to `mp0`, and the egress program draws the counter, so that
//! there is one drawer of counters. The frame's MAC addresses are a [`ControlMark`]. A probe is written with
//! [`REPLY_LEN`] bytes, and padded by the egress program to the length that stands in it.

/// Bytes of a message that reach the daemon of the peer.
pub const MAX_CONTROL_LEN: usize = 256;
/// Bytes of a [`Reply`], and the fewest of a [`Probe`].
pub const REPLY_LEN: usize = REPLY_WORDS * 4;
/// [`REPLY_LEN`] in 32-bit words.
pub const REPLY_WORDS: usize = 18;
/// Bytes of a [`Message::Keepalive`].
const KEEPALIVE_LEN: usize = 4;
/// Kind of [`Message::Keepalive`].
const KEEPALIVE: u8 = 1;
/// To so many probes of a path a reply is awaited at most: those of 2.5 s, one every 10 ms. A peer that answers what
/// nobody has asked fills at most so much of the ring, in which the other peers' replies have to find room.
pub const MAX_AWAITED: u64 = 256;
/// Kind of [`Message::Probe`].
pub const PROBE: u8 = 2;
/// Kind of [`Message::Reply`].
pub const REPLY: u8 = 3;

/// A control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Says that the session works.
    Keepalive,
    /// Asks for a reply.
    Probe(Probe),
    /// Answers a probe.
    Reply(Reply),
}

/// A probe: all fields in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// Number of the [`Role`](crate::health::Role) that the sender wants the path to have.
    pub role: u8,
    /// Bytes of the message, at least [`REPLY_LEN`].
    pub len: u16,
    /// Tells the sender's probes on a path apart.
    pub sequence: u32,
    /// Path id, in the sender's numbering.
    pub path: u8,
    /// 1 when the sender stripes packets over this path, or is about to; else 0.
    pub is_member: u8,
    /// Packets that the sender has sent on the path alone, probes included.
    pub sent_packets: u64,
}

/// A reply: all fields in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Path id of the probe, in the prober's numbering.
    pub path: u8,
    /// Bytes of the probe.
    pub len: u16,
    /// Sequence of the probe.
    pub sequence: u32,
    /// Sender timestamp of the probe's packet, microseconds of the prober's clock.
    pub sent_us: u32,
    /// When the probe came, microseconds of the replying gateway's clock.
    pub reached_us: u32,
    /// Packets that have come over the path, this probe included.
    pub packets: u64,
    /// Bytes of outer IP packets that have come over the path.
    pub bytes: u64,
    /// Counter of the last packet that came over it.
    pub counter: u64,
    /// Packets that came out of order.
    pub reordered: u64,
    /// Packets that came late.
    pub late: u64,
    /// Smoothed transit time, microseconds, wrapping.
    pub smoothed_us: u32,
    /// Interarrival jitter, microseconds.
    pub jitter_us: u32,
    /// How much longer than by the nearest path nearly all packets take by this one, microseconds
    /// ([`Playout::need_us`](crate::playout::Playout::need_us)).
    pub need_us: u32,
    /// How much longer than packets take by the nearest path those are held that are delivered by time, microseconds.
    pub spread_us: u32,
}

/// Why bytes are not a message that this version accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// Longer or shorter than its kind, or than it says.
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

/// The kind in the first word (memory order) of a message.
#[inline(always)]
pub const fn kind(first_word: u32) -> u8 {
    first_word.to_le() as u8
}

#[inline(always)]
const fn low(value: u64) -> u32 {
    (value as u32).to_le()
}

#[inline(always)]
const fn high(value: u64) -> u32 {
    ((value >> 32) as u32).to_le()
}

#[inline(always)]
const fn wide(low: u32, high: u32) -> u64 {
    u32::from_le(low) as u64 | (u32::from_le(high) as u64) << 32
}

impl Probe {
    /// The first [`REPLY_WORDS`] words of the message in memory order; what follows is zero.
    #[inline(always)]
    pub const fn to_words(self) -> [u32; REPLY_WORDS] {
        let mut words = [0; REPLY_WORDS];
        words[0] = (PROBE as u32 | (self.role as u32) << 8 | (self.len as u32) << 16).to_le();
        words[1] = self.sequence.to_le();
        words[2] = (self.path as u32 | (self.is_member as u32) << 8).to_le();
        words[4] = low(self.sent_packets);
        words[5] = high(self.sent_packets);
        words
    }

    /// Reads the first words of a probe, whose kind was looked at: what is reserved is not.
    #[inline(always)]
    pub const fn from_words(words: &[u32; REPLY_WORDS]) -> Self {
        let first = u32::from_le(words[0]);
        Self {
            role: (first >> 8) as u8,
            len: (first >> 16) as u16,
            sequence: u32::from_le(words[1]),
            path: u32::from_le(words[2]) as u8,
            is_member: (u32::from_le(words[2]) >> 8) as u8,
            sent_packets: wide(words[4], words[5]),
        }
    }
}

impl Reply {
    /// The message as words in memory order.
    #[inline(always)]
    pub const fn to_words(self) -> [u32; REPLY_WORDS] {
        [
            (REPLY as u32 | (self.path as u32) << 8 | (self.len as u32) << 16).to_le(),
            self.sequence.to_le(),
            self.sent_us.to_le(),
            self.reached_us.to_le(),
            low(self.packets),
            high(self.packets),
            low(self.bytes),
            high(self.bytes),
            low(self.counter),
            high(self.counter),
            low(self.reordered),
            high(self.reordered),
            low(self.late),
            high(self.late),
            self.smoothed_us.to_le(),
            self.jitter_us.to_le(),
            self.need_us.to_le(),
            self.spread_us.to_le(),
        ]
    }

    /// Reads a reply, whose kind was looked at.
    #[inline(always)]
    pub const fn from_words(words: &[u32; REPLY_WORDS]) -> Self {
        let first = u32::from_le(words[0]);
        Self {
            path: (first >> 8) as u8,
            len: (first >> 16) as u16,
            sequence: u32::from_le(words[1]),
            sent_us: u32::from_le(words[2]),
            reached_us: u32::from_le(words[3]),
            packets: wide(words[4], words[5]),
            bytes: wide(words[6], words[7]),
            counter: wide(words[8], words[9]),
            reordered: wide(words[10], words[11]),
            late: wide(words[12], words[13]),
            smoothed_us: u32::from_le(words[14]),
            jitter_us: u32::from_le(words[15]),
            need_us: u32::from_le(words[16]),
            spread_us: u32::from_le(words[17]),
        }
    }
}

impl Message {
    /// The message as bytes of which the first `usize` count; a probe without its padding.
    pub fn to_bytes(self) -> ([u8; REPLY_LEN], usize) {
        match self {
            Self::Keepalive => {
                let mut bytes = [0; REPLY_LEN];
                bytes[0] = KEEPALIVE;
                (bytes, KEEPALIVE_LEN)
            }
            Self::Probe(probe) => (bytemuck::cast(probe.to_words()), REPLY_LEN),
            Self::Reply(reply) => (bytemuck::cast(reply.to_words()), REPLY_LEN),
        }
    }

    /// Reads a message of exactly these bytes, a probe with its padding.
    ///
    /// # Errors
    /// A length, a kind or a reserved byte that this version does not know.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MessageError> {
        let kind = *bytes.first().ok_or(MessageError::WrongLength)?;
        let words = || {
            let first = bytes.first_chunk::<REPLY_LEN>().ok_or(MessageError::WrongLength)?;
            Ok(bytemuck::pod_read_unaligned::<[u32; REPLY_WORDS]>(first))
        };
        match (kind, bytes.len()) {
            (KEEPALIVE, KEEPALIVE_LEN) if bytes == [KEEPALIVE, 0, 0, 0] => Ok(Self::Keepalive),
            (KEEPALIVE, KEEPALIVE_LEN) => Err(MessageError::ReservedByte),
            (PROBE, len) => {
                let words = words()?;
                let probe = Probe::from_words(&words);
                if usize::from(probe.len) != len {
                    return Err(MessageError::WrongLength);
                }
                if probe.is_member > 1 || probe.to_words() != words || bytes[REPLY_LEN..].iter().any(|byte| *byte != 0)
                {
                    return Err(MessageError::ReservedByte);
                }
                Ok(Self::Probe(probe))
            }
            (REPLY, REPLY_LEN) => Ok(Self::Reply(Reply::from_words(&words()?))),
            (KEEPALIVE | REPLY, _) => Err(MessageError::WrongLength),
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

    const PROBE_EXAMPLE: Probe = Probe {
        role: 2,
        len: 0x0140,
        sequence: 0x0403_0201,
        path: 7,
        is_member: 1,
        sent_packets: 0x1817_1615_1413_1211,
    };
    const REPLY_EXAMPLE: Reply = Reply {
        path: 7,
        len: 0x0140,
        sequence: 0x0403_0201,
        sent_us: 0x1413_1211,
        reached_us: 0x2423_2221,
        packets: 0x3837_3635_3433_3231,
        bytes: 0x4847_4645_4443_4241,
        counter: 0x5857_5655_5453_5251,
        reordered: 0x6867_6665_6463_6261,
        late: 0x7877_7675_7473_7271,
        smoothed_us: 0x8483_8281,
        jitter_us: 0x9493_9291,
        need_us: 0xa4a3_a2a1,
        spread_us: 0xb4b3_b2b1,
    };

    fn bytes(message: Message) -> Vec<u8> {
        let (bytes, len) = message.to_bytes();
        bytes[..len].into()
    }

    /// The format is frozen by these vectors: a change here is another protocol.
    #[test]
    fn message_bytes_are_frozen() {
        assert_eq!(bytes(Message::Keepalive), [1, 0, 0, 0]);
        let mut probe = [0; REPLY_LEN];
        probe[..10].copy_from_slice(&[2, 2, 0x40, 1, 1, 2, 3, 4, 7, 1]);
        probe[16..24].copy_from_slice(&[0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
        assert_eq!(bytes(Message::Probe(PROBE_EXAMPLE)), probe);
        let mut reply = Vec::from([3, 7, 0x40, 1, 1, 2, 3, 4]);
        reply.extend((0x11..=0x14).chain(0x21..=0x24));
        reply.extend([0x31, 0x41, 0x51, 0x61, 0x71].into_iter().flat_map(|first| first..first + 8));
        reply.extend([0x81, 0x91, 0xa1, 0xb1].into_iter().flat_map(|first| first..first + 4));
        assert_eq!(bytes(Message::Reply(REPLY_EXAMPLE)), reply);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert_eq!(Message::from_bytes(&[]), Err(MessageError::WrongLength));
        for len in [1, 3, 5] {
            assert_eq!(Message::from_bytes(&[1, 0, 0, 0, 0][..len]), Err(MessageError::WrongLength));
        }
        for at in 1..4 {
            let mut bytes = [1, 0, 0, 0];
            bytes[at] = 1;
            assert_eq!(Message::from_bytes(&bytes), Err(MessageError::ReservedByte));
        }
        let mut padded = bytes(Message::Probe(PROBE_EXAMPLE));
        assert_eq!(Message::from_bytes(&padded), Err(MessageError::WrongLength));
        padded.resize(0x0140, 0);
        assert_eq!(Message::from_bytes(&padded), Ok(Message::Probe(PROBE_EXAMPLE)));
        for at in [9, 10, 15, 24, 0x13f] {
            let before = padded[at];
            padded[at] = 2;
            assert_eq!(Message::from_bytes(&padded), Err(MessageError::ReservedByte), "{at}");
            padded[at] = before;
        }
        for kind in (0..=u8::MAX).filter(|kind| ![KEEPALIVE, PROBE, REPLY].contains(kind)) {
            assert_eq!(Message::from_bytes(&[kind, 0, 0, 0]), Err(MessageError::UnknownKind(kind)));
        }
    }

    proptest! {
        #[test]
        fn accepted_messages_are_canonical(kind in 0u8..4, rest in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..80)) {
            let given: Vec<u8> = core::iter::once(kind).chain(rest).collect();
            if let Ok(message) = Message::from_bytes(&given) {
                let mut again = bytes(message);
                again.resize(given.len(), 0);
                prop_assert_eq!(again, given);
            }
        }

        #[test]
        fn messages_round_trip(words: [u32; REPLY_WORDS]) {
            let reply = Reply::from_words(&words);
            let probe = Probe::from_words(&words);
            let probe = Probe { len: REPLY_LEN as u16, is_member: probe.is_member & 1, ..probe };
            for message in [Message::Reply(reply), Message::Probe(probe)] {
                prop_assert_eq!(Message::from_bytes(&bytes(message)), Ok(message));
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
