//! Keys of gateways: static ones (X25519, RFC 7748) and preshared ones, written in base64 as `wg genkey` and `wg genpsk`
//! write them.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes of a key.
const LENGTH: usize = 32;

/// Declares a type of 32 secret bytes: wiped from memory when dropped, never printed by `Debug`.
macro_rules! secret {
    ($(#[$attr:meta])* $name:ident) => {
        $(#[$attr])*
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; LENGTH]);

        impl $name {
            /// A new key from the kernel's random numbers.
            ///
            /// # Errors
            /// The kernel has none (an early boot or a forbidden system call).
            pub fn generate() -> Result<Self, getrandom::Error> {
                let mut key = Self([0; LENGTH]);
                getrandom::fill(&mut key.0)?;
                Ok(key)
            }

            /// The key as base64, wiped from memory when dropped.
            pub fn to_base64(&self) -> Zeroizing<String> {
                Zeroizing::new(STANDARD.encode(self.0))
            }

            /// The 32 bytes of the key.
            pub fn as_bytes(&self) -> &[u8; LENGTH] {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                decode(text).map(|bytes| Self(*bytes))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

secret! {
    /// A gateway's private key.
    SecretKey
}

secret! {
    /// A key that two gateways share beside their own ones, so that who breaks X25519 one day still can't read what was
    /// sent (the psk of the Noise pattern).
    PresharedKey
}

impl SecretKey {
    /// The public key that belongs to this one.
    pub fn public(&self) -> PublicKey {
        let secret = x25519_dalek::StaticSecret::from(self.0);
        PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }
}

/// A gateway's public key. `Display` and `FromStr` are base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; LENGTH]);

impl PublicKey {
    /// The 32 bytes of the key.
    pub fn as_bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }
}

impl From<[u8; LENGTH]> for PublicKey {
    fn from(bytes: [u8; LENGTH]) -> Self {
        Self(bytes)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(|bytes| Self(*bytes))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A text that is no key. It does not say the text, which may be a mistyped private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64 at all.
    #[error("a text of {characters} characters that is not base64")]
    NotBase64 {
        /// Length of the text.
        characters: usize,
    },
    /// Base64, but too few or too many bytes.
    #[error("base64 of {bytes} bytes")]
    Length {
        /// How many.
        bytes: usize,
    },
}

fn decode(text: &str) -> Result<Zeroizing<[u8; LENGTH]>, KeyError> {
    let bytes = STANDARD
        .decode(text)
        .map(Zeroizing::new)
        .map_err(|_| KeyError::NotBase64 { characters: text.chars().count() })?;
    <[u8; LENGTH]>::try_from(bytes.as_slice()).map(Zeroizing::new).map_err(|_| KeyError::Length { bytes: bytes.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7748, section 6.1: Alice's key pair.
    const ALICE_SECRET: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
    const ALICE_PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    #[test]
    fn public_key_follows_rfc_7748() {
        let secret: SecretKey = ALICE_SECRET.parse().unwrap();
        assert_eq!(secret.public().to_string(), ALICE_PUBLIC);
        assert_eq!(*secret.to_base64(), ALICE_SECRET);
    }

    #[test]
    fn debug_hides_the_secret() {
        let secret: SecretKey = ALICE_SECRET.parse().unwrap();
        assert_eq!(format!("{secret:?}"), "SecretKey(..)");
    }

    #[test]
    fn generated_keys_differ() {
        let (one, other) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        assert_ne!(one.public(), other.public());
    }

    #[test]
    fn wrong_lengths_and_alphabets_are_named() {
        assert_eq!("AAAA".parse::<PublicKey>(), Err(KeyError::Length { bytes: 3 }));
        assert_eq!("".parse::<PublicKey>(), Err(KeyError::Length { bytes: 0 }));
        assert_eq!("no key".parse::<PublicKey>(), Err(KeyError::NotBase64 { characters: 6 }));
    }
}
