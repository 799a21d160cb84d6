//! The key exchange: `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` (The Noise Protocol Framework, revision 34) over snow.

use std::sync::LazyLock;

use snow::{Builder, HandshakeState, params::NoiseParams};
use zeroize::Zeroizing;

use super::{
    message::{ANSWER_LEN, NOISE_INITIATION_LEN, NOISE_RESPONSE_LEN, OFFER_LEN},
    primitives::Primitives,
};
use crate::config::{PublicKey, SecretKey};

/// Binds the exchange to this protocol and its version.
const PROLOGUE: &[u8] = b"mpvpn 1";
/// Where the preshared key is mixed in: at the end of the second message.
const PSK_POSITION: u8 = 2;

static PARAMS: LazyLock<NoiseParams> = LazyLock::new(|| {
    "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s".parse().expect("snow knows the pattern and its primitives")
});

/// A Noise message that is forged, damaged, or meant for other keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an authentic message of the key exchange")]
pub(super) struct NotAuthentic;

impl From<snow::Error> for NotAuthentic {
    fn from(_: snow::Error) -> Self {
        Self
    }
}

/// The keys of a session, one for each direction.
pub(super) struct Keys {
    pub send: Zeroizing<[u8; 32]>,
    pub receive: Zeroizing<[u8; 32]>,
}

impl Keys {
    /// Noise's `Split()`: its first key is the initiator's to send with.
    fn split(state: &mut HandshakeState) -> Self {
        let is_initiator = state.is_initiator();
        let (first, second) = state.dangerously_get_raw_split();
        let (first, second) = (Zeroizing::new(first), Zeroizing::new(second));
        if is_initiator { Self { send: first, receive: second } } else { Self { send: second, receive: first } }
    }
}

/// An exchange that this gateway began.
pub(super) struct Initiated(Box<HandshakeState>);

/// Begins an exchange with `remote`. `ephemeral` are 32 bytes that nobody else can predict and that are used once.
pub(super) fn initiate(
    secret: &SecretKey,
    remote: &PublicKey,
    preshared_key: &[u8; 32],
    ephemeral: Zeroizing<[u8; 32]>,
    offer: &[u8; OFFER_LEN],
) -> Result<(Initiated, [u8; NOISE_INITIATION_LEN]), NotAuthentic> {
    let mut state = initiator(PROLOGUE, secret.as_bytes(), remote.as_bytes(), preshared_key, ephemeral)?;
    let mut message = [0; NOISE_INITIATION_LEN];
    state.write_message(offer, &mut message)?;
    Ok((Initiated(state), message))
}

impl Initiated {
    /// Opens the answer. After a forged one the exchange goes on; after an authentic one it is over.
    pub(super) fn open(
        &mut self,
        message: &[u8; NOISE_RESPONSE_LEN],
    ) -> Result<([u8; ANSWER_LEN], Keys), NotAuthentic> {
        let mut answer = [0; ANSWER_LEN];
        self.0.read_message(message, &mut answer)?;
        Ok((answer, Keys::split(&mut self.0)))
    }
}

/// An exchange that a peer began.
pub(super) struct Opened {
    state: Box<HandshakeState>,
    /// Who did.
    pub remote: PublicKey,
    /// What it offers.
    pub offer: [u8; OFFER_LEN],
}

/// Opens the first message: two multiplications on the curve. Authentic in the sense of the pattern: whoever made it
/// has the private key of `remote`, but may have made it long ago.
pub(super) fn open(
    secret: &SecretKey,
    ephemeral: Zeroizing<[u8; 32]>,
    message: &[u8; NOISE_INITIATION_LEN],
) -> Result<Opened, NotAuthentic> {
    let mut state = responder(PROLOGUE, secret.as_bytes(), ephemeral)?;
    let mut offer = [0; OFFER_LEN];
    state.read_message(message, &mut offer)?;
    let remote = state.get_remote_static().ok_or(NotAuthentic)?;
    let remote = PublicKey::from(<[u8; 32]>::try_from(remote).map_err(|_| NotAuthentic)?);
    Ok(Opened { state, remote, offer })
}

