//! `cargo xtask bench`: figures that can be measured again.

#![expect(clippy::cast_precision_loss, reason = "measurements: counts far below 2^52 become floating-point statistics")]

mod boringtun;
mod bpf;
mod compare;
mod crypto;
mod datapath;
mod forgery;
mod handshake;
mod idle;
mod openvpn;
mod peers;
mod program_time;
mod report;
mod rig;
mod sample;
mod scale;
mod siege;

use anyhow::Result;

use crate::workspace::Workspace;

/// What to measure.
#[derive(clap::Subcommand)]
pub(crate) enum Benchmark {
    /// Cost of a packet in the programs; throughput, packet rate and round-trip time beside veth, VXLAN, `OpenVPN` and
    /// `WireGuard`; the ciphers alone; many paths and peers
    Datapath(datapath::Options),
    /// Handshakes that a gateway serves, and a flood of forged ones against a gateway with traffic
    Handshake(handshake::Options),
}

/// Measures.
pub(crate) fn run(workspace: &Workspace, benchmark: &Benchmark) -> Result<()> {
    match benchmark {
        Benchmark::Datapath(options) => datapath::run(workspace, options),
        Benchmark::Handshake(options) => handshake::run(workspace, options),
    }
}
