//! `mpvpn path`.

use crate::cli::{Global, PathList, PathSet};

/// Runs `mpvpn path list`.
///
/// # Errors
/// Always: it is not built yet.
#[expect(clippy::unused_async, reason = "the command will wait for the kernel")]
pub async fn list(_args: &PathList, _global: &Global) -> anyhow::Result<()> {
    anyhow::bail!("mpvpn path list is not built yet")
}

/// Runs `mpvpn path set`.
///
/// # Errors
/// Always: it is not built yet.
#[expect(clippy::unused_async, reason = "the command will wait for the kernel")]
pub async fn set(_args: &PathSet, _global: &Global) -> anyhow::Result<()> {
    anyhow::bail!("mpvpn path set is not built yet")
}
