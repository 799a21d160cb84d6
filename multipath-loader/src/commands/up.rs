//! `mpvpn up`.

use crate::cli::{Global, Up};

/// Runs `mpvpn up`.
///
/// # Errors
/// Always: it is not built yet.
#[expect(clippy::unused_async, reason = "the command will wait for the kernel")]
pub async fn up(_args: &Up, _global: &Global) -> anyhow::Result<()> {
    anyhow::bail!("mpvpn up is not built yet")
}
