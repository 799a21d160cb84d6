//! Limits on what strangers can make a gateway do. All memory is fixed beforehand.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use zeroize::Zeroizing;

/// Handshake messages per second that one source address may send without proof that it receives there, and as many
/// with it.
const PER_SECOND: u32 = 20;
/// How many of them may come at once.
const BURST: u32 = 5;
/// Buckets that sources are spread over. Sources that share one share its limit.
const BUCKETS: usize = 4096;
/// Handshake messages in a second, from all sources, above which the gateway is under load.
pub(super) const LOAD_PER_SECOND: u32 = 100;

/// Bytes of an address that tell sources apart: an IPv6 host has a /64 to itself (RFC 6177).
const IPV6_PREFIX_LEN: usize = 8;

/// One token bucket for every source address (IPv4 /32, IPv6 /64).
///
/// A bucket is found by a keyed hash, so that nobody can choose an address that shares a given one's; there is nothing
/// to evict, whatever comes. A bucket is the time at which it is full again (the generic cell rate algorithm).
pub(super) struct Sources {
    key: Zeroizing<[u8; 32]>,
    full_at: Vec<Duration>,
}

impl Sources {
    /// `key`: 32 bytes that nobody else can predict.
    pub(super) fn new(key: Zeroizing<[u8; 32]>) -> Self {
        Self { key, full_at: vec![Duration::ZERO; BUCKETS] }
    }

    /// Takes a token of the source, if there is one.
    pub(super) fn allow(&mut self, now: Duration, source: IpAddr) -> bool {
        let interval = Duration::from_secs(1) / PER_SECOND;
        let bucket = self.bucket(source);
        let full_at = self.full_at[bucket].max(now) + interval;
        let allowed = full_at <= now + interval * BURST;
        if allowed {
            self.full_at[bucket] = full_at;
        }
        allowed
    }

    fn bucket(&self, source: IpAddr) -> usize {
        let hash = match source.to_canonical() {
            IpAddr::V4(address) => blake3::keyed_hash(&self.key, &address.octets()),
            IpAddr::V6(address) => blake3::keyed_hash(&self.key, prefix(address).as_slice()),
        };
        let [low, high, ..] = *hash.as_bytes();
        usize::from(u16::from_le_bytes([low, high])) % BUCKETS
    }
}

fn prefix(address: Ipv6Addr) -> [u8; IPV6_PREFIX_LEN] {
    let mut prefix = [0; IPV6_PREFIX_LEN];
    prefix.copy_from_slice(&address.octets()[..IPV6_PREFIX_LEN]);
    prefix
}

/// Whether more handshake messages come than a gateway should answer unasked.
#[derive(Default)]
pub(super) struct Load {
    second_began: Duration,
    count: u32,
    until: Duration,
}

impl Load {
    /// Counts a message. True from the first one above [`LOAD_PER_SECOND`] until a whole second went by with fewer.
    pub(super) fn count(&mut self, now: Duration) -> bool {
        let second = Duration::from_secs(1);
        if now >= self.second_began + second {
            (self.second_began, self.count) = (now, 0);
        }
        self.count = self.count.saturating_add(1);
        if self.count > LOAD_PER_SECOND {
            self.until = self.second_began + second * 2;
        }
        now < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Sources {
        Sources::new(Zeroizing::new([7; 32]))
    }

    fn passed(sources: &mut Sources, source: &str, per_second: u32, seconds: u32) -> u32 {
        let source = source.parse().unwrap();
        let at = |number| Duration::from_secs(1) * number / per_second;
        (0..per_second * seconds).map(|number| u32::from(sources.allow(at(number), source))).sum()
    }

    #[test]
    fn a_source_has_its_rate_and_its_burst() {
        assert_eq!(passed(&mut sources(), "192.0.2.1", PER_SECOND, 10), PER_SECOND * 10);
        let flood = passed(&mut sources(), "192.0.2.1", 50_000, 10);
        assert!((PER_SECOND * 10..=PER_SECOND * 10 + BURST).contains(&flood), "{flood}");
    }

    #[test]
    fn a_silent_source_saves_no_more_than_its_burst() {
        let (mut sources, source) = (sources(), "192.0.2.1".parse().unwrap());
        for now in [1, 1000].map(Duration::from_secs) {
            let passed: u32 = (0..100).map(|_| u32::from(sources.allow(now, source))).sum();
            assert_eq!(passed, BURST);
        }
    }

    #[test]
    fn another_source_is_not_touched() {
        let mut sources = sources();
        passed(&mut sources, "192.0.2.1", 1000, 1);
        assert_eq!(passed(&mut sources, "192.0.2.2", PER_SECOND, 1), PER_SECOND);
    }

    #[test]
    fn an_ipv6_source_is_a_64_and_a_mapped_one_is_ipv4() {
        let sources = sources();
        let bucket = |address: &str| sources.bucket(address.parse().unwrap());
        assert_eq!(bucket("2001:db8::1"), bucket("2001:db8::ffff:0:0:2"));
        assert_ne!(bucket("2001:db8::1"), bucket("2001:db8:0:1::1"));
        assert_eq!(bucket("::ffff:192.0.2.1"), bucket("192.0.2.1"));
    }

    #[test]
    fn load_begins_above_the_threshold_and_ends_after_a_calm_second() {
        let mut load = Load::default();
        let at = |number: u32, per_second: u32| Duration::from_secs(10) + Duration::from_secs(1) * number / per_second;
        for number in 0..LOAD_PER_SECOND * 3 {
            assert!(!load.count(at(number, LOAD_PER_SECOND)));
        }
        let flood = (0..50_000).map(|number| u32::from(!load.count(at(50_000 * 4 + number, 50_000)))).sum::<u32>();
        assert_eq!(flood, LOAD_PER_SECOND);
        assert!(load.count(Duration::from_millis(15_500)));
        assert!(!load.count(Duration::from_secs(17)));
    }
}
