//! `mpvpn doctor`.

use crate::cli::{Doctor, Global};

/// Runs `mpvpn doctor`.
///
/// # Errors
/// Always: it is not built yet.
#[expect(clippy::unused_async, reason = "x")]
pub async fn doctor(_args: &Doctor, _global: &Global) -> anyhow::Result<()> {
    anyhow::bail!("mpvpn doctor is not built yet")
}
