//! `mpvpn pubkey`.

use std::io::{self, Read, Write};

use anyhow::Context;
use zeroize::Zeroizing;

use crate::config::SecretKey;

/// Prints the public key of the private key on stdin.
///
/// # Errors
/// There is no key on stdin, or stdout is closed.
pub fn pubkey() -> anyhow::Result<()> {
    let mut text = Zeroizing::new(String::new());
    // A key has 44 characters; whatever is much longer is none.
    io::stdin().take(1024).read_to_string(&mut text).context("can't read a private key from stdin")?;
    let key: SecretKey = text
        .trim_ascii()
        .parse()
        .context("stdin is no private key (32 bytes in base64, as `mpvpn genkey` prints it)")?;
    writeln!(io::stdout(), "{}", key.public()).context("can't print the key")
}
