//! boringtun, a `WireGuard` in user space that measurements compare with: built once and kept in `target/tools`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{output, run_in_step};
use crate::progress::Step;
use crate::workspace::Workspace;

/// The version that is measured.
const VERSION: &str = "0.7.1";

/// The path of `boringtun-cli`, built first unless the right one is there.
pub(crate) fn provide(workspace: &Workspace) -> Result<PathBuf> {
    let step = Step::start("boringtun");
    let tools = workspace.target().join("tools");
    let program = tools.join("bin/boringtun-cli");
    if output(Command::new(&program).arg("--version")).is_ok_and(|version| version.ends_with(VERSION)) {
        step.done(&format!("{VERSION} in {}", tools.display()));
        return Ok(program);
    }
    step.note(&format!("building {VERSION} once, about a minute"));
    let build = tools.join("boringtun-build");
    let mut install = workspace.cargo();
    install
        .args(["install", "boringtun-cli", "--version", VERSION, "--locked", "--force"])
        .arg("--root")
        .arg(&tools)
        .arg("--target-dir")
        .arg(&build);
    run_in_step(&mut install, &step).context("boringtun comes from crates.io: is it reachable?")?;
    fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))?;
    step.done(&format!("built {VERSION} into {}", tools.display()));
    Ok(program)
}
