//! Frames at a fixed pace through an interface, one after the other and again from the first: what an attacker sends.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::packet_socket::PacketSocket;
use crate::namespace::Namespace;

/// The sender sleeps at least that long, and then sends a few at once.
const SHORTEST_SLEEP: Duration = Duration::from_micros(200);
/// The most that is sent at once after a pause: a sender that was off the CPU does not make up for all that it missed.
const LONGEST_BURST: u64 = 256;

/// A flood to be sent.
#[derive(Clone, Debug)]
pub struct Flood {
    /// The frames, with their Ethernet headers.
    pub frames: Vec<Vec<u8>>,
    /// Frames per second; fewer where the machine cannot.
    pub pace: u32,
    /// How long is sent.
    pub duration: Duration,
}

impl Flood {
    /// Sends it; the frames per second that the interface took.
    ///
    /// # Errors
    /// There is no such interface, or the flood makes no sense.
    pub fn run(&self, from: &Namespace, interface: &str) -> Result<f64> {
        ensure!(self.pace > 0 && !self.frames.is_empty(), "a flood has frames and a pace");
        let socket = PacketSocket::sender(from, interface)?;
        let mut frames = self.frames.iter().cycle();
        let (mut given_up, mut tried, mut taken) = (0, 0_u64, 0_u64);
        let start = Instant::now();
        while start.elapsed() < self.duration {
            let due = (start.elapsed().as_secs_f64() * f64::from(self.pace)) as u64 - given_up;
            given_up += due.saturating_sub(tried + LONGEST_BURST);
            for frame in frames.by_ref().take(due.saturating_sub(tried).min(LONGEST_BURST) as usize) {
                tried += 1;
                taken += u64::from(socket.send(frame).is_ok());
            }
            thread::sleep(SHORTEST_SLEEP);
        }
        Ok(taken as f64 / start.elapsed().as_secs_f64())
    }
}
