//! A peer whose key is known to a gateway, and who says what it likes under seals that are right: another
//! implementation of the same protocol, over snow's own primitives.

use multipath_loader::{
    config::{PublicKey, SecretKey},
    protocol::message::{Message, parse},
};
use snow::{Builder, HandshakeState};

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"mpvpn 1";
const PRESHARED_KEY: [u8; 32] = [7; 32];

/// The peer.
pub struct Insider {
    pub secret: SecretKey,
    gateway: PublicKey,
    exchange: Option<HandshakeState>,
    exchanges: u8,
}

impl Insider {
    pub fn new(secret: SecretKey, gateway: PublicKey) -> Self {
        Self { secret, gateway, exchange: None, exchanges: 0 }
    }

    /// An initiation that offers these bytes.
    pub fn initiate(&mut self, sender: u32, offer: &[u8; 24]) -> Vec<u8> {
        self.exchanges = self.exchanges.wrapping_add(1);
        let ephemeral = [self.exchanges; 32];
        let mut exchange = self
            .builder(&ephemeral)
            .remote_public_key(self.gateway.as_bytes())
            .and_then(Builder::build_initiator)
            .expect("the keys are right");
        let mut noise = [0; 120];
        let written = exchange.write_message(offer, &mut noise).expect("the offer fits");
        assert_eq!(written, noise.len());
        self.exchange = Some(exchange);
        self.address([&[1, 0, 0, 0], &sender.to_le_bytes()[..], &noise].concat())
    }

    /// The gateway answers the last initiation: what it says is authentic.
    pub fn read(&mut self, datagram: &[u8]) {
        let Ok(Message::Response { noise, .. }) = parse(datagram) else { return };
        let Some(mut exchange) = self.exchange.take() else { return };
        let mut answer = [0; 8];
        assert_eq!(exchange.read_message(noise, &mut answer), Ok(answer.len()));
        assert_eq!(answer[1..4], [0; 3]);
    }

    /// A response with this answer to an initiation of the gateway.
    pub fn answer(&mut self, initiation: &[u8], sender: u32, answer: [u8; 8]) -> Option<Vec<u8>> {
        let Ok(Message::Initiation { sender: receiver, noise, .. }) = parse(initiation) else { return None };
        self.exchanges = self.exchanges.wrapping_add(1);
        let ephemeral = [self.exchanges; 32];
        let mut exchange = self.builder(&ephemeral).build_responder().expect("the keys are right");
        let mut offer = [0; 24];
        exchange.read_message(noise, &mut offer).ok()?;
        let mut noise = [0; 56];
        let written = exchange.write_message(&answer, &mut noise).expect("the answer fits");
        assert_eq!(written, noise.len());
        let indices = [sender.to_le_bytes(), receiver.to_le_bytes()].concat();
        Some(self.address([&[2, 0, 0, 0], &indices[..], &noise].concat()))
    }

    /// Any bytes with the codes that let them in.
    pub fn address(&self, mut datagram: Vec<u8>) -> Vec<u8> {
        let key = blake3::derive_key("mpvpn 1 mac1", self.gateway.as_bytes());
        let mac1 = blake3::keyed_hash(&key, &datagram);
        datagram.extend_from_slice(&mac1.as_bytes()[..16]);
        datagram.extend_from_slice(&[0; 16]);
        datagram
    }

    fn builder<'a>(&'a self, ephemeral: &'a [u8; 32]) -> Builder<'a> {
        Builder::new(PATTERN.parse().expect("a pattern that snow knows"))
            .prologue(PROLOGUE)
            .and_then(|builder| builder.psk(2, &PRESHARED_KEY))
            .and_then(|builder| builder.local_private_key(self.secret.as_bytes()))
            .expect("nothing is set twice")
            .fixed_ephemeral_key_for_testing_only(ephemeral)
    }
}
