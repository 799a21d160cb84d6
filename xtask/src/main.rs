//! Developer tasks of the repository, called as `cargo xtask TASK`.

mod attempts;
mod bench;
mod boringtun;
mod budget;
mod build;
mod command;
mod demo;
mod fuzz;
mod kernel;
mod leftovers;
mod linker;
mod packages;
mod progress;
mod setup;
mod test;
mod toolchain;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::{Profile, Workspace};

/// Sets up, builds, tests and shows mpvpn.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install all that building, testing and the demo need; safe to repeat
    Setup,
    /// Build the eBPF object, then the workspace with the object embedded in `mpvpn`
    Build {
        /// Optimised binaries, as for the demo and benchmarks
        #[arg(long)]
        release: bool,
    },
    /// Show it: three unequal links, one tunnel, 32 TCP flows, a weight change, a cut link
    Demo(demo::Options),
    /// Run every check: format, lints, documentation, host tests, lab tests
    Test(test::Options),
    /// Fuzz every parser that sees bytes from the network or a user's file
    Fuzz(fuzz::Options),
    /// Measure: see `docs/measurements.md`
    #[command(subcommand)]
    Bench(bench::Benchmark),
    /// Compare the verified instructions of each eBPF program with the committed budget
    Budget {
        /// Write a new budget from what the kernel's verifier counts now
        #[arg(long)]
        update: bool,
    },
    /// Run a command or lab tests under another kernel, in a virtual machine
    Vm(vm::Options),
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find();
    match task {
        Task::Setup => setup::machine(&workspace).map(drop),
        Task::Build { release } => build::all(&workspace, Profile::from_release(release)),
        Task::Demo(options) => demo::run(&workspace, &options),
        Task::Test(options) => test::run(&workspace, &options),
        Task::Fuzz(options) => fuzz::run(&workspace, &options),
        Task::Bench(benchmark) => bench::run(&workspace, &benchmark),
        Task::Budget { update } => budget::check(&workspace, update),
        Task::Vm(options) => return vm::run(&workspace, &options),
    }
    .map(|()| ExitCode::SUCCESS)
}
