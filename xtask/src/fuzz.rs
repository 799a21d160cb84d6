//! `cargo xtask fuzz`: runs the fuzz targets of `tests/fuzz`.
//!
//! Each target starts with its seeds, which somebody chose (real packets among them), and its committed corpus, which
//! earlier runs found. What it finds beyond that is collected under `target/fuzz`, where later runs find it again. An input
//! that breaks an assertion is kept there too, and the error says how to run it again.

use std::env::consts::ARCH;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::{output, run_in_step};
use crate::packages;
use crate::progress::Step;
use crate::workspace::Workspace;

/// Manifest of the targets' package, in the work tree. It is a workspace of its own.
pub(crate) const MANIFEST: &str = "tests/fuzz/Cargo.toml";
/// The version of cargo-fuzz that the targets are built with.
const VERSION: &str = "0.13.2";
/// How long each target runs as one check of many.
const SMOKE: Duration = Duration::from_secs(4);
/// The longest that one input may take: a hang is a finding too.
const LONGEST_INPUT: Duration = Duration::from_secs(30);
/// Most files of a committed corpus.
const CORPUS_FILES: usize = 100;
/// Most bytes of a committed corpus.
const CORPUS_BYTES: u64 = 200_000;
/// Lines of a failed target's output that its error quotes.
const QUOTED_LINES: usize = 60;

/// What to fuzz, and for how long.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 600)]
    seconds: u64,
    /// Afterwards replace the committed corpora by what covers all that was found, in few and short files
    #[arg(long)]
    minimise: bool,
    /// Run this target only
    target: Option<String>,
}

/// Fuzzes what the options ask for; all of it, also after a target has failed.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let fuzzer = Fuzzer::build(workspace)?;
    let mut targets = fuzzer.targets()?;
    if let Some(wanted) = &options.target {
        targets.retain(|target| target == wanted);
        if targets.is_empty() {
            bail!("there is no fuzz target {wanted}: see {}", fuzzer.sources().display());
        }
    }
    fuzzer.run(&targets, Duration::from_secs(options.seconds), &fuzzer.found())?;
    if options.minimise { targets.iter().try_for_each(|target| fuzzer.minimise(target)) } else { Ok(()) }
}

/// Fuzzes every target for some seconds.
pub(crate) fn smoke(workspace: &Workspace) -> Result<()> {
    let fuzzer = Fuzzer::build(workspace)?;
    // Anew each time: all that was ever found on this machine would take longer.
    let found = fuzzer.target.join("smoke");
    remove(&found)?;
    fuzzer.run(&fuzzer.targets()?, SMOKE, &found)
}

/// The fuzz targets, built.
struct Fuzzer {
    /// The package of the targets.
    package: PathBuf,
    /// Where everything goes that is not committed.
    target: PathBuf,
}

impl Fuzzer {
    fn build(workspace: &Workspace) -> Result<Self> {
        let fuzzer = Self { package: workspace.root().join("tests/fuzz"), target: workspace.target().join("fuzz") };
        let cargo_fuzz = cargo_fuzz(workspace)?;
        let step = Step::start("fuzz targets");
        let mut build = Command::new(cargo_fuzz);
        // The code under test is safe Rust but for casts of plain data: assertions find more than an address sanitizer,
        // which takes half of the speed, and a compiler that brings its run-time library.
        build.args(["build", "--sanitizer", "none", "--target", &triple(), "--fuzz-dir"]).arg(&fuzzer.package);
        run_in_step(build.arg("--target-dir").arg(&fuzzer.target), &step)?;
        step.done("built");
        Ok(fuzzer)
    }

    fn sources(&self) -> PathBuf {
        self.package.join("fuzz_targets")
    }

    fn seeds(&self, target: &str) -> PathBuf {
        self.package.join("seeds").join(target)
    }

    fn committed(&self, target: &str) -> PathBuf {
        self.package.join("corpus").join(target)
    }

    /// Directories of inputs that a target starts with, as far as it has them.
    fn given(&self, target: &str) -> Vec<PathBuf> {
        [self.committed(target), self.seeds(target)].into_iter().filter(|directory| directory.is_dir()).collect()
    }

    /// Where what was found in long runs is collected, a directory for each target.
    fn found(&self) -> PathBuf {
        self.target.join("corpus")
    }

    fn binary(&self, target: &str) -> PathBuf {
        self.target.join(triple()).join("release").join(target)
    }

