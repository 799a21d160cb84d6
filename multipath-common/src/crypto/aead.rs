//! The AEAD of data packets (RFC 8439 section 2.8), in steps that a program can make a loop of.
//!
//! The header of the packet is the associated data, and the nonce is the counter in it. With `cipher = "auth"` the
//! payload is associated data too, and there is nothing to encrypt.
//!
//! Everything is done in units of 16 bytes, Poly1305's blocks. The room for the tag behind the payload lets the last
//! one be read and written as a whole.

use bytemuck::Zeroable;

use super::{
    chacha20::{BLOCK_LEN, BLOCK_WORDS, ChaCha20},
    load,
    poly1305::Poly1305,
    store,
};
use crate::wire::{HEADER_LEN, HEADER_WORDS, TAG_LEN};

/// Words of a unit.
pub const UNIT_WORDS: usize = 4;
/// Bytes of a unit.
pub const UNIT_LEN: u32 = UNIT_WORDS as u32 * 4;

/// Blocks of keystream that one step of [`Aead::encrypt`] uses.
const STEP_BLOCKS: u32 = 2;
/// Units that one step of [`Aead::authenticate`] absorbs.
const STEP_UNITS: u32 = 16;
/// Bytes of an authenticated payload that stand in one unit with the end of the header.
const BESIDE_HEADER: u32 = UNIT_LEN - HEADER_LEN as u32 % UNIT_LEN;

/// A packet.
pub trait Packet {
    /// A unit of it.
    type Unit<'a>: Unit
    where
        Self: 'a;

    /// The unit at an offset in bytes; `None` when not all of it lies in the packet.
    fn unit(&mut self, offset: u32) -> Option<Self::Unit<'_>>;
}

/// Sixteen bytes of a packet where they stand, as words in memory order.
pub trait Unit {
    /// Word `i`.
    fn word(&self, i: usize) -> u32;
    /// Replaces word `i`.
    fn set_word(&mut self, i: usize, word: u32);
}

/// What becomes of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Plaintext becomes ciphertext.
    Seal,
    /// Ciphertext becomes plaintext.
    Open,
}

/// A payload in work: [`Self::start`], [`Self::begin`], then [`Self::encrypt`] or [`Self::authenticate`] as often as
/// their number of steps says, then [`Self::finish`], and [`Self::write_tag`] or [`Self::tag_differs`].
#[derive(Clone, Zeroable)]
#[repr(C)]
pub struct Aead {
    cipher: ChaCha20,
    authenticator: Poly1305,
    header: [u32; HEADER_WORDS],
    /// The tag that came with the packet.
    received: [u32; TAG_LEN / 4],
    /// Bytes of associated data: the header, and perhaps the payload.
    associated_len: u32,
    /// Bytes of ciphertext: the payload, or none.
    secret_len: u32,
    /// Offset of the next unit in the packet.
    position: u32,
    /// Offset of the payload's end.
    end: u32,
}

impl Aead {
    /// Makes the Poly1305 key from key and nonce (RFC 8439 section 2.6), and absorbs all but the last word of the
    /// header, which is in memory order.
    #[inline(always)]
    pub fn start(&mut self, key: &[u32; 8], header: [u32; HEADER_WORDS]) {
        for (i, word) in header.into_iter().enumerate() {
            store(&mut self.header[i], word);
        }
        let [low, high] = [2, 3].map(|i| u32::from_le(load(&self.header[i])));
        self.cipher.start(key, [0, low, high]);
        let Self { cipher, authenticator, .. } = self;
        authenticator.start(|i| cipher.word(i));
        self.absorb([0, 1, 2, 3].map(|i| load(&self.header[i])));
    }

