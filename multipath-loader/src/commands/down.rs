//! `mpvpn down`.

use crate::cli::{Down, Global};

/// Runs `mpvpn down`.
///
/// # Errors
/// Always: it is not built yet.
#[expect(clippy::unused_async, reason = "the command will wait for the kernel")]
pub async fn down(_args: &Down, _global: &Global) -> anyhow::Result<()> {
    anyhow::bail!("mpvpn down is not built yet")
}
