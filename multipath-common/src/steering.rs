//! Which processor works on a packet.
//!
//! Packets that must stay in order share a lane: those of one inner flow on the way out, those of one path on the way
//! in. A lane is light until it carries `HEAVY` bytes within a `WINDOW_NS`: light packets are worked on where they
//! are, which costs nothing, and no other processor has to be woken. A heavy lane has a home, which seals or opens its
//! packets while other processors do the rest. Homes for sealing are in the lower half of the processors and homes for
//! opening in the upper one, so that a gateway does both at the same time.
//!
//! A lane goes home when nothing of it is under way, and stays there until it was silent for `SILENCE_NS`: what was
//! handed to the old processor is done before the new one begins.

use crate::maps::Lane;

/// Lanes of each direction; flows and paths share them by hash.
pub const LANES_PER_DIRECTION: u32 = 1 << 8;
/// All lanes: sealing first, then opening.
pub const LANES: usize = 2 * LANES_PER_DIRECTION as usize;
/// Most processors that are used: the hash of a packet still has bits for the lane then.
pub const MAX_CPUS: u32 = 64;

/// Over which time a lane's bytes are counted, nanoseconds.
const WINDOW_NS: u64 = 1 << WINDOW_SHIFT;
const WINDOW_SHIFT: u32 = 20;
/// Bytes in a window from which a lane is heavy: about 200 Mbit/s, where sealing takes a tenth of a processor.
const HEAVY: u32 = 25_000;
/// Packets shorter than this weigh nothing: handing one over costs as much as sealing it.
const SHORT: u32 = 256;
/// A lane that was silent for so long has nothing under way, whatever was counted: a full backlog takes less.
const SILENCE_NS: u64 = 20_000_000;
/// Windows over which the smallest number of packets under way is taken; what never arrives in all of them was lost.
const LOSS_WINDOWS: u32 = 32;

/// The lane of a packet on its way out, by the hash of its flow.
#[inline(always)]
pub const fn sealing_lane(hash: u32) -> u32 {
    hash % LANES_PER_DIRECTION
}

/// The lane of a packet on its way in, by the slot of its path.
#[inline(always)]
pub const fn opening_lane(path_slot: u32) -> u32 {
    LANES_PER_DIRECTION + path_slot % LANES_PER_DIRECTION
}

/// The processor that works on a lane when it is heavy.
#[inline(always)]
pub const fn home(lane: u32, cpus: u32) -> u32 {
    let sealing = cpus / 2;
    if sealing == 0 {
        return 0;
    }
    if lane < LANES_PER_DIRECTION { lane % sealing } else { sealing + lane % (cpus - sealing) }
}

/// A hash by which receive packet steering over all `cpus` processors, two or more, chooses this one (net/core/dev.c,
/// `get_rps_cpu`), and whose low bits are the lane.
#[inline(always)]
pub const fn hash_for(cpu: u32, lane: u32, cpus: u32) -> u32 {
    if cpus == 0 {
        return lane;
    }
    let step = ((1 << 32) / cpus as u64) as u32;
    // The middle of the processor's share.
    ((cpu.wrapping_mul(step).wrapping_add(step / 2)) & !(LANES as u32 - 1)) | (lane & (LANES as u32 - 1))
}

/// The lane in such a hash.
#[inline(always)]
pub const fn lane_of(hash: u32) -> u32 {
    hash & (LANES as u32 - 1)
}

impl Lane {
    /// The processor for a packet of `len` bytes that is on processor `own` now; counts it as handed there.
    #[inline(always)]
    pub fn hand(&mut self, now: u64, len: u32, own: u32, home: u32) -> u32 {
        let window = (now >> WINDOW_SHIFT) as u32;
        let is_new_window = window != self.window;
        if is_new_window {
            self.previous = if window == self.window.wrapping_add(1) { self.current } else { 0 };
            self.current = 0;
            self.window = window;
        }
        if len >= SHORT {
            self.current = self.current.saturating_add(len);
        }
        let silence = now.wrapping_sub(self.last_ns);
        // Another processor counts what is done: one look at it.
        let done = self.done;
        if done > self.handed || silence > SILENCE_NS {
            self.handed = done;
        }
        self.least = self.least.min(self.handed.wrapping_sub(done));
        if is_new_window && window.is_multiple_of(LOSS_WINDOWS) {
            // A backlog was full: these are counted as handed and will never be done.
            self.handed = self.handed.wrapping_sub(self.least);
            self.least = u64::MAX;
        }
        if silence > SILENCE_NS {
            self.cpu = own;
        }
        if self.handed == done && (self.current >= HEAVY || self.previous >= HEAVY) {
            self.cpu = home;
        }
        self.last_ns = now;
        self.handed += 1;
        self.cpu
    }
}