    /// Names the payload, `len` bytes at `offset`, of which `associated` are associated data: none or all. Absorbs the
    /// last word of the header and what stands in one unit with it. `None` when that does not lie in the packet.
    #[inline(always)]
    pub fn begin(&mut self, packet: &mut impl Packet, offset: u32, len: u32, associated: u32) -> Option<()> {
        store(&mut self.secret_len, len - associated);
        store(&mut self.associated_len, HEADER_LEN as u32 + associated);
        store(&mut self.end, offset + len);
        let mut beside = [0; UNIT_WORDS];
        let mut position = offset;
        if associated != 0 {
            beside = keep(words(&packet.unit(offset)?), if len < BESIDE_HEADER { len } else { BESIDE_HEADER });
            position += BESIDE_HEADER;
        }
        store(&mut self.position, position);
        self.absorb([load(&self.header[HEADER_WORDS - 1]), beside[0], beside[1], beside[2]]);
        Some(())
    }

    /// Seals or opens the next blocks. `None` when the payload does not lie in the packet.
    #[inline(always)]
    pub fn encrypt(&mut self, packet: &mut impl Packet, direction: Direction) -> Option<()> {
        for _ in 0..STEP_BLOCKS {
            if self.rest() == 0 {
                return Some(());
            }
            self.cipher.advance();
            for i in 0..BLOCK_WORDS / UNIT_WORDS {
                let (position, end) = (load(&self.position), load(&self.end));
                if position >= end {
                    return Some(());
                }
                let rest = end - position;
                let mut unit = packet.unit(position)?;
                if direction == Direction::Seal {
                    self.apply_keystream(&mut unit, i);
                }
                if rest < UNIT_LEN {
                    let last = keep(words(&unit), rest);
                    set_words(&mut unit, last);
                }
                self.absorb(words(&unit));
                if direction == Direction::Open {
                    self.apply_keystream(&mut unit, i);
                }
                store(&mut self.position, position + UNIT_LEN);
            }
        }
        Some(())
    }

    /// How often [`Self::encrypt`] is needed.
    #[inline(always)]
    pub fn encryption_steps(&self) -> u32 {
        steps(load(&self.secret_len), STEP_BLOCKS * BLOCK_LEN)
    }

    /// Absorbs the next units. `None` when the payload does not lie in the packet.
    #[inline(always)]
    pub fn authenticate(&mut self, packet: &mut impl Packet) -> Option<()> {
        for _ in 0..STEP_UNITS {
            let rest = self.rest();
            if rest == 0 {
                return Some(());
            }
            let unit = packet.unit(load(&self.position))?;
            let mut payload = words(&unit);
            if rest < UNIT_LEN {
                payload = keep(payload, rest);
            }
            self.absorb(payload);
            self.advance(UNIT_LEN);
        }
        Some(())
    }

    /// How often [`Self::authenticate`] is needed.
    #[inline(always)]
    pub fn authentication_steps(&self) -> u32 {
        steps(load(&self.associated_len) - HEADER_LEN as u32, STEP_UNITS * UNIT_LEN)
    }

    /// Absorbs the lengths, makes the tag and forgets the key.
    #[inline(always)]
    pub fn finish(&mut self) {
        let lengths = [load(&self.associated_len), 0, load(&self.secret_len), 0];
        self.authenticator.absorb(lengths, 1);
        self.authenticator.finish();
        self.cipher.wipe();
    }

    /// Puts the tag where the payload ends.
    #[inline(always)]
    pub fn write_tag(&self, unit: &mut impl Unit) {
        for i in 0..UNIT_WORDS {
            unit.set_word(i, self.authenticator.tag(i).to_le());
        }
    }

    /// Keeps the tag that came with the packet: opening overwrites it.
    #[inline(always)]
    pub fn keep_tag(&mut self, unit: &impl Unit) {
        for i in 0..UNIT_WORDS {
            store(&mut self.received[i], unit.word(i));
        }
    }

    /// Not 0 when the tag that came with the packet is not the payload's. All of it is compared, whatever differs.
    #[inline(always)]
    pub fn tag_differs(&self) -> u32 {
        let difference = |i| load(&self.received[i]) ^ self.authenticator.tag(i).to_le();
        difference(0) | difference(1) | difference(2) | difference(3)
    }

