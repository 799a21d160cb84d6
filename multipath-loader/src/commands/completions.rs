//! `mpvpn completions`.

use std::io::{self, Write};

use anyhow::Context;
use clap::CommandFactory;

use crate::cli::{Cli, Completions};

/// Prints the completions of a shell.
///
/// # Errors
/// Stdout is closed.
pub fn completions(args: &Completions) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "mpvpn", &mut script);
    io::stdout().write_all(&script).context("can't print the completions")
}
