//! The delay of a path without a queue: the least of the last time.

use std::collections::VecDeque;

/// How long one minimum is gathered, microseconds.
const BUCKET_US: i64 = 2_000_000;
/// Minima that are kept: twenty seconds, in which clocks that drift apart by 100 parts per million hide 2 ms.
const BUCKETS: usize = 10;
/// As close to the base the path is met without a queue, microseconds.
const CLOSE_US: i64 = 3_000;
/// Delays that differ by so many times the noise may be the same.
const EXPLAINED: i64 = 3;

/// Minimum of a delay over a sliding window.
#[derive(Debug, Default)]
pub(super) struct Base {
    /// The newest last.
    minima: VecDeque<i64>,
    /// When the newest began, microseconds.
    since_us: i64,
    met_us: i64,
    /// Whether enough reports have told it.
    is_sure: bool,
}

impl Base {
    /// Takes a delay in, which is noisy; `is_sure`: enough reports tell it.
    pub(super) fn add(&mut self, now_us: i64, delay_us: i64, noise_us: i64, is_sure: bool) {
        let age_us = now_us - self.since_us;
        if self.minima.is_empty() || age_us < 0 {
            return self.restart(now_us, delay_us);
        }
        if !is_sure {
            // A few noisy reports may lie far below what is usual. What noise does not explain may be a queue.
            if !self.is_sure && delay_us - self.delay_us() < EXPLAINED * noise_us {
                self.restart(now_us, delay_us);
            }
            return;
        }
        self.is_sure = true;
        if age_us > BUCKET_US {
            self.minima.push_back(delay_us);
            self.since_us = now_us;
        }
        if self.minima.len() > BUCKETS {
            self.minima.pop_front();
        }
        if let Some(newest) = self.minima.back_mut() {
            *newest = delay_us.min(*newest);
        }
        if delay_us <= self.delay_us() + CLOSE_US + noise_us {
            self.met_us = now_us;
        }
    }

    /// Forgets all but this delay.
    pub(super) fn restart(&mut self, now_us: i64, delay_us: i64) {
        let minima = VecDeque::from([delay_us]);
        *self = Self { minima, since_us: now_us, met_us: now_us, is_sure: self.is_sure };
    }

    /// The base, microseconds.
    pub(super) fn delay_us(&self) -> i64 {
        self.minima.iter().copied().min().unwrap_or(0)
    }

    /// When the path was met without a queue last, microseconds.
    pub(super) fn met_us(&self) -> i64 {
        self.met_us
    }
}
