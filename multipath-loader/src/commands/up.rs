//! `mpvpn up`: runs a tunnel's daemon in the foreground.

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::{Result, ensure};
use nix::sys::utsname::uname;

use crate::{
    cli::{Global, Up},
    config::Config,
    daemon::{self, Options},
    dataplane::{TcHook, is_real_time},
    privileges,
    protocol::Timers,
};

/// Runs `mpvpn up`. Prints `ready` when packets can pass.
pub async fn up(args: &Up, global: &Global) -> Result<()> {
    privileges::close_process()?;
    let file = Config::path_for(&args.file);
    let config = Config::load(&file)?;
    if args.check {
        writeln!(io::stdout(), "{}: ok", file.display())?;
        return Ok(());
    }
    ensure!(
        !is_real_time(&uname()?.version().to_string_lossy()),
        "this is a PREEMPT_RT kernel, on which the packets of one processor interrupt each other: they would mix in the \
         programs' memory. Run a kernel without it"
    );
    let name = config.tunnel.name.clone();
    let tc = if args.clsact { TcHook::Clsact } else { TcHook::of_kernel()? };
    let rekey_after = args.rekey_after.map(|seconds| Duration::from_secs(seconds.into()));
    let options = Options {
        tc,
        timers: rekey_after.map_or_else(Timers::default, Timers::rekeying_after),
        state: global.state.clone(),
    };
    Box::pin(daemon::run(config, &global.bpffs, options, || {
        // Nobody may be reading: the tunnel runs all the same.
        let _ = writeln!(io::stdout(), "{name} ready");
    }))
    .await
}
