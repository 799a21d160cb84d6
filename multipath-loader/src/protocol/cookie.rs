//! Who may make a gateway compute: mac1 shows that a sender knows the gateway's public key, mac2 that it receives at
//! the address that it sends from. Both cost a hash and no multiplication on the curve.
//!
//! The construction is `WireGuard`'s (Donenfeld, NDSS 2017, section 5.4.7) with BLAKE3 in place of BLAKE2s.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, aead::AeadInPlace as _};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{
    action::Random,
    message::{MAC_LEN, Macs, NONCE_LEN, SEALED_COOKIE_LEN, write_cookie},
};
use crate::config::PublicKey;

/// BLAKE3 derive-key contexts: they name protocol, version and purpose.
const MAC1_CONTEXT: &str = "mpvpn 1 mac1";
const MAC2_CONTEXT: &str = "mpvpn 1 mac2";
const COOKIE_CONTEXT: &str = "mpvpn 1 cookie";
/// How long a gateway makes the same cookie for the same address, and how long its receiver uses it.
const LIFETIME: Duration = Duration::from_mins(2);
/// Bytes of a cookie.
const COOKIE_BYTES: usize = 16;

type Mac = [u8; MAC_LEN];
type Cookie = [u8; COOKIE_BYTES];

/// What anybody can derive from a gateway's public key: how to address it, and how it seals cookies.
pub(super) struct AddressKeys {
    mac1: [u8; 32],
    cookie: [u8; 32],
}

impl AddressKeys {
    pub(super) fn of(public_key: &PublicKey) -> Self {
        let derive = |context| blake3::derive_key(context, public_key.as_bytes());
        Self { mac1: derive(MAC1_CONTEXT), cookie: derive(COOKIE_CONTEXT) }
    }

    fn sealing(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&self.cookie.into())
    }
}

fn mac(key: &[u8; 32], bytes: &[u8]) -> Mac {
    let mut mac = Mac::default();
    blake3::Hasher::new_keyed(key).update(bytes).finalize_xof().fill(&mut mac);
    mac
}

fn mac2(cookie: &Cookie, bytes: &[u8]) -> Mac {
    mac(&blake3::derive_key(MAC2_CONTEXT, cookie), bytes)
}

/// Checks messages to this gateway, and makes its cookies.
pub(super) struct Doorkeeper {
    own: AddressKeys,
    secret: Zeroizing<[u8; 32]>,
    renewed: Option<Duration>,
}

impl Doorkeeper {
    pub(super) fn new(own: &PublicKey) -> Self {
        Self { own: AddressKeys::of(own), secret: Zeroizing::default(), renewed: None }
    }

    /// The message is meant for this gateway.
    pub(super) fn is_for_us(&self, macs: &Macs) -> bool {
        mac(&self.own.mac1, macs.body).ct_eq(macs.mac1).into()
    }

    /// The sender of the message received a cookie at `from`, at most [`LIFETIME`] ago.
    pub(super) fn is_proven(&self, now: Duration, macs: &Macs, from: SocketAddr) -> bool {
        let made = self.renewed.is_some_and(|renewed| now < renewed + LIFETIME);
        made && *macs.mac2 != [0; MAC_LEN] && mac2(&self.cookie(from), macs.body_and_mac1).ct_eq(macs.mac2).into()
    }

    /// The cookie message that answers a message of `receiver`.
    pub(super) fn cookie_message(
        &mut self,
        now: Duration,
        random: &mut dyn Random,
        receiver: u32,
        macs: &Macs,
        from: SocketAddr,
    ) -> Vec<u8> {
        if self.renewed.is_none_or(|renewed| now >= renewed + LIFETIME) {
            random.fill(self.secret.as_mut());
            self.renewed = Some(now);
        }
        let mut nonce = [0; NONCE_LEN];
        random.fill(&mut nonce);
        let mut sealed = [0; SEALED_COOKIE_LEN];
        let (cookie, tag) = sealed.split_at_mut(COOKIE_BYTES);
        cookie.copy_from_slice(&self.cookie(from));
        let made = self
            .own
            .sealing()
            .encrypt_in_place_detached(&nonce.into(), macs.mac1, cookie)
            .expect("a cookie is far below the 256 GiB that the cipher can seal");
        tag.copy_from_slice(&made);
        write_cookie(receiver, &nonce, &sealed)
    }