    /// Names of the targets, sorted.
    fn targets(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = files(&self.sources())?
            .iter()
            .filter_map(|file| Some(file.file_stem()?.to_string_lossy().into_owned()))
            .collect();
        names.sort();
        Ok(names)
    }

    fn run(&self, targets: &[String], time: Duration, found: &Path) -> Result<()> {
        let failed: Vec<String> = targets
            .iter()
            .filter_map(|target| self.run_one(target, time, &found.join(target)).err())
            .map(|error| format!("{error:#}"))
            .collect();
        if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("\n")) }
    }

    fn run_one(&self, target: &str, time: Duration, found: &Path) -> Result<()> {
        let step = Step::start("fuzz");
        step.note(&format!("{target} for {} s", time.as_secs()));
        fs::create_dir_all(found).with_context(|| format!("cannot make {}", found.display()))?;
        let mut fuzz = Command::new(self.binary(target));
        fuzz.arg(found).args(self.given(target)).args([
            format!("-max_total_time={}", time.as_secs()),
            format!("-timeout={}", LONGEST_INPUT.as_secs()),
            format!("-artifact_prefix={}/{target}-", self.target.display()),
            "-print_final_stats=1".into(),
        ]);
        let ended =
            fuzz.stdin(Stdio::null()).output().with_context(|| format!("cannot run the fuzz target {target}"))?;
        let log = String::from_utf8_lossy(&ended.stderr);
        if !ended.status.success() {
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n");
            bail!("fuzz target {target}: {}\n{end}\nagain: {} FILE", ended.status, self.binary(target).display());
        }
        let figure = |name: &str| log.lines().find_map(|line| line.strip_prefix(name)).map_or("?", str::trim);
        let executed = figure("stat::number_of_executed_units:");
        let rate = figure("stat::average_exec_per_sec:");
        step.done(&format!("{target}: {executed} inputs, {rate} a second, nothing found"));
        Ok(())
    }

    /// Writes the committed corpus anew.
    fn minimise(&self, target: &str) -> Result<()> {
        let step = Step::start("corpus");
        let (found, committed) = (self.found().join(target), self.committed(target));
        let merged = self.target.join("merged").join(target);
        remove(&merged)?;
        fs::create_dir_all(&merged).with_context(|| format!("cannot make {}", merged.display()))?;
        let mut merge = Command::new(self.binary(target));
        merge.arg("-set_cover_merge=1").args([&merged, &found]).args(self.given(target));
        run_in_step(&mut merge, &step)?;
        remove(&committed)?;
        fs::create_dir_all(&committed).with_context(|| format!("cannot make {}", committed.display()))?;
        let mut sized = Vec::new();
        for file in files(&merged)? {
            let size = fs::metadata(&file).with_context(|| format!("cannot read {}", file.display()))?.len();
            sized.push((size, file));
        }
        sized.sort();
        let (mut count, mut sum) = (0, 0);
        for (size, file) in sized {
            sum += size;
            if count == CORPUS_FILES || sum > CORPUS_BYTES {
                break;
            }
            count += 1;
            let name = file.file_name().unwrap_or_default();
            fs::copy(&file, committed.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
        }
        remove(&merged)?;
        step.done(&format!("{target}: {count} files in {}", committed.display()));
        Ok(())
    }
}

/// The path of cargo-fuzz, installed first unless it is there.
fn cargo_fuzz(workspace: &Workspace) -> Result<PathBuf> {
    packages::programs()?;
    let step = Step::start("cargo-fuzz");
    let tools = workspace.target().join("tools");
    let program = tools.join("bin/cargo-fuzz");
    if output(Command::new(&program).arg("--version")).is_ok_and(|version| version.ends_with(VERSION)) {
        step.done(VERSION);
        return Ok(program);
    }
    step.note(&format!("building {VERSION} once, about a minute"));
    let build = tools.join("build");
    let mut install = workspace.cargo();
    install.args(["install", "cargo-fuzz", "--version", VERSION, "--locked", "--force", "--root"]).arg(&tools);
    run_in_step(install.arg("--target-dir").arg(&build), &step)
        .context("cargo-fuzz comes from crates.io: is it reachable?")?;
    remove(&build)?;
    step.done(&format!("built {VERSION} into {}", tools.display()));
    Ok(program)
}

/// The target that is fuzzed: this machine.
fn triple() -> String {
    format!("{ARCH}-unknown-linux-gnu")
}

/// The files in a directory.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    entries.map(|entry| Ok(entry.with_context(|| format!("cannot read {}", directory.display()))?.path())).collect()
}

/// Removes a directory with all that is in it, if it is there.
fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}
