//! `cargo xtask bench datapath`: what the programs cost, and what the tunnel carries beside what else there is.

use anyhow::Result;
use multipath_tests::TunnelConfig;

use super::compare::Contestant;
use super::crypto::Crypto;
use super::peers::{OURS, PEERS, Peer};
use super::program_time::{LENGTHS, Times};
use super::report::Report;
use super::rig::{Rig, protect};
use super::scale::Case;
use super::{idle, report};
use crate::workspace::Workspace;

/// Uplinks of the rig.
const UPLINKS: usize = 6;
/// Paths and peers of the tunnels whose programs are timed.
const SIZES: [(usize, usize); 5] = [(2, 1), (8, 1), (16, 1), (2, 100), (2, 10_000)];
/// Peers of the tunnels whose maps are weighed.
const CAPACITIES: [usize; 3] = [16, 1_000, 10_000];

/// How to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// End standard output with one line of JSON
    #[arg(long)]
    json: bool,
    /// Length of each timed run of traffic
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// How the tunnel's packets are protected
    #[arg(long, default_value = "chacha20-poly1305", value_parser = ["chacha20-poly1305", "auth", "none"])]
    cipher: String,
    /// Repetitions, of which the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    reps: u32,
    /// Only one part of the figures
    #[arg(long)]
    only: Option<Part>,
}

/// A part of the figures.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Time of the programs
    Programs,
    /// The tunnel beside veth and VXLAN
    Compare,
    /// Sealing and opening alone, beside `OpenSSL`
    Crypto,
    /// The tunnel beside other VPNs
    Peers,
    /// Many paths and peers
    Scale,
}

/// Builds release binaries, measures and reports.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    super::prepare(workspace)?;

    let wants = |part| options.only.is_none_or(|only| only == part);
    let mut report = Report { idle: idle::check()?, ..Report::default() };
    if wants(Part::Programs) || wants(Part::Compare) {
        let mut rig = Rig::new(UPLINKS)?;
        let mut configs = [rig.configs(0, &["up0".to_owned()]), rig.configs(1, &["up1".to_owned()])];
        configs[0].iter_mut().for_each(with_xdp);
        for pair in &mut configs {
            for config in pair.iter_mut() {
                protect(config, &options.cipher);
            }
            rig.up(pair)?;
        }
        if wants(Part::Programs) {
            report.programs = programs(&rig, options)?;
        }
        if wants(Part::Compare) {
            report.contestants = compare(&rig, options)?;
        }
    }
    if wants(Part::Crypto) {
        report.crypto = Some(Crypto::measure(workspace, options.reps)?);
    }
    if wants(Part::Peers) {
        report.peers = peers(workspace, options)?;
    }
    if wants(Part::Scale) {
        report.cases = scale(options)?;
        for peers in CAPACITIES {
            report.memory.push((peers, memory(peers, &report.cases, &options.cipher)?));
        }
    }
    print!("{report}");
    if options.json {
        println!("{}", report.json());
    }
    Ok(())
}

/// On a veth, XDP is not the default.
fn with_xdp(config: &mut TunnelConfig) {
    for uplink in &mut config.uplinks {
        uplink.xdp = Some("native".to_owned());
    }
}

fn programs(rig: &Rig, options: &Options) -> Result<Vec<(u16, Times)>> {
    let ways = [Rig::tunnel(0), Rig::tunnel(1), Rig::uplink(2)];
    let mut times: Vec<(u16, Times)> = LENGTHS.map(|length| (length, Times::default())).into();
    for repetition in 1..=options.reps {
        idle::check()?;
        for (length, times) in &mut times {
            report::progress(repetition, options.reps, &format!("programs, packets of {length} bytes"));
            times.measure(rig, ways.each_ref(), *length, options.seconds)?;
        }
    }
    Ok(times)
}

fn compare(rig: &Rig, options: &Options) -> Result<Vec<Contestant>> {
    let [raw, vxlan, tunnel_xdp, tunnel] = [Rig::uplink(2), rig.vxlan(3)?, Rig::tunnel(0), Rig::tunnel(1)];
    let [raw_offloads, vxlan_offloads] = [Rig::uplink(4), rig.vxlan(5)?];
    rig.switch_offloads(&vxlan.device, false)?;
    for device in ["up4", "up5"] {
        rig.switch_offloads(device, true)?;
    }
    let mut contestants = vec![
        Contestant::new("raw", "veth pair", &raw, None),
        Contestant::new("vxlan", "kernel VXLAN over veth", &vxlan, None),
        Contestant::new("tunnel", "tunnel (TC, the default on veth)", &tunnel, Some(true)),
        Contestant::new("tunnel_no_gro", "tunnel, GRO of mp0 off", &tunnel, Some(false)),
        Contestant::new("tunnel_xdp", "tunnel, XDP ingress", &tunnel_xdp, None),
        Contestant::new("raw_offloads", "veth pair with offloads", &raw_offloads, None),
        Contestant::new("vxlan_offloads", "kernel VXLAN with offloads", &vxlan_offloads, None),
    ];
    for repetition in 1..=options.reps {
        idle::check()?;
        for contestant in &mut contestants {
            report::progress(repetition, options.reps, contestant.what);
            contestant.measure(rig, options.seconds)?;
        }
    }
    Ok(contestants)
}

/// The tunnel and other VPNs, each over a veth pair of its own as the kernel makes it, with offloads.
fn peers(workspace: &Workspace, options: &Options) -> Result<Vec<(&'static str, Option<Contestant>)>> {
    let mut rig = Rig::new(1 + PEERS.len())?;
    let mut configs = rig.configs(0, &["up0".to_owned()]);
    for config in &mut configs {
        protect(config, &options.cipher);
    }
    rig.up(&configs)?;
    rig.switch_offloads("up0", true)?;
    let mut contestants = vec![(OURS, Some(Contestant::new(OURS, "this tunnel", &Rig::tunnel(0), None)))];
    let mut running = Vec::new();
    for (uplink, (name, what)) in (1..).zip(PEERS) {
        rig.switch_offloads(&format!("up{uplink}"), true)?;
        let peer = Peer::start(name, workspace, &rig, uplink);
        contestants.push((name, peer.as_ref().map(|peer| Contestant::new(name, what, peer.way(), None))));
        running.push(peer);
    }
    for repetition in 1..=options.reps {
        idle::check()?;
        for contestant in contestants.iter_mut().filter_map(|(_, contestant)| contestant.as_mut()) {
            report::progress(repetition, options.reps, contestant.what);
            contestant.measure(&rig, options.seconds)?;
        }
    }
    Ok(contestants)
}

fn scale(options: &Options) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (paths, peers) in SIZES {
        eprintln!("  .. bringing up {paths} paths, {peers} peers");
        cases.push(Case::new(paths, peers, &options.cipher)?);
    }
    for repetition in 1..=options.reps {
        idle::check()?;
        for case in &mut cases {
            report::progress(repetition, options.reps, &format!("{} paths, {} peers", case.paths, case.peers));
            case.measure(options.seconds)?;
        }
    }
    Ok(cases)
}

/// Memory of the maps for so many peers: of a case that is there, or of a tunnel made for it.
fn memory(peers: usize, cases: &[Case], cipher: &str) -> Result<u64> {
    match cases.iter().find(|case| case.peers == peers) {
        Some(case) => Ok(case.memory),
        None => Ok(Case::new(1, peers, cipher)?.memory),
    }
}
