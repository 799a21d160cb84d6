//! Sealing and opening of packets, against `RustCrypto`; whatever is altered is noticed.
#![no_main]

use bytemuck::Zeroable;
use chacha20poly1305::{AeadInPlace, ChaCha20Poly1305, KeyInit};
use libfuzzer_sys::fuzz_target;
use multipath_common::{
    crypto::aead::{Aead, Direction, Packet, UNIT_LEN, UNIT_WORDS, Unit},
    wire::{HEADER_LEN, TAG_LEN},
};

/// What all steps share.
struct Seal {
    key: [u8; 32],
    header: [u8; HEADER_LEN],
    /// Bytes before the payload.
    offset: usize,
    /// The payload is encrypted, not only authenticated.
    is_secret: bool,
}

fuzz_target!(|input: &[u8]| {
    let Some((&[choice, at_low, at_high, change], rest)) = input.split_first_chunk() else { return };
    let Some((&key, rest)) = rest.split_first_chunk() else { return };
    let Some((&header, payload)) = rest.split_first_chunk() else { return };
    let mut seal = Seal { key, header, offset: usize::from(choice >> 1), is_secret: choice & 1 != 0 };

    let plain = [&vec![0xee; seal.offset][..], payload, &[0xdd; TAG_LEN]].concat();
    let mut sealed = plain.clone();
    let aead = seal.run(&mut sealed, Direction::Seal);
    let tag_at = sealed.len() - TAG_LEN;
    aead.write_tag(&mut Place(&mut sealed[tag_at..]));
    assert_eq!(sealed, seal.by_rustcrypto(&plain));

    let mut opened = sealed.clone();
    assert_eq!(seal.run(&mut opened, Direction::Open).tag_differs(), 0, "its own tag is refused");
    assert_eq!(opened[..tag_at], plain[..tag_at]);

    // One byte of header, payload or tag is another.
    let at = usize::from(u16::from_le_bytes([at_low, at_high])) % (HEADER_LEN + payload.len() + TAG_LEN);
    match seal.header.get_mut(at) {
        Some(byte) => *byte ^= change.max(1),
        None => sealed[seal.offset + at - HEADER_LEN] ^= change.max(1),
    }
    assert_ne!(seal.run(&mut sealed, Direction::Open).tag_differs(), 0, "byte {at} may be altered");
});

impl Seal {
    /// All steps but the last one, as the programs take them.
    fn run(&self, packet: &mut [u8], direction: Direction) -> Aead {
        let payload_len = packet.len() - self.offset - TAG_LEN;
        let (offset, len) = (self.offset as u32, payload_len as u32);
        let mut packet = Bytes(packet);
        let mut aead = Aead::zeroed();
        aead.start(&bytemuck::cast(self.key), bytemuck::cast(self.header));
        let place = packet.unit(offset + len).expect("the room for the tag");
        aead.keep_tag(&place);
        aead.begin(&mut packet, offset, len, if self.is_secret { 0 } else { len }).expect("all of it is there");
        if self.is_secret {
            for _ in 0..aead.encryption_steps() {
                aead.encrypt(&mut packet, direction).expect("all of it is there");
            }
        } else {
            for _ in 0..aead.authentication_steps() {
                aead.authenticate(&mut packet).expect("all of it is there");
            }
        }
        aead.finish();
        aead
    }

    fn by_rustcrypto(&self, plain: &[u8]) -> Vec<u8> {
        let cipher = ChaCha20Poly1305::new(&self.key.into());
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.header[8..16]);
        let mut packet = plain.to_vec();
        let (before_tag, tag_place) = packet.split_at_mut(plain.len() - TAG_LEN);
        let payload = &mut before_tag[self.offset..];
        let tag = if self.is_secret {
            cipher.encrypt_in_place_detached(&nonce.into(), &self.header, payload)
        } else {
            cipher.encrypt_in_place_detached(&nonce.into(), &[&self.header[..], payload].concat(), &mut [])
        };
        tag_place.copy_from_slice(&tag.expect("a packet is far below the 256 GiB that the cipher can seal"));
        packet
    }
}

/// A packet in the host's memory.
struct Bytes<'a>(&'a mut [u8]);

impl Packet for Bytes<'_> {
    type Unit<'a>
        = Place<'a>
    where
        Self: 'a;

    fn unit(&mut self, offset: u32) -> Option<Place<'_>> {
        self.0.get_mut(offset as usize..)?.get_mut(..UNIT_LEN as usize).map(Place)
    }
}

struct Place<'a>(&'a mut [u8]);

impl Unit for Place<'_> {
    fn word(&self, i: usize) -> u32 {
        assert!(i < UNIT_WORDS);
        u32::from_ne_bytes(std::array::from_fn(|byte| self.0[4 * i + byte]))
    }

    fn set_word(&mut self, i: usize, word: u32) {
        assert!(i < UNIT_WORDS);
        self.0[4 * i..][..4].copy_from_slice(&word.to_ne_bytes());
    }
}
