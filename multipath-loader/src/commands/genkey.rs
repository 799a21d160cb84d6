//! `mpvpn genkey`.

use std::io::{self, Write};

use anyhow::Context;
use nix::{
    libc,
    sys::stat::{SFlag, fstat},
};

use crate::config::SecretKey;

/// Prints a new private key, and warns if it goes into a file that others can read.
///
/// # Errors
/// There are no random numbers, or stdout is closed.
pub fn genkey() -> anyhow::Result<()> {
    let key = SecretKey::generate().context("the kernel gives no random numbers")?;
    print(&key.to_base64())
}

/// Prints a key, and warns if it goes into a file that others can read.
pub(super) fn print(key: &str) -> anyhow::Result<()> {
    let stdout = io::stdout();
    if let Ok(stat) = fstat(&stdout)
        && SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
        && stat.st_mode & (libc::S_IRWXG | libc::S_IRWXO) != 0
    {
        eprintln!("warning: others can read the file that the key is written to: chmod 600 it");
    }
    writeln!(stdout.lock(), "{key}").context("can't print the key")
}