    /// Bytes of payload from the position on.
    #[inline(always)]
    fn rest(&self) -> u32 {
        load(&self.end).saturating_sub(load(&self.position))
    }

    #[inline(always)]
    fn advance(&mut self, len: u32) {
        let position = load(&self.position);
        store(&mut self.position, position + len);
    }

    #[inline(always)]
    fn absorb(&mut self, unit: [u32; UNIT_WORDS]) {
        self.authenticator.absorb(unit.map(u32::from_le), 1);
    }

    /// Adds the `i`th unit of the block of keystream.
    #[inline(always)]
    fn apply_keystream(&self, unit: &mut impl Unit, i: usize) {
        for j in 0..UNIT_WORDS {
            unit.set_word(j, unit.word(j) ^ self.cipher.word(i * UNIT_WORDS + j).to_le());
        }
    }
}

/// How often a step of so many bytes goes into a payload, rounded up.
#[expect(clippy::manual_div_ceil, reason = "that has a branch, and the verifier follows all that comes after it twice")]
#[inline(always)]
const fn steps(len: u32, step_len: u32) -> u32 {
    (len + step_len - 1) / step_len
}

#[inline(always)]
fn words(unit: &impl Unit) -> [u32; UNIT_WORDS] {
    [0, 1, 2, 3].map(|i| unit.word(i))
}

#[inline(always)]
fn set_words(unit: &mut impl Unit, words: [u32; UNIT_WORDS]) {
    for (i, word) in words.into_iter().enumerate() {
        unit.set_word(i, word);
    }
}

/// The first `len` of 16 bytes, and zeros.
#[inline(always)]
fn keep(words: [u32; UNIT_WORDS], len: u32) -> [u32; UNIT_WORDS] {
    let low_len = if len < 8 { len } else { 8 };
    let (low, high) = (mask(low_len), mask(len - low_len));
    let masks = [low as u32, (low >> 32) as u32, high as u32, (high >> 32) as u32];
    [0, 1, 2, 3].map(|i| words[i] & masks[i].to_le())
}

