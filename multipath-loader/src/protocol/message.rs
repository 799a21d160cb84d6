//! Layout of the three handshake messages. Little-endian; byte 0 is the type, bytes 1 to 3 are zero and checked.
//!
//! | offset | initiation (160 bytes) | response (100 bytes) | cookie (64 bytes) |
//! | --- | --- | --- | --- |
//! | 4 | sender's index | sender's index; 0 refuses | receiver's index |
//! | 8 | first Noise message, 120 bytes | receiver's index | nonce, 24 bytes |
//! | 12 | | second Noise message, 56 bytes | |
//! | 32 | | | sealed cookie, 32 bytes |
//! | length - 32 | mac1 over all before it | the same | |
//! | length - 16 | mac2 over all before it, or zeros | the same | |
//!
//! The Noise messages carry an offer and an answer.

use multipath_common::wire::PacketType;

/// Bytes of a message authentication code.
pub const MAC_LEN: usize = 16;
/// Bytes of the first Noise message: an ephemeral key, a sealed static key, a sealed offer.
pub const NOISE_INITIATION_LEN: usize = 32 + (32 + 16) + (OFFER_LEN + 16);
/// Bytes of the second Noise message: an ephemeral key, a sealed answer.
pub const NOISE_RESPONSE_LEN: usize = 32 + (ANSWER_LEN + 16);
/// Bytes of an offer: what the initiator says.
pub const OFFER_LEN: usize = 24;
/// Bytes of an answer: what the responder says.
pub const ANSWER_LEN: usize = 8;
/// Bytes of an initiation.
pub const INITIATION_LEN: usize = 8 + NOISE_INITIATION_LEN + 2 * MAC_LEN;
/// Bytes of a response.
pub const RESPONSE_LEN: usize = 12 + NOISE_RESPONSE_LEN + 2 * MAC_LEN;
/// Bytes of a cookie message.
pub const COOKIE_LEN: usize = 8 + NONCE_LEN + SEALED_COOKIE_LEN;
/// Bytes of an XChaCha20-Poly1305 nonce.
pub const NONCE_LEN: usize = 24;
/// Bytes of a sealed cookie: the cookie and its tag.
pub const SEALED_COOKIE_LEN: usize = 16 + 16;

/// A message whose layout is right. Nothing in it is authentic yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// Asks for a session.
    Initiation {
        /// The sender's receiver index.
        sender: u32,
        /// First Noise message.
        noise: &'a [u8; NOISE_INITIATION_LEN],
        /// Its authentication codes.
        macs: Macs<'a>,
    },
    /// Makes one, or refuses.
    Response {
        /// The sender's receiver index; 0: the sender made no session.
        sender: u32,
        /// Index in the initiation that is answered.
        receiver: u32,
        /// Second Noise message.
        noise: &'a [u8; NOISE_RESPONSE_LEN],
        /// Its authentication codes.
        macs: Macs<'a>,
    },
    /// Asks for proof that the sender of a message receives at its address.
    Cookie {
        /// Index of the sender of the message.
        receiver: u32,
        /// XChaCha20-Poly1305 nonce.
        nonce: &'a [u8; NONCE_LEN],
        /// The sealed cookie.
        sealed: &'a [u8; SEALED_COOKIE_LEN],
    },
}

/// The end of an initiation or response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Macs<'a> {
    /// What `mac1` covers.
    pub body: &'a [u8],
    /// Whoever knows the receiver's public key can make it.
    pub mac1: &'a [u8; MAC_LEN],
    /// What `mac2` covers.
    pub body_and_mac1: &'a [u8],
    /// Whoever received a cookie can make it; zeros without one.
    pub mac2: &'a [u8; MAC_LEN],
}

/// Not a handshake message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Byte 0 is no handshake type.
    #[error("not a handshake packet")]
    Type,
    /// A type has one length.
    #[error("{0} bytes do not fit the type")]
    Length(usize),
    /// Bytes that must be zero are not, or an index that must not be zero is.
    #[error("reserved bytes are not zero, or an index is")]
    Reserved,
}

