//! `mpvpn doctor`: whether this machine can run a tunnel, and what to do if not.
//!
//! Reading the machine and judging what was read are apart: the judging functions take facts and give checks.

mod check;
mod gateway;
mod machine;
mod uplink;

use std::io::{self, Write};

use anyhow::Context;

use self::check::{Check, Verdict};
use crate::{
    cli::{Doctor, Global},
    config::Config,
};

/// Runs `mpvpn doctor`.
///
/// # Errors
/// A check failed, or stdout is closed.
pub async fn doctor(args: &Doctor, global: &Global) -> anyhow::Result<()> {
    let mut checks = machine::check(&global.bpffs);
    if let Some(file) = &args.file {
        match Config::load(&Config::path_for(file)) {
            Ok(config) => {
                let found = format!("uplinks: {}, peers: {}", config.uplinks.len(), config.peers.len());
                checks.push(Check::ok("configuration", found));
                checks.extend(gateway::check(&config, &global.bpffs).await);
            }
            Err(error) => {
                let found = format!("{:#}", anyhow::Error::new(error));
                checks.push(Check::fail("configuration", found, "correct the file"));
            }
        }
    }
    let mut stdout = io::stdout().lock();
    let printed = if args.json { check::print_json(&checks, &mut stdout) } else { check::print(&checks, &mut stdout) };
    printed.and_then(|()| stdout.flush()).context("can't print the checks")?;
    match check::count(&checks, Verdict::Fail) {
        0 => Ok(()),
        1 => anyhow::bail!("1 check failed"),
        failed => anyhow::bail!("{failed} checks failed"),
    }
}
