//! `mpvpn status`.

use crate::cli::{Global, Status};

/// Runs `mpvpn status`.
///
/// # Errors
/// Always: it is not built yet.
#[expect(clippy::unused_async, reason = "the command will wait for the kernel")]
pub async fn status(_args: &Status, _global: &Global) -> anyhow::Result<()> {
    anyhow::bail!("mpvpn status is not built yet")
}