const _: () = assert!(SILENCE_NS > WINDOW_NS);

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    /// What the kernel makes of a hash: `reciprocal_scale` of include/linux/kernel.h.
    fn steered(hash: u32, cpus: u32) -> u32 {
        ((u64::from(hash) * u64::from(cpus)) >> 32) as u32
    }

    #[test]
    fn a_hash_names_its_processor_and_its_lane() {
        for cpus in 2..=MAX_CPUS {
            for cpu in 0..cpus {
                for lane in [0, 1, LANES as u32 - 1] {
                    let hash = hash_for(cpu, lane, cpus);
                    assert_eq!((steered(hash, cpus), lane_of(hash)), (cpu, lane), "{cpu} of {cpus}");
                    // The kernel takes 0 for no hash at all.
                    assert_ne!(hash, 0);
                }
            }
        }
    }

    #[test]
    fn sealing_and_opening_have_different_homes() {
        for cpus in 2..=MAX_CPUS {
            let homes = |lanes: core::ops::Range<u32>| lanes.map(move |lane| home(lane, cpus));
            let highest = homes(0..LANES_PER_DIRECTION).max();
            let lowest = homes(LANES_PER_DIRECTION..LANES as u32).min();
            assert!(highest < lowest && homes(LANES_PER_DIRECTION..LANES as u32).all(|cpu| cpu < cpus));
        }
    }

    /// Hands packets of `len` bytes every `gap` nanoseconds from processor 0 and finishes each before the next.
    fn run(lane: &mut Lane, start: u64, packets: u64, gap: u64, len: u32) -> u32 {
        let mut cpu = 0;
        for number in 0..packets {
            cpu = lane.hand(start + number * gap, len, 0, 1);
            lane.done += 1;
        }
        cpu
    }

    const START: u64 = 1 << 40;

    #[test]
    fn a_light_lane_stays_and_a_heavy_one_goes_home() {
        let mut lane = Lane::zeroed();
        assert_eq!(run(&mut lane, START, 1_000, 1_000_000, 1_400), 0, "1,000 packets a second");
        assert_eq!(run(&mut lane, START << 1, 10_000, 2_000, 84), 0, "short packets");
        assert_eq!(run(&mut lane, START << 2, 1_000, 10_000, 1_400), 1, "a gigabit a second");
        assert_eq!(run(&mut lane, (START << 2) + 11_000_000, 100, 1_000_000, 100), 1, "it goes on");
        assert_eq!(run(&mut lane, (START << 2) + 1_000_000_000, 3, 2_000_000, 1_400), 0, "after a silence");
    }

    #[test]
    fn a_lane_goes_home_when_nothing_is_under_way() {
        let mut lane = Lane::zeroed();
        assert_eq!(lane.hand(START, 20_000, 0, 1), 0);
        assert_eq!(lane.hand(START + 1_000, 20_000, 0, 1), 0, "the first one is still with processor 0");
        lane.done += 2;
        assert_eq!(lane.hand(START + 2_000, 100, 0, 1), 1);
    }

    #[test]
    fn a_lost_packet_holds_a_lane_for_a_while_only() {
        let mut lane = Lane::zeroed();
        // It never arrives; the lane grows heavy, and none of its silences is long.
        assert_eq!(lane.hand(START, 100, 0, 1), 0);
        assert_eq!(run(&mut lane, START + 10_000, 100, 10_000, 1_400), 0);
        assert_eq!(run(&mut lane, START + 1_010_000, 7_000, 10_000, 1_400), 1);
    }
}
