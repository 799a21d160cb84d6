//! The wire format: what stands in an outer UDP payload.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 1 | [`PacketType`] |
//! | 1 | 1 | path id, in the sender's numbering |
//! | 2 | 2 | [`Flags`], little-endian |
//! | 4 | 4 | receiver index, little-endian |
//! | 8 | 8 | counter, little-endian |
//! | 16 | 4 | sender timestamp ([`DataHeader::timestamp`]), microseconds, wrapping, little-endian |
//! | 20 | n | sealed inner IP packet, or one part of it |
//! | 20+n | 16 | tag |
//!
//! The header is handled as five 32-bit words in memory order, because that is how BPF loads and stores it
//! fastest; [`DataHeader::to_words`] and [`DataHeader::from_words`] are the only places that know the table.

/// Bytes before the sealed inner packet.
pub const HEADER_LEN: usize = 20;
/// [`HEADER_LEN`] in 32-bit words.
pub const HEADER_WORDS: usize = HEADER_LEN / 4;
/// Bytes of the authentication tag after the sealed inner packet; all zero with `cipher = "none"`.
pub const TAG_LEN: usize = 16;
/// Bytes that a UDP header takes (RFC 768).
pub const UDP_HEADER_LEN: usize = 8;
/// Bytes of an IPv4 header without options (RFC 791). The tunnel never sends options.
pub const IPV4_HEADER_LEN: usize = 20;
/// Bytes of the fixed IPv6 header (RFC 8200). The tunnel never sends extension headers.
pub const IPV6_HEADER_LEN: usize = 40;
/// Bytes that the tunnel puts around an inner packet on an IPv4 path.
pub const OVERHEAD_IPV4: usize = IPV4_HEADER_LEN + UDP_HEADER_LEN + HEADER_LEN + TAG_LEN;
/// Bytes that the tunnel puts around an inner packet on an IPv6 path.
pub const OVERHEAD_IPV6: usize = IPV6_HEADER_LEN + UDP_HEADER_LEN + HEADER_LEN + TAG_LEN;

/// UDP port that a tunnel listens on when its configuration names none (host order).
pub const DEFAULT_PORT: u16 = 5182;

/// What an outer packet carries (first byte of the payload).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PacketType {
    /// First message of a handshake: for the loader's socket.
    HandshakeInitiation = 1,
    /// Answer to it: for the loader's socket.
    HandshakeResponse = 2,
    /// Cookie reply under load: for the loader's socket.
    Cookie = 3,
    /// A sealed inner packet or a part of one.
    Data = 4,
    /// A sealed probe or report.
    Control = 5,
}

impl PacketType {
    /// The type with this number; `None` for a number that this version does not know.
    #[inline(always)]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::HandshakeInitiation),
            2 => Some(Self::HandshakeResponse),
            3 => Some(Self::Cookie),
            4 => Some(Self::Data),
            5 => Some(Self::Control),
            _ => None,
        }
    }
}

/// How a flow is carried (4 bits of the flags).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// The flow stays on one path and is never held.
    Pin = 0,
    /// The flow is striped over paths and delivered by time.
    Aggregate = 1,
    /// Every packet goes on several paths; the first copy is delivered.
    Duplicate = 2,
    /// A packet of an aggregate flow that goes by two paths, because what they would carry otherwise is idle.
    AggregateDuplicate = 3,
}

impl Class {
    /// Whether a packet goes by two paths, so that it bears the id of one and may come by the other.
    #[inline(always)]
    pub const fn is_doubled(self) -> bool {
        matches!(self, Self::Duplicate | Self::AggregateDuplicate)
    }

    /// Whether a packet is delivered by time.
    #[inline(always)]
    pub const fn is_aggregate(self) -> bool {
        matches!(self, Self::Aggregate | Self::AggregateDuplicate)
    }
}

/// Which part of an inner packet this is (2 bits of the flags).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    /// All of it.
    Whole = 0,
    /// Its beginning; the rest travels under the next counter.
    First = 1,
    /// Its end; the beginning travelled under the counter before.
    Second = 2,
}

/// The flags field, unpacked.
///
/// Bits 0 to 3 class, bits 4 to 11 hold, bits 12 and 13 part, bits 14 and 15 zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags {
    /// How the flow is carried.
    pub class: Class,
    /// How much of the delivery delay D this packet is held for, in 1/255 of D.
    pub hold: u8,
    /// Which part of an inner packet this is.
    pub part: Part,
}

impl Flags {
    /// A whole packet of a pinned flow.
    pub const PIN: Self = Self { class: Class::Pin, hold: 0, part: Part::Whole };

    /// The field's value.
    #[inline(always)]
    pub const fn to_bits(self) -> u16 {
        self.class as u16 | (self.hold as u16) << 4 | (self.part as u16) << 12
    }

