//! `mpvpn down`: takes a tunnel down.

use anyhow::{Result, bail};

use crate::{
    cli::{Down, Global},
    daemon,
};

/// Runs `mpvpn down`.
pub async fn down(args: &Down, global: &Global) -> Result<()> {
    if !daemon::take_down(&global.bpffs, &args.name).await? {
        bail!("there is no tunnel {}: `mpvpn status` lists those that are up", args.name);
    }
    Ok(())
}
