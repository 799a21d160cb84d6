//! `cargo xtask bench`: figures that can be measured again.

#![expect(clippy::cast_precision_loss, reason = "measurements: counts far below 2^52 become floating-point statistics")]

mod bpf;
mod compare;
mod datapath;
mod idle;
mod program_time;
mod report;
mod rig;
mod sample;
mod scale;

use anyhow::Result;

use crate::workspace::Workspace;

/// What to measure.
#[derive(clap::Subcommand)]
pub(crate) enum Benchmark {
    /// Cost of a packet in the programs; throughput, packet rate and round-trip time beside veth and VXLAN; many paths and peers
    Datapath(datapath::Options),
}

/// Measures.
pub(crate) fn run(workspace: &Workspace, benchmark: &Benchmark) -> Result<()> {
    match benchmark {
        Benchmark::Datapath(options) => datapath::run(workspace, options),
    }
}