/// Takes a datagram apart.
pub fn parse(datagram: &[u8]) -> Result<Message<'_>, MessageError> {
    let (&kind, rest) = datagram.split_first().ok_or(MessageError::Length(0))?;
    let length = MessageError::Length(datagram.len());
    let (reserved, body) = rest.split_first_chunk::<3>().ok_or(length)?;
    let message = match PacketType::from_byte(kind) {
        Some(PacketType::HandshakeInitiation) => initiation(body, datagram).ok_or(length)?,
        Some(PacketType::HandshakeResponse) => response(body, datagram).ok_or(length)?,
        Some(PacketType::Cookie) => cookie(body).ok_or(length)?,
        _ => return Err(MessageError::Type),
    };
    let index = match message {
        Message::Initiation { sender, .. } => sender,
        Message::Response { receiver, .. } | Message::Cookie { receiver, .. } => receiver,
    };
    if *reserved != [0; 3] || index == 0 {
        return Err(MessageError::Reserved);
    }
    Ok(message)
}

fn initiation<'a>(body: &'a [u8], datagram: &'a [u8]) -> Option<Message<'a>> {
    let (sender, body) = body.split_first_chunk()?;
    let (noise, end) = body.split_first_chunk()?;
    Some(Message::Initiation { sender: u32::from_le_bytes(*sender), noise, macs: macs(datagram, end)? })
}

fn response<'a>(body: &'a [u8], datagram: &'a [u8]) -> Option<Message<'a>> {
    let (sender, body) = body.split_first_chunk()?;
    let (receiver, body) = body.split_first_chunk()?;
    let (noise, end) = body.split_first_chunk()?;
    Some(Message::Response {
        sender: u32::from_le_bytes(*sender),
        receiver: u32::from_le_bytes(*receiver),
        noise,
        macs: macs(datagram, end)?,
    })
}

fn cookie(body: &[u8]) -> Option<Message<'_>> {
    let (receiver, body) = body.split_first_chunk()?;
    let (nonce, end) = body.split_first_chunk()?;
    Some(Message::Cookie { receiver: u32::from_le_bytes(*receiver), nonce, sealed: end.try_into().ok()? })
}

fn macs<'a>(datagram: &'a [u8], end: &'a [u8]) -> Option<Macs<'a>> {
    let (mac1, mac2) = end.split_first_chunk()?;
    let mac2 = mac2.try_into().ok()?;
    let (body_and_mac1, _) = datagram.split_last_chunk::<MAC_LEN>()?;
    let (body, _) = body_and_mac1.split_last_chunk::<MAC_LEN>()?;
    Some(Macs { body, mac1, body_and_mac1, mac2 })
}

/// An initiation without its authentication codes.
pub(super) fn write_initiation(sender: u32, noise: &[u8; NOISE_INITIATION_LEN]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(INITIATION_LEN);
    datagram.extend_from_slice(&[PacketType::HandshakeInitiation as u8, 0, 0, 0]);
    datagram.extend_from_slice(&sender.to_le_bytes());
    datagram.extend_from_slice(noise);
    datagram
}

/// A response without its authentication codes.
pub(super) fn write_response(sender: u32, receiver: u32, noise: &[u8; NOISE_RESPONSE_LEN]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(RESPONSE_LEN);
    datagram.extend_from_slice(&[PacketType::HandshakeResponse as u8, 0, 0, 0]);
    datagram.extend_from_slice(&sender.to_le_bytes());
    datagram.extend_from_slice(&receiver.to_le_bytes());
    datagram.extend_from_slice(noise);
    datagram
}

