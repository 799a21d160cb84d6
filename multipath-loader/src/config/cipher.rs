//! How packets to and from a peer are protected.

use multipath_common::maps::{CIPHER_AUTH, CIPHER_CHACHA20_POLY1305, CIPHER_NONE};

/// How packets to and from a peer are protected. Both gateways must say the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cipher {
    /// Encrypted and authenticated (RFC 8439).
    #[default]
    ChaCha20Poly1305,
    /// Authenticated by the same algorithm, but not encrypted: whoever sees the packets reads them. For traffic that is
    /// encrypted already.
    Auth,
    /// Not at all: whoever can send packets to this gateway can send into the tunnel, and whoever sees them reads them.
    None,
}

impl Cipher {
    /// All of them, the default first.
    pub const ALL: [Self; 3] = [Self::ChaCha20Poly1305, Self::Auth, Self::None];

    /// As it is written in the configuration and printed by commands.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
            Self::Auth => "auth",
            Self::None => "none",
        }
    }

    /// Its number in the maps.
    pub const fn number(self) -> u32 {
        match self {
            Self::ChaCha20Poly1305 => CIPHER_CHACHA20_POLY1305,
            Self::Auth => CIPHER_AUTH,
            Self::None => CIPHER_NONE,
        }
    }

    /// The cipher with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|cipher| cipher.number() == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back() {
        for cipher in Cipher::ALL {
            assert_eq!(Cipher::from_number(cipher.number()), Some(cipher));
        }
        assert_eq!((Cipher::from_number(0), Cipher::from_number(4)), (None, None));
    }
}
