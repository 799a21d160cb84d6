//! One direction of an emulated link, without input, output or clock: packets and times come in, packets come out when due.
//!
//! A packet first waits in the drop-tail queue, is then transmitted at `rate`, is perhaps lost, and is then on its way for
//! `delay` plus jitter. Departures are computed from the model, not from when a thread happened to run, so the rate is exact
//! even where the thread wakes late.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::{Distribution as _, StandardNormal};
use serde::{Deserialize, Serialize};

/// The normal distribution of the jitter is cut off here, in standard deviations; what is beyond is 0.006 %.
const JITTER_LIMIT: f64 = 4.0;

/// How one direction of a link treats packets. Sizes and rates count IP packets, header included, without Ethernet headers
/// (an ARP packet counts its 28 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// Bits per second; 0: unlimited, nothing ever queues.
    pub rate: u64,
    /// One-way delay in microseconds, without queue and transmission.
    pub delay_us: u64,
    /// Standard deviation in microseconds of a normal distribution, drawn per packet: it reorders. No packet arrives before it was sent.
    pub jitter_us: u64,
    /// Share of packets (0 to 1) that are lost after transmission: they have used the link.
    pub loss: f64,
    /// Drop-tail queue in bytes, the packet in transmission included. A packet that finds the link idle is never refused.
    pub queue: u64,
    /// Largest packet in bytes that passes. Larger ones vanish without a word: an MTU black hole.
    pub largest: u64,
    /// Nothing goes in and nothing comes out; packets on their way are lost when they arrive.
    pub black_hole: bool,
}

impl Shape {
    /// Neither limit nor delay nor loss.
    pub const PERFECT: Self =
        Self { rate: 0, delay_us: 0, jitter_us: 0, loss: 0.0, queue: u64::MAX, largest: u64::MAX, black_hole: false };

    fn transmission_ns(&self, bytes: u64) -> u64 {
        (bytes * 8 * 1_000_000_000).checked_div(self.rate).unwrap_or(0)
    }
}

/// What has happened in one direction of a link. `packets_in` is the sum of the packets forwarded, dropped and still on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Packets that entered.
    pub packets_in: u64,
    /// Their IP bytes.
    pub bytes_in: u64,
    /// Packets that were delivered.
    pub packets_forwarded: u64,
    /// Their IP bytes.
    pub bytes_forwarded: u64,
    /// Packets that found the queue full.
    pub dropped_queue: u64,
    /// Packets lost at random.
    pub dropped_loss: u64,
    /// Packets that were too large.
    pub dropped_large: u64,
    /// Packets that fell into a black hole or met an end without carrier.
    pub dropped_black_hole: u64,
    /// Packets that the far interface refused, because it was down or gone.
    pub dropped_refused: u64,
}

/// A frame on its way, as it was read from one end and will be written to the other.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) frame: Vec<u8>,
    /// IP bytes: what counts.
    pub(crate) size: u64,
}

/// A packet in flight. Ordered by when it is due; packets due at the same time keep their order.
#[derive(Debug, PartialEq, Eq)]
struct Flying {
    due: u64,
    order: u64,
    packet: Packet,
}

