//! `mpvpn up`: runs a tunnel's daemon in the foreground.

use std::io::{self, Write};

use anyhow::Result;

use crate::{
    cli::{Global, Up},
    config::Config,
    daemon,
    dataplane::TcHook,
};

/// Runs `mpvpn up`. Prints `ready` when packets can pass.
pub async fn up(args: &Up, global: &Global) -> Result<()> {
    let file = Config::path_for(&args.file);
    let config = Config::load(&file)?;
    if args.check {
        writeln!(io::stdout(), "{}: ok", file.display())?;
        return Ok(());
    }
    let name = config.tunnel.name.clone();
    let tc = if args.clsact { TcHook::Clsact } else { TcHook::of_kernel()? };
    daemon::run(config, &global.bpffs, tc, || {
        // Nobody may be reading: the tunnel runs all the same.
        let _ = writeln!(io::stdout(), "{name} ready");
    })
    .await
}