impl Opened {
    /// Answers, and has the keys.
    pub(super) fn answer(
        mut self,
        preshared_key: &[u8; 32],
        answer: [u8; ANSWER_LEN],
    ) -> Result<([u8; NOISE_RESPONSE_LEN], Keys), NotAuthentic> {
        self.state.set_psk(PSK_POSITION.into(), preshared_key)?;
        let mut message = [0; NOISE_RESPONSE_LEN];
        self.state.write_message(&answer, &mut message)?;
        Ok((message, Keys::split(&mut self.state)))
    }
}

fn initiator(
    prologue: &[u8],
    secret: &[u8; 32],
    remote: &[u8; 32],
    preshared_key: &[u8; 32],
    ephemeral: Zeroizing<[u8; 32]>,
) -> Result<Box<HandshakeState>, snow::Error> {
    let builder = Builder::with_resolver(PARAMS.clone(), Box::new(Primitives { ephemeral }));
    let builder = builder.prologue(prologue)?.local_private_key(secret)?;
    builder.remote_public_key(remote)?.psk(PSK_POSITION, preshared_key)?.build_initiator().map(Box::new)
}

fn responder(
    prologue: &[u8],
    secret: &[u8; 32],
    ephemeral: Zeroizing<[u8; 32]>,
) -> Result<Box<HandshakeState>, snow::Error> {
    let builder = Builder::with_resolver(PARAMS.clone(), Box::new(Primitives { ephemeral }));
    builder.prologue(prologue)?.local_private_key(secret)?.build_responder().map(Box::new)
}

#[cfg(test)]
mod tests {
    use chacha20poly1305::{
        ChaCha20Poly1305, KeyInit as _,
        aead::{AeadInPlace as _, generic_array::GenericArray},
    };
    use serde::Deserialize;

    use super::*;

    /// One vector of snow's `tests/vectors/cacophony.txt` (github.com/mcginty/snow, commit
    /// 8ac60f51cfe3e010c84f0a454cc575ad9204fa12), which comes from github.com/centromere/cacophony.
    const VECTOR: &str = include_str!("noise_ikpsk2_cacophony.json");

    #[derive(Deserialize)]
    struct Vector {
        protocol_name: String,
        init_prologue: String,
        init_psks: [String; 1],
        init_static: String,
        init_ephemeral: String,
        init_remote_static: String,
        resp_static: String,
        resp_ephemeral: String,
        handshake_hash: String,
        messages: Vec<VectorMessage>,
    }

    #[derive(Deserialize)]
    struct VectorMessage {
        payload: String,
        ciphertext: String,
    }

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    fn key(hex: &str) -> [u8; 32] {
        bytes(hex).try_into().unwrap()
    }

    #[test]
    fn cacophony_vector() {
        let vector: Vector = serde_json::from_str(VECTOR).unwrap();
        assert_eq!(vector.protocol_name, PARAMS.name);
        let (prologue, psk) = (bytes(&vector.init_prologue), key(&vector.init_psks[0]));
        let mut one = initiator(
            &prologue,
            &key(&vector.init_static),
            &key(&vector.init_remote_static),
            &psk,
            Zeroizing::new(key(&vector.init_ephemeral)),
        )
        .unwrap();
        let mut other =
            responder(&prologue, &key(&vector.resp_static), Zeroizing::new(key(&vector.resp_ephemeral))).unwrap();
        other.set_psk(PSK_POSITION.into(), &psk).unwrap();
        for (number, message) in vector.messages[..2].iter().enumerate() {
            let (from, to) = if number == 0 { (&mut one, &mut other) } else { (&mut other, &mut one) };
            let (mut sealed, mut opened) = ([0; 256], [0; 256]);
            let length = from.write_message(&bytes(&message.payload), &mut sealed).unwrap();
            assert_eq!(sealed[..length], bytes(&message.ciphertext));
            let length = to.read_message(&sealed[..length], &mut opened).unwrap();
            assert_eq!(opened[..length], bytes(&message.payload));
        }
        assert_eq!(one.get_handshake_hash(), bytes(&vector.handshake_hash));
        assert_eq!(other.get_handshake_hash(), bytes(&vector.handshake_hash));
        let (one, other) = (Keys::split(&mut one), Keys::split(&mut other));
        assert_eq!((&one.send, &one.receive), (&other.receive, &other.send));
        for (number, message) in vector.messages[2..].iter().enumerate() {
            let key = if number % 2 == 0 { &one.send } else { &one.receive };
            let mut nonce = [0; 12];
            nonce[4] = (number / 2) as u8;
            let cipher = ChaCha20Poly1305::new(GenericArray::from_slice(key.as_ref()));
            let mut sealed = bytes(&message.payload);
            let tag = cipher.encrypt_in_place_detached(&nonce.into(), &[], &mut sealed).unwrap();
            sealed.extend_from_slice(&tag);
            assert_eq!(sealed, bytes(&message.ciphertext));
        }
        assert_eq!(vector.messages.len(), 6);
    }