impl Ord for Flying {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

impl PartialOrd for Flying {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// One direction. All times are nanoseconds of one monotonic clock and never go back.
#[derive(Debug)]
pub(crate) struct Pipe {
    shape: Shape,
    random: SmallRng,
    queue: VecDeque<Packet>,
    queued_bytes: u64,
    /// When the packet at the head of the queue is transmitted.
    head_done: u64,
    flying: BinaryHeap<Reverse<Flying>>,
    order: u64,
    pub(crate) counters: Counters,
}

impl Pipe {
    pub(crate) fn new(shape: Shape, seed: u64) -> Self {
        Self {
            shape,
            random: SmallRng::seed_from_u64(seed),
            queue: VecDeque::new(),
            queued_bytes: 0,
            head_done: 0,
            flying: BinaryHeap::new(),
            order: 0,
            counters: Counters::default(),
        }
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// The new shape holds for what is transmitted from now on; packets on their way keep their arrival time.
    pub(crate) fn set_shape(&mut self, now: u64, shape: Shape) {
        self.transmit(now);
        if !self.queue.is_empty() {
            let left_bits = u128::from(self.head_done - now) * u128::from(self.shape.rate);
            self.head_done = now + left_bits.checked_div(u128::from(shape.rate)).map_or(0, |ns| ns as u64);
        }
        self.shape = shape;
        self.transmit(now);
    }

    /// A packet comes in.
    pub(crate) fn push(&mut self, now: u64, packet: Packet) {
        self.counters.packets_in += 1;
        self.counters.bytes_in += packet.size;
        if self.shape.black_hole {
            self.counters.dropped_black_hole += 1;
            return;
        }
        if packet.size > self.shape.largest {
            self.counters.dropped_large += 1;
            return;
        }
        self.transmit(now);
        if self.queue.is_empty() {
            self.head_done = now + self.shape.transmission_ns(packet.size);
        } else if self.backlog(now) + packet.size > self.shape.queue {
            self.counters.dropped_queue += 1;
            return;
        }
        self.queued_bytes += packet.size;
        self.queue.push_back(packet);
    }

    /// The next packet that is due to be delivered.
    pub(crate) fn pop(&mut self, now: u64) -> Option<Packet> {
        self.transmit(now);
        while self.flying.peek().is_some_and(|Reverse(first)| first.due <= now) {
            let Reverse(Flying { packet, .. }) = self.flying.pop()?;
            if !self.shape.black_hole {
                return Some(packet);
            }
            self.counters.dropped_black_hole += 1;
        }
        None
    }

    /// When [`Pipe::pop`] may have something; `None`: when the next packet has come in.
    pub(crate) fn wake(&self) -> Option<u64> {
        let flying = self.flying.peek().map(|Reverse(first)| first.due);
        let shortest = (self.shape.delay_us as f64 - JITTER_LIMIT * self.shape.jitter_us as f64).max(0.0) * 1e3;
        let queued = (!self.queue.is_empty()).then(|| self.head_done + shortest as u64);
        flying.into_iter().chain(queued).min()
    }

    /// Bytes that wait for transmission at `now`, what is left of the packet in transmission included.
    fn backlog(&self, now: u64) -> u64 {
        let head = self.queue.front().map_or(0, |packet| packet.size);
        let head_left = u128::from(self.head_done.saturating_sub(now)) * u128::from(self.shape.rate) / 8_000_000_000;
        self.queued_bytes - head + head_left as u64
    }

    fn transmit(&mut self, now: u64) {
        while self.head_done <= now {
            let Some(packet) = self.queue.pop_front() else { return };
            self.queued_bytes -= packet.size;
            self.fly(self.head_done, packet);
            if let Some(next) = self.queue.front() {
                self.head_done += self.shape.transmission_ns(next.size);
            }
        }
    }

    fn fly(&mut self, departure: u64, packet: Packet) {
        if self.shape.loss > 0.0 && self.random.random::<f64>() < self.shape.loss {
            self.counters.dropped_loss += 1;
            return;
        }
        let mut delay_ns = self.shape.delay_us as f64 * 1e3;
        if self.shape.jitter_us > 0 {
            let normal: f64 = StandardNormal.sample(&mut self.random);
            delay_ns += normal.clamp(-JITTER_LIMIT, JITTER_LIMIT) * self.shape.jitter_us as f64 * 1e3;
        }
        let due = departure + delay_ns.max(0.0) as u64;
        self.order += 1;
        self.flying.push(Reverse(Flying { due, order: self.order, packet }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn packet(size: u64) -> Packet {
        Packet { frame: Vec::new(), size }
    }

    fn drain(pipe: &mut Pipe) -> Vec<u64> {
        let mut times = Vec::new();
        while let Some(wake) = pipe.wake() {
            while pipe.pop(wake).is_some() {
                times.push(wake);
            }
        }
        times
    }

    #[test]
    fn a_queue_is_transmitted_at_the_rate_and_arrives_after_the_delay() {
        let mut pipe = Pipe::new(Shape { rate: 8_000_000, delay_us: 5_000, ..Shape::PERFECT }, 1);
        for _ in 0..3 {
            pipe.push(0, packet(1000));
        }
        assert_eq!(drain(&mut pipe), [6 * MS, 7 * MS, 8 * MS]);
    }

    #[test]
    fn the_queue_takes_what_fits() {
        let mut pipe = Pipe::new(Shape { rate: 8_000_000, queue: 10_000, ..Shape::PERFECT }, 1);
        for _ in 0..12 {
            pipe.push(0, packet(1000));
        }
        assert_eq!(pipe.counters.dropped_queue, 2);
        // Half of the first packet is transmitted: half a packet's room.
        pipe.push(MS / 2, packet(1000));
        assert_eq!(pipe.counters.dropped_queue, 3);
        pipe.push(MS, packet(1000));
        assert_eq!((pipe.counters.dropped_queue, drain(&mut pipe).last()), (3, Some(&(11 * MS))));
    }

    #[test]
    fn a_new_rate_holds_for_the_rest_of_the_packet_in_transmission() {
        let mut pipe = Pipe::new(Shape { rate: 8_000_000, ..Shape::PERFECT }, 1);
        pipe.push(0, packet(1000));
        pipe.push(0, packet(1000));
        pipe.set_shape(MS / 2, Shape { rate: 4_000_000, ..Shape::PERFECT });
        assert_eq!(drain(&mut pipe), [MS + MS / 2, 3 * MS + MS / 2]);
        pipe.set_shape(4 * MS, Shape { rate: 8_000, ..Shape::PERFECT });
        pipe.push(4 * MS, packet(1000));
        pipe.set_shape(5 * MS, Shape::PERFECT);
        assert_eq!(drain(&mut pipe), [5 * MS]);
    }

    #[test]
    fn a_black_hole_takes_packets_on_their_way_too() {
        let mut pipe = Pipe::new(Shape { delay_us: 1000, ..Shape::PERFECT }, 1);
        pipe.push(0, packet(100));
        pipe.set_shape(0, Shape { delay_us: 1000, black_hole: true, ..Shape::PERFECT });
        pipe.push(0, packet(100));
        assert_eq!((pipe.pop(2 * MS), pipe.counters.dropped_black_hole), (None, 2));
    }

    #[test]
    fn packets_that_are_too_large_vanish() {
        let mut pipe = Pipe::new(Shape { largest: 1280, ..Shape::PERFECT }, 1);
        for size in [1280, 1281, 100] {
            pipe.push(0, packet(size));
        }
        assert_eq!((drain(&mut pipe).len(), pipe.counters.dropped_large), (2, 1));
    }

    #[test]
    fn loss_is_the_share_that_was_asked_for() {
        let mut pipe = Pipe::new(Shape { loss: 0.02, ..Shape::PERFECT }, 7);
        (0..100_000).for_each(|_| pipe.push(0, packet(100)));
        assert_eq!(drain(&mut pipe).len() as u64 + pipe.counters.dropped_loss, 100_000);
        // 2000 +- 44 (standard deviation): five of them.
        assert!((1780..2220).contains(&pipe.counters.dropped_loss), "{}", pipe.counters.dropped_loss);
    }
}
