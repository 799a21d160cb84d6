//! The packets that are held, until each is due.
//!
//! What a packet is due by may change while it is held: its peer's paths become slower, and all its packets are due later.
//! So no due time is kept. Packets of one peer with one hold are due in the order of their sender timestamps whatever
//! the peer's [`Playout`] says, and are in a heap by these; when one is due is computed whenever a heap's first packet
//! is looked at.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use multipath_common::playout::{HeldHeader, MAX_WAIT_US, Playout};

/// A packet, as it is delivered.
pub type Frame = Vec<u8>;

/// The packets that are held.
#[derive(Debug, Default)]
pub struct HoldQueue {
    peers: BTreeMap<u32, PeerQueue>,
    pushed: u64,
    bytes: usize,
}

#[derive(Debug)]
struct PeerQueue {
    /// Timestamp of the packet that came last, microseconds of the peer's clock as if it did not wrap.
    latest_us: u64,
    /// By their hold; none is empty.
    heaps: BTreeMap<u32, BinaryHeap<Reverse<Held>>>,
}

/// Ordered by timestamp, and by arrival where these are equal.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    timestamp_us: u64,
    number: u64,
    frame: Frame,
}

/// When a packet goes beside others: earlier due times first, and within a peer earlier timestamps.
type Place = (i32, u32, u64, u64);

impl HoldQueue {
    /// Bytes of memory that held packets take.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Numbers of the peers whose packets are held.
    pub fn peers(&self) -> impl Iterator<Item = u32> {
        self.peers.keys().copied()
    }

    /// Holds a packet.
    pub fn push(&mut self, header: &HeldHeader, frame: Frame) {
        // The middle of a u64: what was sent earlier than the first one is before it too.
        let first = || PeerQueue { latest_us: 1 << 63 | u64::from(header.timestamp), heaps: BTreeMap::new() };
        let peer = self.peers.entry(header.peer).or_insert_with(first);
        let step = header.timestamp.wrapping_sub(peer.latest_us as u32).cast_signed();
        let timestamp_us = peer.latest_us.wrapping_add_signed(step.into());
        peer.latest_us = timestamp_us;
        self.pushed += 1;
        self.bytes += memory(&frame);
        let packet = Held { timestamp_us, number: self.pushed, frame };
        peer.heaps.entry(header.hold).or_default().push(Reverse(packet));
    }

    /// Takes out what is due, in its order.
    pub fn take_due(&mut self, now: Duration, playout: impl FnMut(u32) -> Playout) -> Vec<Frame> {
        self.take(now, playout, 0)
    }

    /// Takes out everything, in the order in which it would have been due.
    pub fn take_all(&mut self, now: Duration, playout: impl FnMut(u32) -> Playout) -> Vec<Frame> {
        self.take(now, playout, i32::MAX)
    }

    /// Takes out what is due first, even if it is not due yet.
    pub fn take_first(&mut self, now: Duration, mut playout: impl FnMut(u32) -> Playout) -> Option<Frame> {
        let firsts = self.peers.iter().filter_map(|(&number, peer)| {
            let playout = playout(number);
            let place = |(&hold, heap)| Some((place(now, &playout, number, hold, heap)?, hold));
            peer.heaps.iter().filter_map(place).min()
        });
        let ((_, number, ..), hold) = firsts.min()?;
        let peer = self.peers.get_mut(&number)?;
        let heap = peer.heaps.get_mut(&hold)?;
        let Reverse(first) = heap.pop()?;
        if heap.is_empty() {
            peer.heaps.remove(&hold);
        }
        if peer.heaps.is_empty() {
            self.peers.remove(&number);
        }
        self.bytes -= memory(&first.frame);
        Some(first.frame)
    }

    /// How long nothing is due; `None` while nothing is held.
    pub fn wait(&self, now: Duration, mut playout: impl FnMut(u32) -> Playout) -> Option<Duration> {
        let waits = self.peers.iter().flat_map(|(&number, peer)| {
            let playout = playout(number);
            let wait = move |(&hold, heap)| Some(place(now, &playout, number, hold, heap)?.0);
            peer.heaps.iter().filter_map(wait)
        });
        Some(Duration::from_micros(waits.min()?.max(0).cast_unsigned().into()))
    }