    fn cookie(&self, from: SocketAddr) -> Cookie {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        match from.ip().to_canonical() {
            IpAddr::V4(address) => hasher.update(&address.octets()),
            IpAddr::V6(address) => hasher.update(&address.octets()),
        };
        hasher.update(&from.port().to_le_bytes());
        let mut cookie = [0; COOKIE_BYTES];
        hasher.finalize_xof().fill(&mut cookie);
        cookie
    }
}

/// Addresses messages to a peer, and keeps the cookie that it gave.
pub(super) struct Envelope {
    peer: AddressKeys,
    cookie: Option<(Duration, Cookie)>,
    /// mac1 of the last message, until a cookie answered it.
    unanswered: Option<Mac>,
}

impl Envelope {
    pub(super) fn new(peer: &PublicKey) -> Self {
        Self { peer: AddressKeys::of(peer), cookie: None, unanswered: None }
    }

    /// Appends the authentication codes to a message.
    pub(super) fn address(&mut self, now: Duration, datagram: &mut Vec<u8>) {
        let mac1 = mac(&self.peer.mac1, datagram);
        datagram.extend_from_slice(&mac1);
        let mac2 = match self.cookie {
            Some((received, cookie)) if now < received + LIFETIME => mac2(&cookie, datagram),
            _ => [0; MAC_LEN],
        };
        datagram.extend_from_slice(&mac2);
        self.unanswered = Some(mac1);
    }

