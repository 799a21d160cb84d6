//! Which paths must say something because they have been silent.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

/// How long a path to a configured endpoint may be silent. One that speaks so often keeps the mappings of address
/// translators alive, and the peer hears of a new mapping, or of a new address of ours, within this time.
pub const CONFIGURED: Duration = Duration::from_secs(1);
/// How long a path to a learned endpoint may be silent: often enough for the peer to hear that it is still known here.
pub const LEARNED: Duration = Duration::from_secs(5);
/// How long a peer whose paths are up may be silent before it is doubted that it still knows the session: what it may
/// take, with two messages lost.
pub const DOUBT: Duration = Duration::from_secs(15);

/// The paths that must not be silent, with when to look at each of them next.
#[derive(Debug, Default)]
pub struct Keepalives {
    paths: HashMap<u32, Watched>,
    /// The same, earliest first.
    queue: BTreeSet<(Duration, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watched {
    limit: Duration,
    look_at: Duration,
}

impl Keepalives {
    /// Makes the watched paths exactly these: slot and how long it may be silent. A new one is looked at at once, so that
    /// the peer hears of it.
    pub fn watch(&mut self, now: Duration, wanted: impl IntoIterator<Item = (u32, Duration)>) {
        let mut old = std::mem::take(&mut self.paths);
        for (slot, limit) in wanted {
            let kept = old.remove(&slot).filter(|watched| watched.limit == limit);
            self.paths.insert(slot, kept.unwrap_or(Watched { limit, look_at: now }));
        }
        self.queue = self.paths.iter().map(|(slot, watched)| (watched.look_at, *slot)).collect();
    }

    /// When the next path must be looked at.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.queue.first().map(|(look_at, _)| *look_at)
    }

    /// A path that must be looked at, until none is left.
    pub fn due(&self, now: Duration) -> Option<u32> {
        self.queue.first().filter(|(look_at, _)| *look_at <= now).map(|(_, slot)| *slot)
    }

    /// Whether a path must say something now, if it last did at `last_sent`; it is looked at again when it may have been
    /// silent for too long.
    pub fn must_speak(&mut self, now: Duration, slot: u32, last_sent: Duration) -> bool {
        let Some(watched) = self.paths.get_mut(&slot) else { return false };
        self.queue.remove(&(watched.look_at, slot));
        let silent_until = last_sent + watched.limit;
        let must_speak = silent_until <= now;
        watched.look_at = if must_speak { now + watched.limit } else { silent_until };
        self.queue.insert((watched.look_at, slot));
        must_speak
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_new_path_speaks_at_once_and_then_every_second() {
        let mut keepalives = Keepalives::default();
        keepalives.watch(10 * SECOND, [(7, SECOND)]);
        assert_eq!(keepalives.due(10 * SECOND), Some(7));
        assert!(keepalives.must_speak(10 * SECOND, 7, Duration::ZERO));
        assert_eq!((keepalives.due(10 * SECOND), keepalives.next_deadline()), (None, Some(11 * SECOND)));
        // What it said itself counts.
        assert!(keepalives.must_speak(11 * SECOND, 7, 10 * SECOND));
    }

    #[test]
    fn a_path_that_carries_packets_need_not_speak() {
        let mut keepalives = Keepalives::default();
        keepalives.watch(SECOND, [(7, SECOND)]);
        let last_sent = Duration::from_millis(1900);
        assert!(!keepalives.must_speak(2 * SECOND, 7, last_sent));
        assert_eq!(keepalives.next_deadline(), Some(last_sent + SECOND));
        assert!(keepalives.must_speak(last_sent + SECOND, 7, last_sent));
    }

    #[test]
    fn watching_others_keeps_the_time_of_those_that_stay() {
        let mut keepalives = Keepalives::default();
        keepalives.watch(SECOND, [(1, SECOND), (2, SECOND)]);
        assert!(keepalives.must_speak(SECOND, 1, Duration::ZERO));
        keepalives.watch(SECOND, [(1, SECOND), (3, SECOND)]);
        assert_eq!(keepalives.due(SECOND), Some(3));
        assert!(keepalives.must_speak(SECOND, 3, Duration::ZERO));
        assert_eq!((keepalives.due(SECOND), keepalives.next_deadline()), (None, Some(2 * SECOND)));
        assert!(!keepalives.must_speak(SECOND, 2, Duration::ZERO), "nobody watches it any more");
    }

    proptest! {
        /// Whenever packets pass, no path is silent for longer than its limit, and none speaks sooner.
        #[test]
        fn silence_lasts_exactly_the_limit(traffic in prop::collection::vec(1..3000_u64, 0..40)) {
            let mut keepalives = Keepalives::default();
            let limit = SECOND;
            keepalives.watch(Duration::ZERO, [(0, limit)]);
            let mut traffic = traffic.into_iter().scan(0, |at, pause| { *at += pause; Some(Duration::from_millis(*at)) }).peekable();
            let mut last_sent: Option<Duration> = None;
            while let Some(next) = traffic.peek().copied() {
                let look_at = keepalives.next_deadline().unwrap();
                if next < look_at {
                    last_sent = traffic.next();
                    continue;
                }
                if keepalives.must_speak(look_at, 0, last_sent.unwrap_or_default()) {
                    prop_assert!(last_sent.is_none_or(|last| last + limit == look_at), "{last_sent:?} {look_at:?}");
                    last_sent = Some(look_at);
                }
            }
        }
    }
}
