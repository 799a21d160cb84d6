//! `cargo xtask test`: every check, one after the other, with a summary at the end.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::command::{is_root, run as execute};
use crate::progress::duration;
use crate::workspace::{Profile, Workspace};
use crate::{attempts, build, fuzz, leftovers, setup};

/// What to test.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave the lab tests out
    #[arg(long)]
    fast: bool,
    /// Run only the tests whose name contains this, and no other check
    filter: Option<String>,
}

/// Runs the checks that the options ask for; all of them, also after one has failed.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let toolchain = setup::machine(workspace)?;
    let mut report = Report::default();
    report.check("eBPF object", || build::object(workspace, &toolchain));
    report.check("workspace", || build::binaries(workspace, Profile::Debug));
    if report.has_failed() {
        return report.close();
    }

    if options.filter.is_none() {
        report.check("format", || {
            execute(workspace.cargo().args(["fmt", "--all", "--check"]))?;
            execute(workspace.cargo().args(["fmt", "--check", "--manifest-path", fuzz::MANIFEST]))
        });
        report.check("lints", || {
            let mut clippy = workspace.cargo();
            clippy.args(["clippy", "--workspace", "--exclude", "multipath-ebpf", "--all-targets"]);
            execute(clippy.args(["--", "-D", "warnings"]))
        });
        report.check("lints of the eBPF crate", || {
            let mut clippy = toolchain.compiler.clippy();
            build::for_bpf(&mut clippy, workspace, &toolchain.linker);
            // The host's clippy has linted the shared crate.
            execute(clippy.args(["--no-deps", "--", "-D", "warnings"]))
        });
        report.check("lints of the fuzz targets", || {
            let mut clippy = workspace.cargo();
            clippy.args(["clippy", "--manifest-path", fuzz::MANIFEST, "--target-dir"]).arg(workspace.target());
            execute(clippy.args(["--", "-D", "warnings"]))
        });
        report.check("documentation", || {
            let mut doc = workspace.cargo();
            doc.args(["doc", "--workspace", "--exclude", "multipath-ebpf", "--no-deps"]);
            execute(doc.env("RUSTDOCFLAGS", "-D warnings"))
        });
    }

    if options.filter.is_none() {
        report.check("fuzzing, for some seconds", || fuzz::smoke(workspace));
    }
    let filter = options.filter.as_deref();
    report.check("host tests", || {
        let mut tests = workspace.cargo();
        tests.args([
            "test",
            "--no-fail-fast",
            "--workspace",
            "--exclude",
            "multipath-ebpf",
            "--exclude",
            "multipath-tests",
        ]);
        execute(tests.args(filter))
    });
    if !options.fast {
        let mpvpn = workspace.mpvpn(Profile::Debug);
        let before = leftovers::present(&mpvpn);
        let of_all: Vec<&str> = ["--test-threads=1"].into_iter().chain(filter).collect();
        let mut second = Vec::new();
        report.check("lab tests", || attempts::run(|| lab(workspace, Profile::Debug), &of_all, &mut second));
        report.second = second;
        report.check("nothing left behind", || {
            let left: Vec<String> = leftovers::present(&mpvpn).difference(&before).cloned().collect();
            if left.is_empty() { Ok(()) } else { bail!("the lab tests left behind:\n{}", left.join("\n")) }
        });
    }
    report.close()
}

/// A `cargo test` of the lab's package, whose tests need root and the binary under test.
pub(crate) fn lab(workspace: &Workspace, profile: Profile) -> Command {
    let mut cargo = workspace.cargo();
    cargo
        .args(["test", "--no-fail-fast", "--package", "multipath-tests"])
        .env("MPVPN_BIN", workspace.mpvpn(profile))
        // The tests' errors say what happened where; a backtrace of each hides that.
        .env("RUST_LIB_BACKTRACE", "0");
    if !is_root() {
        cargo.args(["--config", "target.'cfg(target_os = \"linux\")'.runner = 'sudo --preserve-env'"]);
    }
    cargo
}

/// The checks so far.
#[derive(Default)]
struct Report {
    /// In order: name, time, and error if it failed.
    checks: Vec<(&'static str, Duration, Option<anyhow::Error>)>,
    /// Tests that have failed once and then passed.
    second: Vec<String>,
}

impl Report {
    fn check(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) {
        println!("\n=== {name}");
        let started = Instant::now();
        let error = work().err();
        if let Some(error) = &error {
            println!("{error:#}");
        }
        let verdict = if error.is_none() { "ok" } else { "FAILED" };
        println!("=== {name}: {verdict} in {}", duration(started.elapsed()));
        self.checks.push((name, started.elapsed(), error));
    }

    fn has_failed(&self) -> bool {
        self.checks.iter().any(|(_, _, error)| error.is_some())
    }

    /// Prints the summary; fails when a check has failed.
    fn close(self) -> Result<()> {
        println!("\n=== Summary");
        for (name, time, error) in &self.checks {
            println!("{:6} {name} ({})", if error.is_none() { "ok" } else { "FAILED" }, duration(*time));
        }
        for name in &self.second {
            println!("       ok at the second attempt: {name}");
        }
        let failed: Vec<&str> =
            self.checks.iter().filter(|(_, _, error)| error.is_some()).map(|(name, ..)| *name).collect();
        println!("checks: {} passed, {} failed", self.checks.len() - failed.len(), failed.len());
        if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
    }
}
