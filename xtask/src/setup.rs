//! `cargo xtask setup`: all that is needed before a build, a test or the demo.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::progress::duration;
use crate::toolchain::Compiler;
use crate::workspace::Workspace;
use crate::{kernel, linker, packages, toolchain};

/// What builds the eBPF object.
pub(crate) struct Toolchain {
    /// The Rust compiler.
    pub(crate) compiler: Compiler,
    /// Path of bpf-linker.
    pub(crate) linker: PathBuf,
}

/// Makes the machine ready to build and to run. The error names all that is missing, not only the first.
pub(crate) fn machine(workspace: &Workspace) -> Result<Toolchain> {
    let started = Instant::now();
    eprintln!("Setup");
    let steps = [packages::programs, kernel::check, kernel::mount_bpffs];
    let mut errors: Vec<String> =
        steps.iter().filter_map(|step| step().err()).map(|error| format!("{error:#}")).collect();
    let toolchain = toolchain(workspace).map_err(|error| errors.push(format!("{error:#}")));
    match toolchain {
        Ok(toolchain) if errors.is_empty() => {
            eprintln!("Setup ready in {}", duration(started.elapsed()));
            Ok(toolchain)
        }
        _ => bail!("this machine is not ready\n- {}", errors.join("\n- ")),
    }
}

/// Makes the machine ready to build only: this needs no special kernel.
pub(crate) fn toolchain(workspace: &Workspace) -> Result<Toolchain> {
    let (compiler, llvm) = toolchain::provide()?;
    let linker = linker::provide(workspace, &llvm)?;
    Ok(Toolchain { compiler, linker })
}