/// A cookie message.
pub(super) fn write_cookie(receiver: u32, nonce: &[u8; NONCE_LEN], sealed: &[u8; SEALED_COOKIE_LEN]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(COOKIE_LEN);
    datagram.extend_from_slice(&[PacketType::Cookie as u8, 0, 0, 0]);
    datagram.extend_from_slice(&receiver.to_le_bytes());
    datagram.extend_from_slice(nonce);
    datagram.extend_from_slice(sealed);
    datagram
}

/// What the initiator says under the seal of the first Noise message.
///
/// | offset | size | field |
/// | --- | --- | --- |
/// | 0 | 8 | timestamp |
/// | 8 | 1 | cipher |
/// | 9 | 3 | zero, checked |
/// | 12 | 4 | generation |
/// | 16 | 4 | the receiver's index of the session that the sender seals with |
/// | 20 | 4 | zero, checked |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offer {
    /// Nanoseconds since 1970 as the sender's clock has it, greater than in every earlier initiation to this peer.
    pub timestamp: u64,
    /// The sender's cipher.
    pub cipher: u8,
    /// Greatest generation of a session with this peer that the sender knows.
    pub generation: u32,
    /// The receiver's index of the session that the sender seals with; 0: none.
    pub sealing_with: u32,
}

impl Offer {
    pub(super) fn to_bytes(self) -> [u8; OFFER_LEN] {
        let mut bytes = [0; OFFER_LEN];
        bytes[..8].copy_from_slice(&self.timestamp.to_le_bytes());
        bytes[8] = self.cipher;
        bytes[12..16].copy_from_slice(&self.generation.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.sealing_with.to_le_bytes());
        bytes
    }

    /// `None`: bytes that must be zero are not.
    pub(super) fn from_bytes(bytes: &[u8; OFFER_LEN]) -> Option<Self> {
        let (timestamp, rest) = bytes.split_first_chunk()?;
        let (&[cipher, 0, 0, 0], rest) = rest.split_first_chunk()? else { return None };
        let (generation, rest) = rest.split_first_chunk()?;
        let (sealing_with, rest) = rest.split_first_chunk()?;
        (rest == [0; 4]).then_some(Self {
            timestamp: u64::from_le_bytes(*timestamp),
            cipher,
            generation: u32::from_le_bytes(*generation),
            sealing_with: u32::from_le_bytes(*sealing_with),
        })
    }
}

/// What the responder says under the seal of the second Noise message: its cipher (1 byte), 3 zeros (checked), the
/// generation (4 bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    /// The sender's cipher; there is no session if it is not the initiator's.
    pub cipher: u8,
    /// Generation of the new session: above every one that either end knows.
    pub generation: u32,
}

impl Answer {
    pub(super) fn to_bytes(self) -> [u8; ANSWER_LEN] {
        let mut bytes = [self.cipher, 0, 0, 0, 0, 0, 0, 0];
        bytes[4..].copy_from_slice(&self.generation.to_le_bytes());
        bytes
    }

