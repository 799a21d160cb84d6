//! bpf-linker, built once for the LLVM of the eBPF compiler and kept in `target/tools`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::{output, run_in_step};
use crate::progress::Step;
use crate::toolchain::Llvm;
use crate::workspace::Workspace;

/// The version that the object is tested with.
const VERSION: &str = "0.13.0";

/// LLVM's major versions that this bpf-linker can be built for.
const LLVM_MAJORS: std::ops::RangeInclusive<u32> = 21..=23;

/// The path of bpf-linker, built first unless the right one is there.
pub(crate) fn provide(workspace: &Workspace, llvm: &Llvm) -> Result<PathBuf> {
    let step = Step::start("bpf-linker");
    let tools = workspace.target().join("tools");
    let linker = tools.join("bin/bpf-linker");
    let feature = format!("llvm-{}", llvm.version.major);
    if is_built(&tools, &linker, &feature) {
        step.done(&format!("{VERSION} for LLVM {} in {}", llvm.version.major, tools.display()));
        return Ok(linker);
    }
    if !LLVM_MAJORS.contains(&llvm.version.major) {
        bail!(
            "bpf-linker {VERSION} cannot be built for LLVM {}: use a compiler whose LLVM is {LLVM_MAJORS:?}",
            llvm.version
        );
    }
    step.note(&format!("building {VERSION} once for LLVM {}, about a minute", llvm.version));
    let build = tools.join("build");
    let mut install = workspace.cargo();
    install
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force"])
        .args(["--no-default-features", "--features", &feature])
        .arg("--root")
        .arg(&tools)
        .arg("--target-dir")
        .arg(&build)
        .env("LLVM_PREFIX", &llvm.prefix)
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    run_in_step(&mut install, &step).context("bpf-linker comes from crates.io: is it reachable?")?;
    fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))?;
    step.done(&format!("built {VERSION} for LLVM {} into {}", llvm.version, tools.display()));
    Ok(linker)
}

/// Whether the wanted bpf-linker is in the cache and runs: cargo's record tells its features, and a
/// start fails when the libLLVM that it was linked to is gone.
fn is_built(tools: &Path, linker: &Path, feature: &str) -> bool {
    let runs = || output(Command::new(linker).arg("--version")).is_ok_and(|version| version.ends_with(VERSION));
    recorded_features(tools).is_some_and(|features| features.iter().any(|name| name == feature)) && runs()
}

fn recorded_features(tools: &Path) -> Option<Vec<Value>> {
    let record: Value = serde_json::from_slice(&fs::read(tools.join(".crates2.json")).ok()?).ok()?;
    let installs = record.get("installs")?.as_object()?;
    let name = format!("bpf-linker {VERSION} ");
    let (_, install) = installs.iter().find(|(package, _)| package.starts_with(&name))?;
    install.get("features")?.as_array().cloned()
}
