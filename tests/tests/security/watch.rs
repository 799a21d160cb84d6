//! Watches what becomes of packets that somebody on the way injects.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use multipath_loader::dataplane::Maps;
use multipath_tests::traffic::Capture;
use multipath_tests::{End, Topology};

use crate::datagram::Datagram;
use crate::state::{Drops, State, drops, maps};

const PATIENCE: Duration = Duration::from_secs(2);
/// For what must not happen.
const WAIT: Duration = Duration::from_millis(50);
const ETHERNET: usize = 14;

/// Both gateways under watch; what the injected packets do to them is known one by one.
pub struct Watch<'a> {
    topology: &'a Topology,
    /// In the order a, b, as everything here.
    maps: [Maps; 2],
    drops: [Drops; 2],
    state: [State; 2],
    inside: [Capture; 2],
}

impl<'a> Watch<'a> {
    /// Starts.
    pub fn start(topology: &'a Topology) -> Result<Self> {
        let Topology { a, b, .. } = topology;
        let maps = [maps(a)?, maps(b)?];
        Ok(Self {
            topology,
            drops: [drops(&maps[0])?, drops(&maps[1])?],
            maps,
            state: [State::of(a)?, State::of(b)?],
            inside: [Capture::start(a.namespace(), "mp0")?, Capture::start(b.namespace(), "mp0")?],
        })
    }

    /// Puts a frame on the wire of a link; the reason for which the gateway at its end drops it.
    ///
    /// # Errors
    /// It is not dropped within some time, or counted more than once.
    pub fn refused(&mut self, link: usize, to: End, datagram: &Datagram) -> Result<&'static str> {
        self.inject(link, to, datagram)?;
        let seen = &mut self.drops[to.index()];
        let start = Instant::now();
        loop {
            let now = drops(&self.maps[to.index()])?;
            let more: Vec<&str> = now
                .iter()
                .flat_map(|(reason, count)| {
                    let before = seen.get(reason).copied().unwrap_or_default();
                    (before..*count).map(move |_| *reason)
                })
                .collect();
            if let [reason] = more[..] {
                *seen = now;
                return Ok(reason);
            }
            ensure!(more.is_empty(), "one packet is counted as {more:?}");
            ensure!(start.elapsed() < PATIENCE, "no drop is counted of {datagram:x?}");
        }
    }

    /// Puts a frame on the wire of a link.
    pub fn inject(&self, link: usize, to: End, datagram: &Datagram) -> Result<()> {
        self.topology.link(link)?.inject(to, datagram.frame())
    }

    /// Ends: nothing was dropped without being told by [`Watch::refused`], and the inner packets that came out of the tunnels
    /// of a and b are returned.
    pub fn delivered(self) -> Result<[Vec<Vec<u8>>; 2]> {
        thread::sleep(WAIT);
        for (maps, seen) in self.maps.iter().zip(&self.drops) {
            let (mut now, mut seen) = (drops(maps)?, seen.clone());
            // A probe that comes while a path is looked up again is not answered.
            for drops in [&mut now, &mut seen] {
                drops.remove("no_path");
            }
            ensure!(now == seen, "further packets were dropped: {seen:?}, now {now:?}");
        }
        let [a, b] = self.inside.map(|capture| -> Result<Vec<Vec<u8>>> {
            // Multicast is the gateway's own.
            let delivered = capture.stop()?.into_iter().filter(|frame| !frame.is_outgoing && frame.bytes[0] & 1 == 0);
            Ok(delivered.map(|frame| frame.bytes[ETHERNET..].to_vec()).collect())
        });
        Ok([a?, b?])
    }

    /// Ends: besides, nothing was delivered and neither gateway has learned anything.
    pub fn unmoved(self) -> Result<()> {
        let (state, topology) = (self.state.clone(), self.topology);
        let delivered = self.delivered()?;
        ensure!(delivered.iter().all(Vec::is_empty), "delivered at a and b: {delivered:x?}");
        for (gateway, before) in [&topology.a, &topology.b].into_iter().zip(state) {
            let now = State::of(gateway).with_context(|| format!("gateway {}", gateway.name()))?;
            ensure!(now == before, "gateway {} was {before:#?}\nand is {now:#?}", gateway.name());
        }
        Ok(())
    }
}
