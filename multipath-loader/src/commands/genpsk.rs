//! `mpvpn genpsk`.

use anyhow::Context;

use super::genkey::print;
use crate::config::PresharedKey;

/// Prints a new preshared key, and warns if it goes into a file that others can read.
///
/// # Errors
/// There are no random numbers, or stdout is closed.
pub fn genpsk() -> anyhow::Result<()> {
    let key = PresharedKey::generate().context("the kernel gives no random numbers")?;
    print(&key.to_base64())
}
