//! `cargo xtask build`: the eBPF object, then the workspace that embeds it.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::command::run;
use crate::progress::duration;
use crate::setup::{self, Toolchain};
use crate::workspace::{Profile, Workspace};

const TARGET: &str = "bpfel-unknown-none";

/// Builds everything, setting up the toolchain first.
pub(crate) fn all(workspace: &Workspace, profile: Profile) -> Result<()> {
    let toolchain = setup::toolchain(workspace)?;
    object(workspace, &toolchain)?;
    binaries(workspace, profile)
}

/// Builds the eBPF object into [`Workspace::bpf_object`].
pub(crate) fn object(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    let started = Instant::now();
    let mut cargo = toolchain.compiler.cargo();
    for_bpf(cargo.arg("build"), workspace, &toolchain.linker);
    run(&mut cargo).context("the eBPF crate does not build")?;

    let built = workspace.target().join("bpf-build").join(TARGET).join("release");
    let object = workspace.bpf_object();
    let verdict = if copy_changed(&built.join("multipath"), &object)? { "new" } else { "unchanged" };
    // What tests and measures the AEAD alone stands beside it.
    copy_changed(&built.join("aead"), &object.with_file_name("aead.o"))?;
    eprintln!("eBPF object {} in {}: {}", verdict, duration(started.elapsed()), object.display());
    Ok(())
}

/// Completes a cargo call with what compiles the eBPF crate for BPF. Its target directory is its own,
/// because the compiler is another one than the workspace's.
pub(crate) fn for_bpf(cargo: &mut Command, workspace: &Workspace, linker: &Path) {
    // Version 3 of the instruction set has 32-bit arithmetic and atomics that return a value.
    let flags = format!(
        "-C\u{1f}debuginfo=2\u{1f}-C\u{1f}linker={}\u{1f}-C\u{1f}link-arg=--btf\u{1f}-C\u{1f}target-cpu=v3",
        linker.display()
    );
    cargo
        .current_dir(workspace.root())
        .args(["--release", "-Z", "build-std=core", "--target", TARGET, "--package", "multipath-ebpf", "--target-dir"])
        .arg(workspace.target().join("bpf-build"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags);
}

/// Builds the workspace's binaries and libraries.
pub(crate) fn binaries(workspace: &Workspace, profile: Profile) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--workspace", "--exclude", "multipath-ebpf", "--exclude", "xtask"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    run(&mut cargo).context("the workspace does not build")
}

/// Copies a file unless the copy has that content already: a new modification time alone would make
/// cargo build the loader again. Returns whether it copied.
fn copy_changed(from: &Path, to: &Path) -> Result<bool> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    match fs::read(to) {
        Ok(old) if old == new => return Ok(false),
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot read {}", to.display()));
        }
        _ => {}
    }
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    fs::write(to, new).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(true)
}
