//! Initiations that were just answered. An initiation is sent over every path, and the path by which it comes first may
//! carry nothing in the other direction: so every copy gets the same answer by the way that it came, and costs nothing
//! but a look-up.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use multipath_common::maps::MAX_PATHS;

use super::message::MAC_LEN;

/// Differences in delay between two paths stay below.
const LIFETIME: Duration = Duration::from_secs(2);
/// Initiations that are remembered. With more than these in [`LIFETIME`], the oldest one's further copies get no answer.
const CAPACITY: usize = 1024;

/// The answers of the last [`LIFETIME`], by mac1 of the initiation: a cryptographic hash of all that counts in it.
#[derive(Default)]
pub(super) struct Answered {
    answers: HashMap<[u8; MAC_LEN], Answer>,
    oldest_first: VecDeque<(Duration, [u8; MAC_LEN])>,
}

struct Answer {
    response: Vec<u8>,
    copies_left: usize,
}

impl Answered {
    /// Keeps the response to the initiation for its copies.
    pub(super) fn remember(&mut self, now: Duration, mac1: [u8; MAC_LEN], response: Vec<u8>) {
        self.forget(now);
        if self.oldest_first.len() == CAPACITY
            && let Some((_, oldest)) = self.oldest_first.pop_front()
        {
            self.answers.remove(&oldest);
        }
        self.answers.insert(mac1, Answer { response, copies_left: MAX_PATHS - 1 });
        self.oldest_first.push_back((now, mac1));
    }

    /// The response, if this is a copy of an initiation that had one.
    pub(super) fn again(&mut self, now: Duration, mac1: &[u8; MAC_LEN]) -> Option<Vec<u8>> {
        self.forget(now);
        let answer = self.answers.get_mut(mac1)?;
        answer.copies_left = answer.copies_left.checked_sub(1)?;
        Some(answer.response.clone())
    }

    fn forget(&mut self, now: Duration) {
        while let Some((answered, mac1)) = self.oldest_first.front()
            && *answered + LIFETIME <= now
        {
            self.answers.remove(mac1);
            self.oldest_first.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(5);

    #[test]
    fn copies_on_every_path_are_answered_for_a_while() {
        let mut answered = Answered::default();
        answered.remember(START, [1; MAC_LEN], vec![7]);
        assert_eq!(answered.again(START, &[2; MAC_LEN]), None);
        for _ in 1..MAX_PATHS {
            assert_eq!(answered.again(START, &[1; MAC_LEN]), Some(vec![7]));
        }
        assert_eq!(answered.again(START, &[1; MAC_LEN]), None);
        answered.remember(START, [2; MAC_LEN], vec![8]);
        assert_eq!(answered.again(START + LIFETIME, &[2; MAC_LEN]), None);
        assert!(answered.answers.is_empty() && answered.oldest_first.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let mut answered = Answered::default();
        for number in 0..CAPACITY as u128 + 10 {
            answered.remember(START, number.to_le_bytes(), vec![]);
        }
        assert_eq!((answered.answers.len(), answered.oldest_first.len()), (CAPACITY, CAPACITY));
        assert_eq!(answered.again(START, &9u128.to_le_bytes()), None);
        assert_eq!(answered.again(START, &10u128.to_le_bytes()), Some(vec![]));
    }
}
