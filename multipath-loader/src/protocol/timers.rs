//! When a handshake is due, and how long its sessions live.

use std::time::Duration;

use super::action::Random;

/// The first pause between two initiations; it doubles.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// The longest pause between two initiations, without the random part.
const LAST_RETRY: Duration = Duration::from_secs(5);
/// When the initiator repeats its first keepalive, as long as it hears nothing by the session.
pub(super) const CONFIRM_AGAIN: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];

/// The times of handshakes and sessions. Both ends may have different ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// Age at which the initiator of a session begins the next handshake.
    pub rekey_after: Duration,
    /// How much later the responder of a session does so, if the initiator did not.
    pub responder_patience: Duration,
    /// Age at which a session is refused.
    pub reject_after: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self::rekeying_after(Duration::from_mins(2))
    }
}

impl Timers {
    /// All times in proportion to `rekey_after`, whose default is 120 s.
    pub fn rekeying_after(rekey_after: Duration) -> Self {
        Self { rekey_after, responder_patience: rekey_after / 8, reject_after: rekey_after * 3 / 2 }
    }
}

/// The pause after an initiation that came after `earlier` unanswered ones: longer by up to a quarter at random, so that
/// two gateways that began at once do not go on in step.
pub(super) fn retry_delay(earlier: u32, random: &mut dyn Random) -> Duration {
    let delay = FIRST_RETRY.saturating_mul(1u32.checked_shl(earlier).unwrap_or(u32::MAX)).min(LAST_RETRY);
    let mut bytes = [0; 2];
    random.fill(&mut bytes);
    delay + delay / 4 * u32::from(u16::from_le_bytes(bytes)) / u32::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Constant(u8);

    impl Random for Constant {
        fn fill(&mut self, bytes: &mut [u8]) {
            bytes.fill(self.0);
        }
    }

    #[test]
    fn the_default_is_two_minutes() {
        let Timers { rekey_after, responder_patience, reject_after } = Timers::default();
        assert_eq!([rekey_after, responder_patience, reject_after].map(|time| time.as_secs()), [120, 15, 180]);
    }

    #[test]
    fn retries_begin_fast_and_slow_down() {
        let delays = |byte| {
            [0, 1, 2, 3, 4, 5, 32, u32::MAX].map(|earlier| retry_delay(earlier, &mut Constant(byte)).as_millis())
        };
        assert_eq!(delays(0), [250, 500, 1000, 2000, 4000, 5000, 5000, 5000]);
        assert_eq!(delays(255), [312, 625, 1250, 2500, 5000, 6250, 6250, 6250]);
    }
}