/// Ones in the first `len` of eight bytes.
#[inline(always)]
const fn mask(len: u32) -> u64 {
    // Shifted twice, because a shift by 64 bits is one by none.
    (1_u64 << (4 * len) << (4 * len)).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{vec, vec::Vec};

    use chacha20poly1305::{AeadInPlace as _, ChaCha20Poly1305, KeyInit as _};
    use proptest::prelude::*;

    use super::*;

    impl Packet for &mut [u8] {
        type Unit<'a>
            = &'a mut [u8]
        where
            Self: 'a;

        fn unit(&mut self, offset: u32) -> Option<&mut [u8]> {
            self.get_mut(offset as usize..)?.get_mut(..UNIT_LEN as usize)
        }
    }

    impl Unit for &mut [u8] {
        fn word(&self, i: usize) -> u32 {
            u32::from_ne_bytes(self[4 * i..][..4].try_into().unwrap())
        }

        fn set_word(&mut self, i: usize, word: u32) {
            self[4 * i..][..4].copy_from_slice(&word.to_ne_bytes());
        }
    }

    #[derive(Clone, Debug)]
    struct Case {
        key: [u8; 32],
        header: [u8; HEADER_LEN],
        before: usize,
        payload: Vec<u8>,
        is_secret: bool,
    }

    impl Case {
        /// The packet with the payload at its offset, and room for the tag.
        fn packet(&self, payload: &[u8]) -> Vec<u8> {
            let mut packet = vec![0xee; self.before];
            packet.extend_from_slice(payload);
            packet.resize(packet.len() + TAG_LEN, 0xdd);
            packet
        }

        fn run(&self, mut packet: &mut [u8], direction: Direction) -> Aead {
            let (offset, len) = (self.before as u32, self.payload.len() as u32);
            let mut aead = Aead::zeroed();
            aead.start(&bytemuck::cast(self.key), bytemuck::cast(self.header));
            let place = packet.unit(offset + len).unwrap();
            aead.keep_tag(&place);
            aead.begin(&mut packet, offset, len, if self.is_secret { 0 } else { len }).unwrap();
            if self.is_secret {
                for _ in 0..aead.encryption_steps() {
                    aead.encrypt(&mut packet, direction).unwrap();
                }
            } else {
                for _ in 0..aead.authentication_steps() {
                    aead.authenticate(&mut packet).unwrap();
                }
            }
            aead.finish();
            aead
        }

        fn seal(&self) -> Vec<u8> {
            let mut packet = self.packet(&self.payload);
            let aead = self.run(&mut packet, Direction::Seal);
            let tag_at = packet.len() - TAG_LEN;
            aead.write_tag(&mut &mut packet[tag_at..]);
            packet
        }

        /// The payload, if the tag is its own.
        fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
            let mut packet = sealed.to_vec();
            let aead = self.run(&mut packet, Direction::Open);
            (aead.tag_differs() == 0).then(|| packet[self.before..packet.len() - TAG_LEN].to_vec())
        }

        /// The same by another implementation.
        fn seal_by_rustcrypto(&self) -> Vec<u8> {
            let cipher = ChaCha20Poly1305::new(&self.key.into());
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&self.header[8..16]);
            let mut payload = self.payload.clone();
            let tag = if self.is_secret {
                cipher.encrypt_in_place_detached(&nonce.into(), &self.header, &mut payload)
            } else {
                cipher.encrypt_in_place_detached(&nonce.into(), &[&self.header[..], &payload].concat(), &mut [])
            };
            let mut packet = self.packet(&payload);
            let tag_at = packet.len() - TAG_LEN;
            packet[tag_at..].copy_from_slice(&tag.unwrap());
            packet
        }
    }

    fn cases(lens: core::ops::Range<usize>) -> impl Strategy<Value = Case> {
        (
            any::<[u8; 32]>(),
            any::<[u8; HEADER_LEN]>(),
            0..64_usize,
            prop::collection::vec(any::<u8>(), lens),
            any::<bool>(),
        )
            .prop_map(|(key, header, before, payload, is_secret)| Case {
                key,
                header,
                before,
                payload,
                is_secret,
            })
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_what_rustcrypto_seals_and_opens_again(case in cases(0..9001)) {
            let sealed = case.seal();
            prop_assert_eq!(&sealed, &case.seal_by_rustcrypto());
            prop_assert_eq!(case.open(&sealed), Some(case.payload));
        }

        #[test]
        fn a_changed_byte_is_noticed(case in cases(0..300), at: prop::sample::Index, change in 1..=u8::MAX) {
            let mut sealed = case.seal();
            let at = case.before + at.index(sealed.len() - case.before);
            sealed[at] ^= change;
            prop_assert_eq!(case.open(&sealed), None);
        }

        #[test]
        fn a_changed_header_is_noticed(mut case in cases(0..300), at in 0..HEADER_LEN, change in 1..=u8::MAX) {
            let sealed = case.seal();
            case.header[at] ^= change;
            prop_assert_eq!(case.open(&sealed), None);
        }
    }

    #[test]
    fn every_length_is_what_rustcrypto_seals() {
        for len in 0..600_u32 {
            for is_secret in [false, true] {
                let payload = (0..len).map(|i| (i * 7) as u8).collect();
                let case = Case { key: [0x5a; 32], header: [0xa5; HEADER_LEN], before: 0, payload, is_secret };
                assert_eq!(case.seal(), case.seal_by_rustcrypto(), "{len}, {is_secret}");
            }
        }
    }

    #[test]
    fn the_key_is_forgotten() {
        let case = Case { key: [0x5a; 32], header: [0; HEADER_LEN], before: 0, payload: vec![1; 100], is_secret: true };
        let aead = case.run(&mut case.packet(&case.payload), Direction::Seal);
        assert!((0..BLOCK_WORDS).all(|i| aead.cipher.word(i) == 0));
    }
}