    struct Pair {
        one: SecretKey,
        other: SecretKey,
    }

    impl Pair {
        fn new() -> Self {
            Self { one: SecretKey::generate().unwrap(), other: SecretKey::generate().unwrap() }
        }

        fn initiate(&self, psk: &[u8; 32]) -> (Initiated, [u8; NOISE_INITIATION_LEN]) {
            initiate(&self.one, &self.other.public(), psk, Zeroizing::new([5; 32]), &[7; OFFER_LEN]).unwrap()
        }

        fn open(&self, message: &[u8; NOISE_INITIATION_LEN]) -> Result<Opened, NotAuthentic> {
            open(&self.other, Zeroizing::new([6; 32]), message)
        }
    }

    #[test]
    fn both_ends_have_the_same_keys() {
        let pair = Pair::new();
        let (mut initiated, first) = pair.initiate(&[1; 32]);
        let opened = pair.open(&first).unwrap();
        assert_eq!((opened.remote, opened.offer), (pair.one.public(), [7; OFFER_LEN]));
        let (second, theirs) = opened.answer(&[1; 32], [8; ANSWER_LEN]).unwrap();
        let (answer, ours) = initiated.open(&second).unwrap();
        assert_eq!(answer, [8; ANSWER_LEN]);
        assert_eq!((&ours.send, &ours.receive), (&theirs.receive, &theirs.send));
        assert_ne!(ours.send, ours.receive);
    }

    #[test]
    fn forged_messages_are_refused_and_the_exchange_goes_on() {
        let pair = Pair::new();
        let (mut initiated, first) = pair.initiate(&[1; 32]);
        for byte in 0..first.len() {
            let mut forged = first;
            forged[byte] ^= 1;
            assert!(pair.open(&forged).is_err());
        }
        let (second, _) = pair.open(&first).unwrap().answer(&[1; 32], [8; ANSWER_LEN]).unwrap();
        for byte in 0..second.len() {
            let mut forged = second;
            forged[byte] ^= 1;
            assert!(initiated.open(&forged).is_err());
        }
        assert!(initiated.open(&second).is_ok());
        assert!(initiated.open(&second).is_err());
    }

    #[test]
    fn another_preshared_key_is_noticed_by_the_initiator() {
        let pair = Pair::new();
        let (mut initiated, first) = pair.initiate(&[1; 32]);
        let (second, _) = pair.open(&first).unwrap().answer(&[2; 32], [8; ANSWER_LEN]).unwrap();
        assert!(initiated.open(&second).is_err());
    }

    /// RFC 7748, section 6.1: a public key of low order gives the all-zero value, which both ends must refuse.
    #[test]
    fn keys_of_low_order_are_refused() {
        let pair = Pair::new();
        let (_, mut first) = pair.initiate(&[0; 32]);
        first[..32].fill(0);
        assert!(pair.open(&first).is_err());
        let zero = PublicKey::from([0; 32]);
        assert!(initiate(&pair.one, &zero, &[0; 32], Zeroizing::new([5; 32]), &[7; OFFER_LEN]).is_err());
    }
}
