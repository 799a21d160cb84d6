//! What snow computes with: X25519, ChaCha20-Poly1305 and BLAKE2s of well-kept crates, with private keys that are wiped
//! when dropped, and an ephemeral key that comes from outside.

use blake2::{Blake2s256, Digest as _};
use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit as _,
    aead::{AeadInPlace as _, generic_array::GenericArray},
};
use snow::{
    Error,
    params::{CipherChoice, DHChoice, HashChoice},
    resolvers::CryptoResolver,
    types::{Cipher, Dh, Hash, Random},
};
use zeroize::Zeroizing;

/// Bytes of a Poly1305 tag.
const TAG_LEN: usize = 16;

/// What snow builds one exchange from.
pub(super) struct Primitives {
    /// 32 random bytes: the ephemeral private key.
    pub ephemeral: Zeroizing<[u8; 32]>,
}

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Ephemeral(self.ephemeral.clone())))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::<X25519>::default() as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::Blake2s).then(|| Box::<Blake2s>::default() as Box<dyn Hash>)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::ChaChaPoly).then(|| Box::<ChaChaPoly>::default() as Box<dyn Cipher>)
    }
}

/// The randomness of one exchange. Noise draws only the ephemeral key.
struct Ephemeral(Zeroizing<[u8; 32]>);

impl Random for Ephemeral {
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        if bytes.len() != self.0.len() {
            return Err(Error::Rng);
        }
        bytes.copy_from_slice(&*self.0);
        Ok(())
    }
}

#[derive(Default)]
struct X25519 {
    private: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        self.public.len()
    }

    fn priv_len(&self) -> usize {
        self.private.len()
    }

    fn set(&mut self, private: &[u8]) {
        self.private.copy_from_slice(private);
        let secret = x25519_dalek::StaticSecret::from(*self.private);
        self.public = x25519_dalek::PublicKey::from(&secret).to_bytes();
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), Error> {
        let mut private = Zeroizing::new([0; 32]);
        random.try_fill_bytes(private.as_mut())?;
        self.set(private.as_ref());
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.private.as_ref()
    }

    fn dh(&self, public: &[u8], shared: &mut [u8]) -> Result<(), Error> {
        let public: [u8; 32] = public.get(..32).and_then(|key| key.try_into().ok()).ok_or(Error::Dh)?;
        let secret = x25519_dalek::StaticSecret::from(*self.private);
        let result = secret.diffie_hellman(&x25519_dalek::PublicKey::from(public));
        // A point of low order makes the result known to everybody (RFC 7748, section 6.1).
        if !result.was_contributory() {
            return Err(Error::Dh);
        }
        shared.get_mut(..32).ok_or(Error::Dh)?.copy_from_slice(result.as_bytes());
        Ok(())
    }
}

#[derive(Default)]
struct ChaChaPoly {
    key: Zeroizing<[u8; 32]>,
}

impl ChaChaPoly {
    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(GenericArray::from_slice(self.key.as_ref()))
    }
}

/// Noise's nonce: 4 zero bytes and the counter, little-endian.
fn nonce(counter: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    bytes
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; 32]) {
        *self.key = *key;
    }

    fn encrypt(&self, counter: u64, associated: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (sealed, rest) = out.split_at_mut(plaintext.len());
        sealed.copy_from_slice(plaintext);
        let tag = self
            .cipher()
            .encrypt_in_place_detached(&nonce(counter).into(), associated, sealed)
            .expect("a handshake message is far below the 256 GiB that the cipher can seal");
        rest[..TAG_LEN].copy_from_slice(&tag);
        plaintext.len() + TAG_LEN
    }

    fn decrypt(&self, counter: u64, associated: &[u8], ciphertext: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let (sealed, tag) = ciphertext.split_last_chunk::<TAG_LEN>().ok_or(Error::Decrypt)?;
        let opened = out.get_mut(..sealed.len()).ok_or(Error::Decrypt)?;
        opened.copy_from_slice(sealed);
        self.cipher()
            .decrypt_in_place_detached(&nonce(counter).into(), associated, opened, tag.into())
            .map_err(|_| Error::Decrypt)?;
        Ok(sealed.len())
    }
}

#[derive(Default)]
struct Blake2s(Blake2s256);

impl Hash for Blake2s {
    fn name(&self) -> &'static str {
        "BLAKE2s"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = Blake2s256::new();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..self.hash_len()].copy_from_slice(&self.0.finalize_reset());
    }
}
