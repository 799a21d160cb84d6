//! What the gateways send over the links between them.

use std::time::Duration;

use anyhow::{Context, Result};
use multipath_tests::traffic::{Capture, UdpStream};
use multipath_tests::{End, Gateway, Topology};

use crate::datagram::Datagram;

/// A packet of the tunnel as it left its gateway.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Number of the link.
    pub link: usize,
    /// The end where it left.
    pub from: End,
    /// When, nanoseconds of `CLOCK_REALTIME`.
    pub at_ns: u64,
    /// The packet.
    pub datagram: Datagram,
}

/// Records what leaves both gateways: before the links lose it, and before XDP takes it.
pub struct Recording(Vec<(usize, End, Capture)>);

impl Recording {
    /// Starts on all links, which have no NAT.
    pub fn start(topology: &Topology) -> Result<Self> {
        let mut captures = Vec::new();
        for (link, connection) in topology.connections.iter().enumerate() {
            for (gateway, from) in [(&topology.a, End::A), (&topology.b, End::B)] {
                let end = connection.end_at(gateway.name()).context("both gateways have every link")?;
                captures.push((link, from, Capture::start(gateway.namespace(), &end.interface)?));
            }
        }
        Ok(Self(captures))
    }

    /// What the tunnel sent since, in the order of time.
    pub fn stop(self) -> Result<Vec<Sent>> {
        let mut sent = Vec::new();
        for (link, from, capture) in self.0 {
            for captured in capture.stop()?.into_iter().filter(|captured| captured.is_outgoing) {
                let datagram = Datagram::read(&captured.bytes);
                sent.extend(datagram.map(|datagram| Sent { link, from, at_ns: captured.at_ns, datagram }));
            }
        }
        sent.sort_by_key(|sent| sent.at_ns);
        Ok(sent)
    }
}

/// Takes what is sent meanwhile off the first link, both ways: genuine, and not seen by the other gateway.
pub fn withhold(topology: &Topology, meanwhile: impl FnOnce() -> Result<()>) -> Result<Vec<Sent>> {
    let link = topology.link(0)?;
    let recording = Recording::start(topology)?;
    link.set_black_hole(true)?;
    meanwhile()?;
    let sent = recording.stop()?;
    link.set_black_hole(false)?;
    Ok(sent.into_iter().filter(|sent| sent.link == 0).collect())
}

/// Has packets of many flows sent from one gateway's host to the other's, so that every link carries some.
pub fn send_some(from: &Gateway, to: &Gateway) -> Result<()> {
    let stream = UdpStream {
        flows: 40,
        linger: Duration::ZERO,
        ..UdpStream::to(to.host_v4(), 1000, 64, Duration::from_millis(100))
    };
    stream.run(from.host(), to.host()).map(drop)
}