    /// `None`: bytes that must be zero are not.
    pub(super) fn from_bytes(bytes: [u8; ANSWER_LEN]) -> Option<Self> {
        let (&[cipher, 0, 0, 0], generation) = bytes.split_first_chunk()? else { return None };
        Some(Self { cipher, generation: u32::from_le_bytes(generation.try_into().ok()?) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn datagrams() -> [Vec<u8>; 3] {
        let with_macs = |mut datagram: Vec<u8>| {
            datagram.extend_from_slice(&[0x11; MAC_LEN]);
            datagram.extend_from_slice(&[0x22; MAC_LEN]);
            datagram
        };
        [
            with_macs(write_initiation(0x0403_0201, &[0xaa; NOISE_INITIATION_LEN])),
            with_macs(write_response(0x0403_0201, 0x0807_0605, &[0xbb; NOISE_RESPONSE_LEN])),
            write_cookie(0x0403_0201, &[0xcc; NONCE_LEN], &[0xdd; SEALED_COOKIE_LEN]),
        ]
    }

    #[test]
    fn layouts_are_as_written() {
        let [initiation, response, cookie] = datagrams();
        assert_eq!((initiation.len(), response.len(), cookie.len()), (160, 100, 64));
        assert_eq!(initiation[..9], [1, 0, 0, 0, 1, 2, 3, 4, 0xaa]);
        assert_eq!(response[..13], [2, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0xbb]);
        assert_eq!(cookie[..9], [3, 0, 0, 0, 1, 2, 3, 4, 0xcc]);
        assert_eq!((cookie[31], cookie[32]), (0xcc, 0xdd));
        let Ok(Message::Initiation { sender, noise, macs }) = parse(&initiation) else { panic!("an initiation") };
        assert_eq!((sender, noise, macs.mac1, macs.mac2), (0x0403_0201, &[0xaa; 120], &[0x11; 16], &[0x22; 16]));
        assert_eq!((macs.body, macs.body_and_mac1), (&initiation[..128], &initiation[..144]));
        let Ok(Message::Response { sender, receiver, noise, macs }) = parse(&response) else { panic!("a response") };
        assert_eq!((sender, receiver, noise), (0x0403_0201, 0x0807_0605, &[0xbb; 56]));
        assert_eq!((macs.body, macs.body_and_mac1), (&response[..68], &response[..84]));
        let expected = Message::Cookie { receiver: 0x0403_0201, nonce: &[0xcc; 24], sealed: &[0xdd; 32] };
        assert_eq!(parse(&cookie), Ok(expected));
    }

    #[test]
    fn only_the_one_length_is_taken() {
        for datagram in datagrams() {
            for length in 0..datagram.len() {
                assert_eq!(parse(&datagram[..length]), Err(MessageError::Length(length)));
            }
            let longer = [datagram.as_slice(), &[0]].concat();
            assert_eq!(parse(&longer), Err(MessageError::Length(longer.len())));
        }
    }

    #[test]
    fn reserved_bytes_and_indices_are_checked() {
        for datagram in datagrams() {
            for byte in 1..4 {
                let mut wrong = datagram.clone();
                wrong[byte] = 1;
                assert_eq!(parse(&wrong), Err(MessageError::Reserved));
            }
        }
        let [mut initiation, mut response, mut cookie] = datagrams();
        initiation[4..8].fill(0);
        response[8..12].fill(0);
        cookie[4..8].fill(0);
        for datagram in [&initiation, &response, &cookie] {
            assert_eq!(parse(datagram), Err(MessageError::Reserved));
        }
        let [_, mut refusal, _] = datagrams();
        refusal[4..8].fill(0);
        assert!(matches!(parse(&refusal), Ok(Message::Response { sender: 0, .. })));
    }

    #[test]
    fn payloads_are_as_written() {
        let offer = Offer { timestamp: 0x0807_0605_0403_0201, cipher: 9, generation: 0x0d0c_0b0a, sealing_with: 0x0e };
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0, 0xa, 0xb, 0xc, 0xd, 0xe, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(offer.to_bytes(), bytes);
        assert_eq!(Offer::from_bytes(&bytes), Some(offer));
        let answer = Answer { cipher: 1, generation: 0x0504_0302 };
        assert_eq!(answer.to_bytes(), [1, 0, 0, 0, 2, 3, 4, 5]);
        assert_eq!(Answer::from_bytes(answer.to_bytes()), Some(answer));
        for zero in [9, 10, 11, 20, 21, 22, 23] {
            let mut wrong = bytes;
            wrong[zero] = 1;
            assert_eq!(Offer::from_bytes(&wrong), None);
        }
        for zero in 1..4 {
            let mut wrong = answer.to_bytes();
            wrong[zero] = 1;
            assert_eq!(Answer::from_bytes(wrong), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(kind in 0u8..8, mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            let length = bytes.len();
            if parse(&bytes).is_ok() {
                prop_assert!([INITIATION_LEN, RESPONSE_LEN, COOKIE_LEN].contains(&length));
            }
        }
    }
}
