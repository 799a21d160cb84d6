//! By which uplinks inner flows leave a gateway, from captures.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use multipath_tests::{Gateway, config::LISTEN_PORT, traffic::Capture};

/// Outer headers, header of the wire format: with `cipher = "none"` the inner packet follows as it is.
const INNER: usize = 14 + 20 + 8 + 20;
const IPV4_WITHOUT_OPTIONS: u8 = 0x45;
const UDP: u8 = 17;

/// Captures on the uplinks `up0`, `up1`, ... of a gateway.
pub(crate) struct Watch {
    captures: Vec<Capture>,
}

/// The inner UDP flows that left, by source port, each with its packets' uplinks in the order of time.
pub(crate) struct FlowPaths {
    departures: BTreeMap<u16, Vec<Departure>>,
}

/// A packet that left.
#[derive(Clone, Copy)]
pub(crate) struct Departure {
    /// Nanoseconds of `CLOCK_REALTIME`.
    pub(crate) at_ns: u64,
    /// Number of the uplink.
    pub(crate) uplink: usize,
}

impl Watch {
    pub(crate) fn start(gateway: &Gateway, uplinks: usize) -> Result<Self> {
        let captures = (0..uplinks).map(|number| Capture::start(gateway.namespace(), &format!("up{number}")));
        Ok(Self { captures: captures.collect::<Result<_>>()? })
    }

    pub(crate) fn stop(self) -> Result<FlowPaths> {
        let mut departures: BTreeMap<u16, Vec<Departure>> = BTreeMap::new();
        for (uplink, capture) in self.captures.into_iter().enumerate() {
            for frame in capture.stop()?.iter().filter(|frame| frame.is_outgoing) {
                if let Some(port) = inner_source_port(&frame.bytes) {
                    departures.entry(port).or_default().push(Departure { at_ns: frame.at_ns, uplink });
                }
            }
        }
        for flow in departures.values_mut() {
            flow.sort_by_key(|departure| departure.at_ns);
        }
        Ok(FlowPaths { departures })
    }
}

impl FlowPaths {
    /// The flows, by source port.
    pub(crate) fn flows(&self) -> impl Iterator<Item = (u16, &[Departure])> {
        self.departures.iter().map(|(port, departures)| (*port, departures.as_slice()))
    }

    /// The uplink of each flow, if it had only one.
    pub(crate) fn only_uplinks(&self) -> Result<BTreeMap<u16, usize>> {
        self.flows()
            .map(|(port, departures)| {
                let uplinks: BTreeSet<usize> = departures.iter().map(|departure| departure.uplink).collect();
                let only = uplinks.first().filter(|_| uplinks.len() == 1);
                Ok((port, *only.with_context(|| format!("flow {port} left by {uplinks:?}"))?))
            })
            .collect()
    }
}

fn inner_source_port(frame: &[u8]) -> Option<u16> {
    let is_tunnel = frame.get(36..38)? == LISTEN_PORT.to_be_bytes();
    let inner = frame.get(INNER..INNER + 22).filter(|_| is_tunnel)?;
    (inner[0] == IPV4_WITHOUT_OPTIONS && inner[9] == UDP).then(|| u16::from_be_bytes([inner[20], inner[21]]))
}
