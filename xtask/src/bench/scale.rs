//! What many paths and many peers cost.

use std::time::Duration;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use multipath_tests::TunnelConfig;
use multipath_tests::config::PeerSection;

use super::bpf::RunTimes;
use super::program_time::{EGRESS, timed};
use super::rig::{Rig, protect};
use super::sample::Sample;

/// Bytes of the inner packets.
const LENGTH: u16 = 64;
/// Flows, so that all paths are used.
const FLOWS: u32 = 16;

/// A tunnel of one size.
pub(crate) struct Case {
    /// Paths to the peer that is there.
    pub(crate) paths: usize,
    /// Peers, each with a prefix; all but one have not called yet.
    pub(crate) peers: usize,
    /// How long `mpvpn up` took until it was ready, at the slower gateway.
    pub(crate) ready_after: Duration,
    /// Kernel memory of a gateway's maps, bytes.
    pub(crate) memory: u64,
    /// Time of the egress program, nanoseconds a run.
    pub(crate) egress: Sample,
    /// Time of the TC ingress programs, nanoseconds a run, over all uplinks.
    pub(crate) ingress: Sample,
    rig: Rig,
}

impl Case {
    /// Brings a tunnel of that size up.
    pub(crate) fn new(paths: usize, peers: usize, cipher: &str) -> Result<Self> {
        let mut rig = Rig::new(paths)?;
        let uplinks: Vec<String> = (0..paths).map(|number| format!("up{number}")).collect();
        let mut configs = rig.configs(0, &uplinks);
        for config in &mut configs {
            add_peers(config, peers);
            protect(config, cipher);
        }
        let ready_after = rig.up(&configs)?;
        let memory = rig.map_memory(&Rig::tunnel(0))?;
        Ok(Self { paths, peers, ready_after, memory, egress: Sample::default(), ingress: Sample::default(), rig })
    }

    /// Measures both programs once.
    pub(crate) fn measure(&mut self, seconds: u32) -> Result<()> {
        let tunnel = Rig::tunnel(0);
        let egress = Rig::program(self.rig.gateway_a(), &tunnel, EGRESS)?;
        // All uplinks share one program.
        let ingress = Rig::program(self.rig.gateway_b(), &tunnel, "up0-tc-")?;
        let _times = RunTimes::enable()?;
        let work = || self.rig.flood(&tunnel, LENGTH, FLOWS, seconds).map(drop);
        let [egress, ingress] = timed([&egress, &ingress], work)?;
        self.egress.add(egress);
        self.ingress.add(ingress);
        Ok(())
    }
}

/// Adds peers with a prefix of 11.0.0.0/8 each, whose addresses are learned when they call, until there are `count`.
fn add_peers(config: &mut TunnelConfig, count: usize) {
    let Some(first) = config.peers.first().cloned() else { return };
    for number in 1..count as u32 {
        let [_, high, middle, low] = number.to_be_bytes();
        let mut key = [0x42; 32];
        key[..4].copy_from_slice(&number.to_le_bytes());
        config.peers.push(PeerSection {
            name: format!("p{number}"),
            public_key: STANDARD.encode(key),
            endpoints: Vec::new(),
            allowed_ips: vec![format!("11.{high}.{middle}.{low}/32")],
            cipher: first.cipher.clone(),
            preshared_key_file: None,
        });
    }
}