    /// Takes out what is due within `horizon_us`, in its order.
    fn take(&mut self, now: Duration, mut playout: impl FnMut(u32) -> Playout, horizon_us: i32) -> Vec<Frame> {
        let mut taken: Vec<(Place, Frame)> = Vec::new();
        self.peers.retain(|&number, peer| {
            let playout = playout(number);
            peer.heaps.retain(|&hold, heap| {
                while let Some(place) = place(now, &playout, number, hold, heap).filter(|place| place.0 <= horizon_us)
                    && let Some(Reverse(first)) = heap.pop()
                {
                    taken.push((place, first.frame));
                }
                !heap.is_empty()
            });
            !peer.heaps.is_empty()
        });
        taken.sort_unstable_by_key(|(place, _)| *place);
        self.bytes -= taken.iter().map(|(_, frame)| memory(frame)).sum::<usize>();
        taken.into_iter().map(|(_, frame)| frame).collect()
    }
}

/// The place of a heap's first packet.
fn place(now: Duration, playout: &Playout, peer: u32, hold: u32, heap: &BinaryHeap<Reverse<Held>>) -> Option<Place> {
    let Reverse(first) = heap.peek()?;
    let wait_us = playout.wait_us(first.timestamp_us as u32, hold, now.as_micros() as u32);
    // A longer wait is by another clock than the peer's present one.
    let wait_us = if wait_us > MAX_WAIT_US { 0 } else { wait_us };
    Some((wait_us, peer, first.timestamp_us, first.number))
}

