//! `mpvpn reload`: has a tunnel's daemon read its file anew, and says whether it did.

use std::{
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cli::{Cli, Command, Global, Reload},
    clock,
    config::Config,
    dataplane::{Maps, Pins},
};

/// How long the daemon may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether it is done.
const PAUSE: Duration = Duration::from_millis(10);

/// Runs `mpvpn reload`. The file is checked here first, as the daemon will do it, so that its errors are seen.
pub async fn reload(args: &Reload, global: &Global) -> Result<()> {
    let name = &args.name;
    let pins = Pins::new(&global.bpffs, name);
    let maps = Maps::open(&pins.current_maps()?)?;
    let Some(daemon) = pins.daemon()? else {
        bail!("no daemon of {name} is running: `mpvpn up` starts one, which reads the file");
    };
    Config::load(&file_of(daemon)?)?;
    let sent_ns = clock::since_boot()?.as_nanos() as u64;
    kill(daemon, Signal::SIGHUP).with_context(|| format!("can't signal the daemon, process {daemon}"))?;
    let sent_at = Instant::now();
    loop {
        let tunnel = maps.tunnel()?;
        if tunnel.refused_ns >= sent_ns {
            bail!("the daemon has refused the file and goes on with what it had; its log says why");
        }
        if tunnel.configured_ns >= sent_ns {
            return Ok(());
        }
        if !pins.has_daemon() {
            bail!("the daemon has ended: its log may say why");
        }
        if sent_at.elapsed() > PATIENCE {
            bail!("the daemon, process {daemon}, has not answered within {PATIENCE:?}; its log may say why");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The file that a daemon was started with, by its command line.
fn file_of(daemon: Pid) -> Result<PathBuf> {
    let process = PathBuf::from(format!("/proc/{daemon}"));
    let read = || Ok::<_, io::Error>((fs::read(process.join("cmdline"))?, fs::read_link(process.join("cwd"))?));
    let (line, directory) = read().with_context(|| format!("can't look at the daemon, process {daemon}"))?;
    let words = line.strip_suffix(&[0]).unwrap_or(&line).split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let Command::Up(up) = Cli::try_parse_from(words.map(String::from))?.command else {
        bail!("process {daemon}, which holds the tunnel, is no daemon of mpvpn");
    };
    Ok(directory.join(Config::path_for(&up.file)))
}
