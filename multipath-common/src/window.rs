//! The anti-replay window (RFC 6479): a ring of bits over the last counters.
//!
//! Width: 300 Mbit/s of 1,500-byte packets are 25,000 packets/s; one path that lags another by 300 ms is then 7,500
//! packets behind. [`Window::WIDTH`] covers twice that, which is full-size packets at 600 Mbit/s or a 600 ms lag.

/// Words of the ring. A power of two, so that an index is a mask.
const WORDS: usize = 256;
const WORD_BITS: u64 = u64::BITS as u64;
const WORD_MASK: u64 = WORDS as u64 - 1;

/// The window of one session.
///
/// A counter is checked before the packet is opened and marked after it, under the session's lock; a copy that
/// passes the check at the same time on another CPU fails the mark. The functions are inlined and call nothing,
/// because kernel 6.1 allows no call while a `bpf_spin_lock` is held.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Window {
    /// One more than the highest counter seen; 0 before the first.
    pub next: u64,
    /// Bit `c % 64` of word `c / 64 % 256` says that counter `c` was seen.
    pub seen: [u64; WORDS],
}

impl core::fmt::Debug for Window {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("Window").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Window {
    /// Counters behind the highest one that are still told apart: one word of the ring is always being cleared.
    pub const WIDTH: u64 = (WORDS as u64 - 1) * WORD_BITS;

    /// The window that takes no counter: all lie behind it.
    pub const CLOSED: Self = Self { next: u64::MAX, seen: [u64::MAX; WORDS] };

    /// Whether the counter is new: not behind the window and not seen.
    #[inline(always)]
    pub const fn is_new(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter != u64::MAX;
        }
        // The word of the highest counter and the WORDS - 1 before it are kept.
        if (self.next - 1) / WORD_BITS - counter / WORD_BITS >= WORDS as u64 {
            return false;
        }
        self.seen[((counter / WORD_BITS) & WORD_MASK) as usize] & (1 << (counter % WORD_BITS)) == 0
    }

    /// Marks a counter as seen; `false` when it was not new.
    #[inline(always)]
    pub fn mark(&mut self, counter: u64) -> bool {
        if !self.is_new(counter) {
            return false;
        }
        if counter >= self.next {
            // `next` is one past the highest counter, so its own word may hold marks already unless it starts one.
            let first = self.next.div_ceil(WORD_BITS);
            let last = counter / WORD_BITS;
            let mut clear = if last < first { 0 } else { last - first + 1 };
            if clear > WORDS as u64 {
                clear = WORDS as u64;
            }
            let mut step = 0;
            // Volatile, because the compiler would count `clear` down to 0, and the verifier of Linux 6.1 sees no end
            // of that: it learns nothing from `clear != 0`.
            // SAFETY: the pointer comes from a variable.
            while step < unsafe { core::ptr::read_volatile(&raw const clear) } {
                // Volatile, because a plain loop becomes a call of memset, which the lock forbids.
                // SAFETY: the pointer comes from a mutable reference to an element.
                unsafe { core::ptr::write_volatile(&raw mut self.seen[((last - step) & WORD_MASK) as usize], 0) };
                step += 1;
            }
            self.next = counter + 1;
        }
        self.seen[((counter / WORD_BITS) & WORD_MASK) as usize] |= 1 << (counter % WORD_BITS);
        true
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{collections::BTreeSet, vec::Vec};

    use bytemuck::Zeroable;
    use proptest::prelude::*;

    use super::*;

    /// Remembers every counter ever seen.
    #[derive(Default)]
    struct Naive {
        seen: BTreeSet<u64>,
    }

    impl Naive {
        fn mark(&mut self, counter: u64) -> bool {
            let behind =
                self.seen.last().is_some_and(|highest| highest / WORD_BITS >= WORDS as u64 + counter / WORD_BITS);
            counter != u64::MAX && !behind && self.seen.insert(counter)
        }
    }

    fn agree(counters: impl IntoIterator<Item = u64>) {
        let mut window = Window::zeroed();
        let mut naive = Naive::default();
        for counter in counters {
            let check = window.is_new(counter);
            let marked = window.mark(counter);
            assert_eq!(check, marked, "check and mark disagree on {counter}");
            assert_eq!(marked, naive.mark(counter), "counter {counter}, next {}", window.next);
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_on_steps(start in 0..u64::MAX / 2, steps in prop::collection::vec(-20_000i64..20_000, 1..400)) {
            let mut counter = start;
            let counters: Vec<u64> = steps.iter().map(|step| {
                counter = counter.saturating_add_signed(*step);
                counter
            }).collect();
            agree(counters);
        }

        #[test]
        fn agrees_with_a_set_on_neighbours(start in 0u64..1 << 40, steps in prop::collection::vec(-70i64..80, 1..2000)) {
            let mut counter = start;
            let counters: Vec<u64> = steps.iter().map(|step| {
                counter = counter.saturating_add_signed(*step);
                counter
            }).collect();
            agree(counters);
        }

        #[test]
        fn agrees_with_a_set_on_anything(counters in prop::collection::vec(any::<u64>(), 1..100)) {
            agree(counters);
        }
    }

    #[test]
    fn everything_within_the_width_is_told_apart() {
        let mut window = Window::zeroed();
        let highest = 1_000_000;
        assert!(window.mark(highest));
        for counter in highest - Window::WIDTH..highest {
            assert!(window.mark(counter), "{counter}");
            assert!(!window.mark(counter), "{counter}");
        }
        assert!(!window.is_new(highest - Window::WIDTH - WORD_BITS));
    }

    proptest! {
        #[test]
        fn a_closed_window_takes_nothing(counter: u64) {
            prop_assert!(!Window::CLOSED.is_new(counter));
            prop_assert!(!Window::CLOSED.is_new(u64::MAX - (counter & 0xf_ffff)));
        }
    }

    #[test]
    fn the_width_holds_300_ms_of_300_mbit_per_second() {
        const PACKETS_PER_SECOND: u64 = 300_000_000 / (1500 * 8);
        assert_eq!(PACKETS_PER_SECOND * 300 / 1000, 7500);
        const { assert!(Window::WIDTH >= 8192) };
    }
}