    /// Takes the cookie of a cookie message, if it answers the last message. It is in the next one.
    pub(super) fn take_cookie(&mut self, now: Duration, nonce: &[u8; NONCE_LEN], sealed: &[u8; SEALED_COOKIE_LEN]) {
        let Some(mac1) = self.unanswered else { return };
        let (mut cookie, tag) = (Cookie::default(), &sealed[COOKIE_BYTES..]);
        cookie.copy_from_slice(&sealed[..COOKIE_BYTES]);
        let opened = self.peer.sealing().decrypt_in_place_detached(nonce.into(), &mac1, &mut cookie, tag.into());
        if opened.is_ok() {
            self.cookie = Some((now, cookie));
            self.unanswered = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::message::{Message, NOISE_INITIATION_LEN, parse, write_initiation};

    struct Counting(u8);

    impl Random for Counting {
        fn fill(&mut self, bytes: &mut [u8]) {
            self.0 += 1;
            bytes.fill(self.0);
        }
    }

    const START: Duration = Duration::from_secs(1000);

    struct Ends {
        doorkeeper: Doorkeeper,
        envelope: Envelope,
        random: Counting,
        from: SocketAddr,
    }

    impl Ends {
        fn new() -> Self {
            let key = PublicKey::from([9; 32]);
            let from = "192.0.2.1:5182".parse().unwrap();
            Self { doorkeeper: Doorkeeper::new(&key), envelope: Envelope::new(&key), random: Counting(0), from }
        }

        fn message(&mut self, now: Duration) -> Vec<u8> {
            let mut datagram = write_initiation(0x0101_0101, &[3; NOISE_INITIATION_LEN]);
            self.envelope.address(now, &mut datagram);
            datagram
        }

        fn exchange_cookie(&mut self, now: Duration) {
            let datagram = self.message(now);
            let reply = self.doorkeeper.cookie_message(now, &mut self.random, 1, &macs(&datagram), self.from);
            let Ok(Message::Cookie { nonce, sealed, .. }) = parse(&reply) else { panic!("a cookie message") };
            self.envelope.take_cookie(now, nonce, sealed);
        }

        fn is_proven(&mut self, now: Duration, from: SocketAddr) -> bool {
            let datagram = self.message(now);
            self.doorkeeper.is_proven(now, &macs(&datagram), from)
        }
    }

    fn macs(datagram: &[u8]) -> Macs<'_> {
        let Ok(Message::Initiation { macs, .. }) = parse(datagram) else { panic!("an initiation") };
        macs
    }

    #[test]
    fn mac1_is_for_one_gateway_and_covers_every_byte() {
        let mut ends = Ends::new();
        let datagram = ends.message(START);
        assert!(ends.doorkeeper.is_for_us(&macs(&datagram)));
        assert!(!Doorkeeper::new(&PublicKey::from([8; 32])).is_for_us(&macs(&datagram)));
        for byte in 4..datagram.len() - MAC_LEN {
            let mut forged = datagram.clone();
            forged[byte] ^= 1;
            assert!(!ends.doorkeeper.is_for_us(&macs(&forged)), "byte {byte}");
        }
    }

    #[test]
    fn a_cookie_proves_the_address_that_it_was_sent_to() {
        let mut ends = Ends::new();
        let from = ends.from;
        assert!(!ends.is_proven(START, from));
        ends.exchange_cookie(START);
        assert!(ends.is_proven(START, from));
        assert!(!ends.is_proven(START, "192.0.2.1:5183".parse().unwrap()));
        assert!(!ends.is_proven(START, "192.0.2.2:5182".parse().unwrap()));
        assert!(ends.is_proven(START, "[::ffff:192.0.2.1]:5182".parse().unwrap()));
        let mut forged = ends.message(START);
        *forged.last_mut().unwrap() ^= 1;
        assert!(!ends.doorkeeper.is_proven(START, &macs(&forged), from));
    }

    #[test]
    fn cookies_expire_at_both_ends() {
        let mut ends = Ends::new();
        let from = ends.from;
        ends.exchange_cookie(START);
        let late = START + LIFETIME;
        assert!(ends.is_proven(late.saturating_sub(Duration::from_nanos(1)), from));
        assert_eq!(ends.message(late).last_chunk(), Some(&[0; MAC_LEN]));
        let old = ends.message(START);
        assert!(!ends.doorkeeper.is_proven(late, &macs(&old), from));
        ends.exchange_cookie(late);
        assert!(!ends.doorkeeper.is_proven(late, &macs(&old), from), "the secret was not renewed");
        assert!(ends.is_proven(late, from));
    }

    #[test]
    fn a_cookie_must_answer_the_last_message() {
        let mut ends = Ends::new();
        let (from, first) = (ends.from, ends.message(START));
        let reply = ends.doorkeeper.cookie_message(START, &mut ends.random, 1, &macs(&first), from);
        let Ok(Message::Cookie { nonce, sealed, .. }) = parse(&reply) else { panic!("a cookie message") };
        let mut forged = *sealed;
        forged[0] ^= 1;
        ends.envelope.take_cookie(START, nonce, &forged);
        assert!(!ends.is_proven(START, from), "a forged cookie was taken");
        let mut datagram = write_initiation(2, &[3; NOISE_INITIATION_LEN]);
        ends.envelope.address(START, &mut datagram);
        ends.envelope.take_cookie(START, nonce, sealed);
        assert!(!ends.is_proven(START, from), "the cookie of an earlier message was taken");
    }

    /// Frozen: both ends must agree, also across versions. BLAKE3 of the two codes.
    #[test]
    fn the_derivations_are_frozen() {
        let mut ends = Ends::new();
        ends.exchange_cookie(START);
        let datagram = ends.message(START);
        assert_eq!(blake3::hash(&datagram[128..]).to_hex().as_str(), FROZEN_MACS);
    }

    const FROZEN_MACS: &str = "6acde754bc5f31f47acfa5121820a66c25255b9b26310572ca673f819d459ebe";
}
