//! `cargo xtask vm`: runs a command under another kernel, in a virtual machine.
//!
//! The kernel is Debian's, the user space is this machine's: the guest sees its files, and what it writes is gone at the end. It has
//! no network but what a command makes in it. It is emulated, so it needs no processor that can do it, and everything takes
//! some ten times longer.

mod initramfs;
mod kernel;
mod machine;

use std::ffi::OsStr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use self::kernel::Kernel;
use self::machine::Machine;
use crate::command::{output, shell_words};
use crate::test::lab;
use crate::workspace::{Profile, Workspace};
use crate::{build, packages};

/// What to run, and under which kernel.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The kernel's version, or how it begins: one of this Debian release or of its backports
    #[arg(long, value_name = "VERSION", default_value = "6.1")]
    kernel: String,
    /// Run the lab tests of this target, instead of a command
    #[arg(long, value_name = "NAME", default_value = "playout")]
    test: String,
    /// Only those tests whose names contain this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// The longest that it may take, seconds
    #[arg(long, value_name = "N", default_value_t = 900)]
    seconds: u64,
    /// The command and its arguments, for the work tree's directory
    #[arg(last = true, conflicts_with_all = ["test", "filter"])]
    command: Vec<String>,
}

/// Runs the command or the tests; the exit code is theirs.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    packages::virtual_machine()?;
    let command = if options.command.is_empty() {
        build::all(workspace, Profile::Debug)?;
        test_command(workspace, options)?
    } else {
        shell_words(&options.command)
    };
    let kernel = Kernel::provide(workspace, &options.kernel)?;
    let machine = Machine { workspace, kernel: &kernel, longest: Duration::from_secs(options.seconds) };
    machine.run(&command).map(ExitCode::from)
}

/// The command line that runs a target of the lab's tests, which is built here.
fn test_command(workspace: &Workspace, options: &Options) -> Result<String> {
    let mut cargo = lab(workspace, Profile::Debug);
    cargo.args(["--no-run", "--message-format", "json", "--test", &options.test]);
    let messages = output(&mut cargo)?;
    let program = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Artifact>(line).ok())
        .find_map(|artifact| artifact.executable)
        .with_context(|| format!("cargo made no test {}", options.test))?;
    let mut words = vec!["env".to_owned()];
    for (name, value) in cargo.get_envs() {
        if let (Some(name), Some(value)) = (name.to_str(), value.and_then(OsStr::to_str)) {
            words.push(format!("{name}={value}"));
        }
    }
    words.extend([program, "--test-threads=1".into()]);
    words.extend(options.filter.clone());
    Ok(shell_words(&words))
}

/// What cargo says of a thing that it made.
#[derive(Deserialize)]
struct Artifact {
    executable: Option<String>,
}

/// The path of the program as text: what a command line is made of.
fn text(path: &std::path::Path) -> Result<&str> {
    let Some(text) = path.to_str() else {
        bail!("{} is no text", path.display());
    };
    Ok(text)
}
