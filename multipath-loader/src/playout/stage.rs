//! The thread that holds packets: from the ring into the queue, and to the device when they are due.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use multipath_common::playout::{HELD_LEN, HeldHeader, Playout, STAGE_LOADER, STAGE_NONE, Stage};
use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, ppoll},
};
use tracing::debug;

use super::queue::{Frame, HoldQueue};
use crate::{clock, dataplane::PlayoutMaps, underlay::FrameSocket};

/// How often a busy stage looks into the ring and at what is due. Packets are late by half of it; half of it costs twice
/// as much.
const TICK: Duration = Duration::from_micros(500);
/// Where fewer packets than this come in [`WINDOW`], being woken by each costs less than the ticks.
const BUSY: u32 = 100;
/// In which time they are counted.
const WINDOW: Duration = Duration::from_millis(100);
/// For how long the programs may rely on the stage after it has said that it is alive. What comes in the meantime is
/// lost with a stage that dies.
const ALIVE: Duration = Duration::from_millis(50);
/// How often it says so: one time may be missed.
const BEAT: Duration = Duration::from_millis(20);
/// How long a peer's [`Playout`] is used before it is read again.
const FRESH: Duration = Duration::from_millis(2);
/// How long programs may be under way that have found the stage alive before it ended.
const LAST_PACKETS: Duration = Duration::from_millis(1);
/// Bytes of memory that packets are held in; beyond that, what is due first is delivered early. The longest spread, 600
/// ms, at 400 Mbit/s is 30 MB.
const MAX_BYTES: usize = 32 << 20;
/// Bytes of an Ethernet header.
const ETHERNET_LEN: usize = 14;
/// `EtherType` of an IPv4 packet.
const ETHERTYPE_IPV4: u16 = libc::ETH_P_IP.cast_unsigned() as u16;
/// The same of an IPv6 packet.
const ETHERTYPE_IPV6: u16 = libc::ETH_P_IPV6.cast_unsigned() as u16;

/// What has passed, for the log.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Packets that were delivered when they were due, or later.
    delivered: u64,
    /// Packets that were delivered before that, because memory was short.
    early: u64,
}

/// The stage, as its thread has it.
pub(super) struct Worker {
    maps: PlayoutMaps,
    port: FrameSocket,
    device_mac: [u8; 6],
    queue: HoldQueue,
    playouts: BTreeMap<u32, Playout>,
    /// When they are read again.
    stale_at: Duration,
    /// Programs wake it by every packet.
    is_asleep: bool,
    /// When the present window began, and what has come since.
    window: (Duration, u32),
    /// When the programs are told next that it is alive.
    beat_at: Duration,
    counts: Counts,
}

impl Worker {
    /// `port` is the socket of the device's other end.
    pub(super) fn new(maps: PlayoutMaps, port: FrameSocket, device_mac: [u8; 6]) -> Self {
        Self {
            maps,
            port,
            device_mac,
            queue: HoldQueue::default(),
            playouts: BTreeMap::new(),
            stale_at: Duration::ZERO,
            is_asleep: false,
            window: (Duration::ZERO, 0),
            beat_at: Duration::ZERO,
            counts: Counts::default(),
        }
    }

    /// Holds packets until `has_ended`, and delivers then what is left.
    pub(super) fn run(mut self, has_ended: &AtomicBool) -> Result<()> {
        let held = self.hold(has_ended);
        let ended = self.end();
        debug!("the playout stage ends: {:?}", self.counts);
        held.and(ended)
    }