/// Bytes that a packet takes.
const fn memory(frame: &Frame) -> usize {
    size_of::<Held>() + frame.capacity()
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;
    use multipath_common::playout::MAX_SPREAD_US;
    use proptest::prelude::*;

    use super::*;

    /// Times near the wrap of what the programs count in.
    const START: Duration = Duration::from_micros(3 * (1 << 32) - 200_000);
    /// What each peer's clock shows when ours shows [`START`]: the first one's wraps soon, the second one's is ahead.
    const CLOCKS: [u64; 2] = [7 * (1 << 32) - 100_000, 9 * (1 << 32) + 5];
    const HOLDS: [u32; 3] = [10, 128, 255];

    fn header(peer: u32, timestamp: u32, hold: u32) -> HeldHeader {
        HeldHeader { peer, timestamp, hold, len: 0 }
    }

    fn playout(near_us: u32, spread_us: u32) -> Playout {
        Playout { near_us, spread_us, ..Playout::zeroed() }
    }

    /// The same by a list that is sorted whenever it is looked at, in times that do not wrap.
    #[derive(Default)]
    struct Naive {
        held: Vec<(u32, u32, i64, Frame)>,
        playouts: [(i64, i64); 2],
    }

    impl Naive {
        fn sort(&mut self) {
            let playouts = self.playouts;
            let due = |peer: u32, hold: u32, sent: i64| {
                let (near, spread) = playouts[peer as usize];
                sent + near + spread * i64::from(hold) / 255
            };
            // Stable: packets that are equal stay as they came.
            self.held.sort_by_key(|&(peer, hold, sent, _)| {
                (due(peer, hold, sent) - CLOCKS[peer as usize].cast_signed(), peer, sent)
            });
        }

        /// By how much a packet was due before `elapsed` has passed since [`START`].
        fn overdue(&self, (peer, hold, sent, _): &(u32, u32, i64, Frame), elapsed: i64) -> i64 {
            let (near, spread) = self.playouts[*peer as usize];
            elapsed - (sent - CLOCKS[*peer as usize].cast_signed() + near + spread * i64::from(*hold) / 255)
        }
    }

    /// What stands in the map: a transit time is a delay and the difference of the clocks.
    fn programmed(playouts: [(i64, i64); 2], peer: u32) -> Playout {
        let (near, spread) = playouts[peer as usize];
        let offset = (START.as_micros() as u64).wrapping_sub(CLOCKS[peer as usize]) as u32;
        playout(offset.wrapping_add(near.cast_unsigned() as u32), spread.cast_unsigned() as u32)
    }

    #[derive(Clone, Debug)]
    enum Event {
        /// A packet that was sent so long ago.
        Push {
            peer: u32,
            hold: u32,
            ago_us: u32,
        },
        Pass {
            us: u32,
        },
        Change {
            peer: u32,
            near_us: u32,
            spread_us: u32,
        },
        TakeFirst,
        TakeAll,
    }

    fn event() -> impl Strategy<Value = Event> {
        let push = (0..2u32, prop::sample::select(HOLDS.to_vec()), 0..50_000u32);
        prop_oneof![
            10 => push.prop_map(|(peer, hold, ago_us)| Event::Push { peer, hold, ago_us: ago_us / 100 * 100 }),
            5 => (0..30_000u32).prop_map(|us| Event::Pass { us: us / 100 * 100 }),
            1 => (0..2u32, 0..100_000u32, 0..=MAX_SPREAD_US)
                .prop_map(|(peer, near_us, spread_us)| Event::Change { peer, near_us, spread_us }),
            1 => Just(Event::TakeFirst),
            1 => Just(Event::TakeAll),
        ]
    }

    proptest! {
        #[test]
        fn what_comes_out_is_what_a_sorted_list_gives(events in prop::collection::vec(event(), 0..300)) {
            let mut queue = HoldQueue::default();
            let mut naive = Naive { playouts: [(20_000, 100_000); 2], ..Naive::default() };
            let mut elapsed = 0_i64;
            for (number, event) in events.into_iter().enumerate() {
                let now = START + Duration::from_micros(elapsed.cast_unsigned());
                let playouts = naive.playouts;
                let at = |peer| programmed(playouts, peer);
                match event {
                    Event::Push { peer, hold, ago_us } => {
                        let sent = CLOCKS[peer as usize].cast_signed() + elapsed - i64::from(ago_us);
                        let frame = number.to_ne_bytes().to_vec();
                        queue.push(&header(peer, sent.cast_unsigned() as u32, hold), frame.clone());
                        naive.held.push((peer, hold, sent, frame));
                    }
                    Event::Pass { us } => {
                        elapsed += i64::from(us);
                        let now = START + Duration::from_micros(elapsed.cast_unsigned());
                        let taken = queue.take_due(now, at);
                        naive.sort();
                        let (due, held) =
                            naive.held.iter().cloned().partition(|held| naive.overdue(held, elapsed) >= 0);
                        naive.held = held;
                        let due: Vec<_> = due.into_iter().map(|(.., frame)| frame).collect();
                        prop_assert_eq!(taken, due);
                    }
                    Event::Change { peer, near_us, spread_us } => {
                        naive.playouts[peer as usize] = (near_us.into(), spread_us.into());
                    }
                    Event::TakeFirst => {
                        let taken = queue.take_first(now, at);
                        naive.sort();
                        let first = (!naive.held.is_empty()).then(|| naive.held.remove(0).3);
                        prop_assert_eq!(taken, first);
                    }
                    Event::TakeAll => {
                        let taken = queue.take_all(now, at);
                        naive.sort();
                        let all: Vec<_> = naive.held.drain(..).map(|(.., frame)| frame).collect();
                        prop_assert_eq!(taken, all);
                    }
                }
                let now = START + Duration::from_micros(elapsed.cast_unsigned());
                let wait = naive.held.iter().map(|held| -naive.overdue(held, elapsed)).min();
                let wait = wait.map(|wait| Duration::from_micros(wait.max(0).cast_unsigned()));
                prop_assert_eq!(queue.wait(now, |peer| programmed(naive.playouts, peer)), wait);
                let memory: usize = naive.held.iter().map(|(.., frame)| memory(frame)).sum();
                prop_assert_eq!(queue.bytes(), memory);
                let peers = (0..2).filter(|peer| naive.held.iter().any(|held| held.0 == *peer));
                prop_assert!(queue.peers().eq(peers));
            }
        }
    }

    #[test]
    fn what_is_sent_first_is_delivered_first_however_the_delay_changes() {
        let mut queue = HoldQueue::default();
        for timestamp in [30, 10, 20] {
            queue.push(&header(1, timestamp, 255), vec![timestamp as u8]);
        }
        let at = Duration::from_micros;
        assert_eq!(queue.take_due(at(1_010), |_| playout(0, 1_000)), [[10]]);
        queue.push(&header(1, 25, 255), vec![25]);
        assert_eq!(queue.take_due(at(1_030), |_| playout(0, 5_000)), Vec::<Frame>::new());
        assert_eq!(queue.wait(at(1_030), |_| playout(0, 5_000)), Some(at(3_990)));
        assert_eq!(queue.take_due(at(1_030), |_| playout(0, 1_000)), [[20], [25], [30]]);
        assert_eq!(queue.peers().next(), None);
    }

    #[test]
    fn a_clock_that_jumps_holds_nobody_up() {
        for jump in [10_000_000u32, 0x8000_0000, 10_000_000u32.wrapping_neg()] {
            let mut queue = HoldQueue::default();
            queue.push(&header(1, 0, 255), vec![0]);
            queue.push(&header(1, jump, 255), vec![1]);
            let mut taken = Vec::new();
            for now in [0, 50_000, 100_000] {
                taken.extend(queue.take_due(Duration::from_micros(now), |_| playout(0, 100_000)));
            }
            taken.sort();
            assert_eq!(taken, [[0], [1]], "{jump}");
        }
    }
}
