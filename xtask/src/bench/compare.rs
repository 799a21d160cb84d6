//! The tunnel beside a bare veth pair and the kernel's VXLAN, measured in turns in one run.

use anyhow::Result;

use super::rig::{Rig, Way};
use super::sample::Sample;

/// Bytes of the packets whose rate is measured: IPv4 and UDP headers and payload.
const SMALL_PACKET: u16 = 64;
/// Echo requests of one measurement of the round-trip time.
const REQUESTS: u32 = 500;

/// One way from a to b under comparison.
pub(crate) struct Contestant {
    /// Its name in the report.
    pub(crate) name: &'static str,
    /// What it is.
    pub(crate) what: &'static str,
    way: Way,
    /// Generic receive offload of the device, where it is switched for this contestant.
    gro: Option<bool>,
    /// Goodput of one TCP flow with CUBIC, Mbit/s.
    pub(crate) tcp_mbps: Sample,
    /// Packets of [`SMALL_PACKET`] bytes that arrive at the socket, a second.
    pub(crate) pps: Sample,
    /// The same packets as they are sent: what the path takes, where the receiver's socket is slower.
    pub(crate) sent_pps: Sample,
    /// Median round-trip time of an echo request, microseconds.
    pub(crate) rtt_us: Sample,
}

impl Contestant {
    /// A contestant that has not been measured.
    pub(crate) fn new(name: &'static str, what: &'static str, way: &Way, gro: Option<bool>) -> Self {
        let [tcp_mbps, pps, sent_pps, rtt_us] = Default::default();
        Self { name, what, way: way.clone(), gro, tcp_mbps, pps, sent_pps, rtt_us }
    }

    /// Measures it once.
    pub(crate) fn measure(&mut self, rig: &Rig, seconds: u32) -> Result<()> {
        if let Some(on) = self.gro {
            rig.switch_gro(&self.way.device, on)?;
        }
        self.rtt_us.add(rig.round_trip(&self.way, REQUESTS)?);
        self.tcp_mbps.add(rig.tcp(&self.way, seconds)?);
        let flood = rig.flood(&self.way, SMALL_PACKET, 1, seconds)?;
        if let Some(udp) = flood.udp {
            self.sent_pps.add(udp.packets as f64 / f64::from(seconds));
            self.pps.add((udp.packets - udp.lost) as f64 / f64::from(seconds));
        }
        Ok(())
    }
}
