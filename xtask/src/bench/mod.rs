//! `cargo xtask bench`: figures that can be measured again.

#![expect(clippy::cast_precision_loss, reason = "measurements: counts far below 2^52 become floating-point statistics")]

mod aggregate;
mod boringtun;
mod bpf;
mod compare;
mod crypto;
mod datapath;
mod failover;
mod forgery;
mod handshake;
mod hub;
mod idle;
mod openvpn;
mod peers;
mod program_time;
mod report;
mod resting;
mod rig;
mod sample;
mod scale;
mod siege;

use anyhow::{Result, ensure};

use crate::command::is_root;
use crate::workspace::{Profile, Workspace};
use crate::{build, setup};

/// What to measure.
#[derive(clap::Subcommand)]
pub(crate) enum Benchmark {
    /// Cost of a packet in the programs; throughput, packet rate and round-trip time beside veth, VXLAN, `OpenVPN` and
    /// `WireGuard`; the ciphers alone; many paths and peers
    Datapath(datapath::Options),
    /// Handshakes that a gateway serves, and a flood of forged ones against a gateway with traffic
    Handshake(handshake::Options),
    /// What a stream notices of a link that fails, beside `OpenVPN` over Multipath TCP
    Failover(failover::Options),
    /// What one flow gets from all links together, beside each of them alone
    Aggregate(aggregate::Options),
    /// What a tunnel costs that carries nothing: with four paths, and with a hundred peers
    Idle(resting::Options),
}

/// Measures.
pub(crate) fn run(workspace: &Workspace, benchmark: &Benchmark) -> Result<()> {
    match benchmark {
        Benchmark::Datapath(options) => datapath::run(workspace, options),
        Benchmark::Handshake(options) => handshake::run(workspace, options),
        Benchmark::Failover(options) => failover::run(workspace, options),
        Benchmark::Aggregate(options) => aggregate::run(workspace, options),
        Benchmark::Idle(options) => resting::run(workspace, options),
    }
}

/// Makes the machine ready and builds the release binaries that the labs will run.
fn prepare(workspace: &Workspace) -> Result<()> {
    ensure!(is_root(), "the lab makes network namespaces: run `cargo xtask bench` as root");
    // SAFETY: nothing has started a thread yet that could read the environment.
    unsafe { std::env::set_var("MPVPN_BIN", workspace.mpvpn(Profile::Release)) };
    setup::machine(workspace)?;
    build::all(workspace, Profile::Release)
}