    fn hold(&mut self, has_ended: &AtomicBool) -> Result<()> {
        while !has_ended.load(Ordering::Relaxed) {
            let now = clock::since_boot()?;
            let was_asleep = self.is_asleep;
            let came = self.take_in();
            self.count(now, came);
            self.read_playouts(now)?;
            let playouts = &self.playouts;
            let playout = |peer| playouts[&peer];
            let mut frames = Vec::new();
            while self.queue.bytes() > MAX_BYTES {
                frames.extend(self.queue.take_first(now, playout));
            }
            self.counts.early += frames.len() as u64;
            let due = self.queue.take_due(now, playout);
            self.counts.delivered += due.len() as u64;
            frames.extend(due);
            self.deliver(&frames);
            if now >= self.beat_at || was_asleep != self.is_asleep {
                self.beat_at = now + BEAT;
                self.tell(STAGE_LOADER, now + ALIVE)?;
            }
            if self.is_asleep && was_asleep {
                let wait = self.queue.wait(clock::since_boot()?, |peer| self.playouts[&peer]);
                self.sleep(wait.unwrap_or(BEAT).min(BEAT))?;
            } else {
                // Also when it has just been told: a program that did not know yet wakes nobody.
                thread::sleep(TICK);
            }
        }
        Ok(())
    }

    /// Has nothing more put into the ring, and delivers everything.
    fn end(&mut self) -> Result<()> {
        self.tell(STAGE_NONE, Duration::ZERO)?;
        thread::sleep(LAST_PACKETS);
        while self.take_in() != 0 {}
        let now = clock::since_boot()?;
        self.read_playouts(now)?;
        let left = self.queue.take_all(now, |peer| self.playouts[&peer]);
        self.counts.early += left.len() as u64;
        self.deliver(&left);
        Ok(())
    }

    /// Takes packets out of the ring, as many as it holds; returns how many.
    fn take_in(&mut self) -> u32 {
        let (mut came, mut bytes) = (0, 0);
        while bytes < HELD_LEN
            && let Some(record) = self.maps.take()
        {
            came += 1;
            bytes += record.len();
            if let Some((header, frame)) = frame_of(&record, self.device_mac) {
                self.queue.push(&header, frame);
            }
        }
        came
    }

    /// Decides whether packets come so seldom that the programs should wake the stage.
    fn count(&mut self, now: Duration, came: u32) {
        let (begun, count) = &mut self.window;
        *count += came;
        if *count >= BUSY {
            self.is_asleep = false;
        }
        if now >= *begun + WINDOW {
            self.is_asleep = *count < BUSY;
            self.window = (now, 0);
        }
    }

    /// Knows when the packets of each peer are due that has some.
    fn read_playouts(&mut self, now: Duration) -> Result<()> {
        if now >= self.stale_at {
            self.stale_at = now + FRESH;
            self.playouts.clear();
        }
        for peer in self.queue.peers() {
            if let Entry::Vacant(unknown) = self.playouts.entry(peer) {
                unknown.insert(self.maps.playout(peer)?);
            }
        }
        Ok(())
    }

    fn deliver(&mut self, frames: &[Frame]) {
        if let Err(error) = self.port.send_all(frames) {
            debug!("held packets are lost: {error}");
        }
    }

    fn tell(&mut self, kind: u32, until: Duration) -> Result<()> {
        self.maps.set_stage(Stage {
            alive_until_ns: until.as_nanos() as u64,
            kind,
            is_asleep: u32::from(self.is_asleep),
        })
    }

    /// Sleeps until a packet comes, so long at most.
    fn sleep(&self, longest: Duration) -> Result<()> {
        let mut ring = [PollFd::new(self.maps.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut ring, Some(longest.into()), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("can't wait for held packets"),
        }
    }
}

/// The frame of a record, with the addresses that the programs write. `None` if the record is none.
fn frame_of(record: &[u8], device_mac: [u8; 6]) -> Option<(HeldHeader, Frame)> {
    let (header, packet) = record.split_at_checked(size_of::<HeldHeader>())?;
    let header: HeldHeader = bytemuck::pod_read_unaligned(header);
    let packet = packet.get(..header.len as usize)?;
    let ethertype = match packet.first()? >> 4 {
        4 => ETHERTYPE_IPV4,
        6 => ETHERTYPE_IPV6,
        _ => return None,
    };
    let mut frame = Vec::with_capacity(ETHERNET_LEN + packet.len());
    frame.extend(device_mac);
    frame.extend(device_mac);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    Some((header, frame))
}
