//! What one run of each program costs, by the kernel's own clock under real traffic.

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;

use super::bpf::{Hook, Object, RunTimes, Runs};
use super::rig::{Rig, Way};
use super::sample::Sample;

/// Lengths of the inner packets, bytes.
pub(crate) const LENGTHS: [u16; 3] = [64, 512, 1420];

/// How the pin of the egress program's link begins.
pub(crate) const EGRESS: &str = "egress-";

/// Times of the programs for one length of inner packets, nanoseconds a run, the taking of the time included.
#[derive(Default)]
pub(crate) struct Times {
    /// The egress program, whatever the other end receives with.
    pub(crate) egress: Sample,
    /// The XDP ingress program.
    pub(crate) ingress_xdp: Sample,
    /// The TC ingress program.
    pub(crate) ingress_tc: Sample,
    /// An XDP program that does nothing.
    pub(crate) empty_xdp: Sample,
    /// A TC program that does nothing.
    pub(crate) empty_tc: Sample,
}

impl Times {
    /// Adds what one run of `seconds` through each of three ways says: two tunnels, of which the second has no XDP, and
    /// a bare link with the empty programs at its end.
    pub(crate) fn measure(&mut self, rig: &Rig, ways: [&Way; 3], length: u16, seconds: u32) -> Result<()> {
        let [with_xdp, without_xdp, bare] = ways;
        let _times = RunTimes::enable()?;
        let flood = |way| rig.flood(way, length, 1, seconds).map(drop);

        let egress = Rig::program(rig.gateway_a(), with_xdp, EGRESS)?;
        let ingress = Rig::program(rig.gateway_b(), with_xdp, "up0-xdp-")?;
        let [egress, ingress] = timed([&egress, &ingress], || flood(with_xdp))?;
        self.egress.add(egress);
        self.ingress_xdp.add(ingress);

        let egress = Rig::program(rig.gateway_a(), without_xdp, EGRESS)?;
        let ingress = Rig::program(rig.gateway_b(), without_xdp, "up1-tc-")?;
        let [egress, ingress] = timed([&egress, &ingress], || flood(without_xdp))?;
        self.egress.add(egress);
        self.ingress_tc.add(ingress);

        let [tc, xdp] = [Object::empty_program(Hook::TcIngress)?, Object::empty_program(Hook::Xdp)?];
        let _attached = rig.gateway_b().namespace().run(|| -> Result<_> {
            let interface = if_nametoindex(bare.device.as_str()).with_context(|| format!("no {}", bare.device))?;
            Ok([tc.attach(Hook::TcIngress, interface)?, xdp.attach(Hook::Xdp, interface)?])
        })??;
        let [tc, xdp] = timed([&tc, &xdp], || flood(bare))?;
        self.empty_tc.add(tc);
        self.empty_xdp.add(xdp);
        Ok(())
    }
}

/// Mean run times of programs while `work` is done, nanoseconds.
pub(crate) fn timed<const N: usize>(programs: [&Object; N], work: impl FnOnce() -> Result<()>) -> Result<[f64; N]> {
    let read = || programs.iter().map(|program| program.runs()).collect::<Result<Vec<Runs>>>();
    let before = read()?;
    work()?;
    let after = read()?;
    let mut means = [0.0; N];
    for ((mean, before), after) in means.iter_mut().zip(before).zip(after) {
        *mean =
            after.mean_since(before).context("a program did not see a packet of the traffic that was sent for it")?;
    }
    Ok(means)
}
