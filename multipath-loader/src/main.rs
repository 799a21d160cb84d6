//! `mpvpn`: parses the command line and runs the command.

use std::{
    alloc::System,
    error::Error,
    io::{self, IsTerminal},
    process::ExitCode,
};

use clap::Parser;
use multipath_loader::{cli::Cli, commands};
use tracing_subscriber::EnvFilter;
use zeroizing_alloc::ZeroAlloc;

/// Memory is zeroed when it is given back: snow keeps what session keys are derived from in plain structs.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

// One thread: capabilities are each thread's own, and the data plane has the other CPUs.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    start_tracing(cli.global.verbose);
    match commands::run(&cli).await {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has read enough, as in `mpvpn status | head -1`.
        Err(error) if error.chain().any(is_broken_pipe) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Sends events to stderr, from the level that `verbose` or `RUST_LOG` says.
fn start_tracing(verbose: u8) {
    let level = match verbose {
        0 => "warn,multipath_loader=info",
        1 => "info,multipath_loader=debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