    /// The flags that a field stands for; `None` when a bit or a value is set that this version does not know.
    #[inline(always)]
    pub const fn from_bits(bits: u16) -> Option<Self> {
        if bits >> 14 != 0 {
            return None;
        }
        let class = match bits & 0xf {
            0 => Class::Pin,
            1 => Class::Aggregate,
            2 => Class::Duplicate,
            3 => Class::AggregateDuplicate,
            _ => return None,
        };
        let part = match bits >> 12 & 3 {
            0 => Part::Whole,
            1 => Part::First,
            2 => Part::Second,
            _ => return None,
        };
        Some(Self { class, hold: (bits >> 4) as u8, part })
    }
}

/// The header of a data or control packet. All fields in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataHeader {
    /// [`PacketType::Data`] or [`PacketType::Control`].
    pub packet_type: PacketType,
    /// The path that the packet was sent on, in the sender's numbering.
    pub path: u8,
    /// Class, hold and part.
    pub flags: Flags,
    /// Index of the session at the receiver.
    pub receiver: u32,
    /// Position in the session; the nonce of the seal.
    pub counter: u64,
    /// When it leaves the path's virtual queue ([`crate::pacing`]), for a packet that is delivered by time, else when it
    /// was sent: microseconds of the sender's clock, wrapping.
    pub timestamp: u32,
}

/// Why five words are not a header that this version accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// The first byte is no [`PacketType`].
    UnknownType,
    /// A flag bit or value is not known to this version.
    UnknownFlags,
}

/// The type byte of a header given as words in memory order.
#[inline(always)]
pub const fn type_byte(first_word: u32) -> u8 {
    first_word.to_le() as u8
}

impl DataHeader {
    /// The header as words in memory order.
    #[inline(always)]
    pub const fn to_words(self) -> [u32; HEADER_WORDS] {
        let first = self.packet_type as u32 | (self.path as u32) << 8 | (self.flags.to_bits() as u32) << 16;
        [
            first.to_le(),
            self.receiver.to_le(),
            (self.counter as u32).to_le(),
            ((self.counter >> 32) as u32).to_le(),
            self.timestamp.to_le(),
        ]
    }

    /// Reads the header from words in memory order.
    ///
    /// # Errors
    /// A type, a flag or a value that this version does not know.
    #[inline(always)]
    pub const fn from_words(words: &[u32; HEADER_WORDS]) -> Result<Self, HeaderError> {
        let first = u32::from_le(words[0]);
        let Some(packet_type) = PacketType::from_byte(first as u8) else {
            return Err(HeaderError::UnknownType);
        };
        let Some(flags) = Flags::from_bits((first >> 16) as u16) else {
            return Err(HeaderError::UnknownFlags);
        };
        Ok(Self {
            packet_type,
            path: (first >> 8) as u8,
            flags,
            receiver: u32::from_le(words[1]),
            counter: u32::from_le(words[2]) as u64 | (u32::from_le(words[3]) as u64) << 32,
            timestamp: u32::from_le(words[4]),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(words: [u32; HEADER_WORDS]) -> [u8; HEADER_LEN] {
        bytemuck::cast(words)
    }

    /// The format is frozen by this vector: a change here is another protocol.
    #[test]
    fn header_bytes_are_frozen() {
        let header = DataHeader {
            packet_type: PacketType::Data,
            path: 3,
            flags: Flags { class: Class::Aggregate, hold: 0xab, part: Part::Second },
            receiver: 0x0403_0201,
            counter: 0x1817_1615_1413_1211,
            timestamp: 0x2423_2221,
        };
        let expected =
            [4, 3, 0xb1, 0x2a, 1, 2, 3, 4, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x21, 0x22, 0x23, 0x24];
        assert_eq!(bytes(header.to_words()), expected);
    }

    proptest! {
        #[test]
        fn header_round_trips(path: u8, class in 0u16..3, hold: u8, part in 0u16..3, receiver: u32, counter: u64, timestamp: u32) {
            let flags = Flags::from_bits(class | u16::from(hold) << 4 | part << 12).unwrap();
            let header = DataHeader { packet_type: PacketType::Data, path, flags, receiver, counter, timestamp };
            prop_assert_eq!(DataHeader::from_words(&header.to_words()), Ok(header));
        }

        #[test]
        fn accepted_headers_are_canonical(words: [u32; HEADER_WORDS]) {
            if let Ok(header) = DataHeader::from_words(&words) {
                prop_assert_eq!(header.to_words(), words);
            }
        }
    }

    #[test]
    fn every_reserved_bit_and_value_is_refused() {
        for bits in 0..=u16::MAX {
            let known = bits >> 14 == 0 && bits & 0xf < 4 && bits >> 12 & 3 < 3;
            assert_eq!(Flags::from_bits(bits).is_some(), known, "{bits:#x}");
        }
        for byte in 0..=u8::MAX {
            assert_eq!(PacketType::from_byte(byte).is_some(), (1..=5).contains(&byte));
        }
    }
}
