//! Carriers, looked at in the time when the kernel would tell of them too late.

use std::time::Duration;

use anyhow::Result;
use multipath_common::health::Reason;

use super::{Daemon, ManagedPath};
use crate::underlay::has_carrier;

/// How long after a link has changed the next change may be told late: the kernel tells of one a second
/// (`linkwatch_schedule_work` in `net/core/link_watch.c`), and its timers have their granularity.
const TOLD_LATE: Duration = Duration::from_millis(1500);
/// How often carriers are looked at in that time.
const LOOK: Duration = Duration::from_millis(5);

/// When carriers are looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CarrierWatch {
    next: Duration,
    until: Duration,
}

impl CarrierWatch {
    /// A link has changed.
    pub(super) fn begin(&mut self, now: Duration) {
        self.next = now + LOOK;
        self.until = now + TOLD_LATE;
    }

    /// When carriers are looked at next.
    pub(super) fn deadline(&self) -> Option<Duration> {
        (self.next <= self.until && !self.until.is_zero()).then_some(self.next)
    }

    /// Whether it is time to look.
    fn is_due(&mut self, now: Duration) -> bool {
        let is_due = self.deadline().is_some_and(|next| next <= now);
        if is_due {
            self.next = now + LOOK;
        }
        is_due
    }
}

impl Daemon {
    /// Looks at the uplinks' carriers, if it is time to: puts the paths of those down that have lost theirs, and looks up
    /// the paths of those that have it back.
    pub(super) async fn watch_carriers(&mut self, now: Duration) -> Result<()> {
        if !self.carriers.is_due(now) {
            return Ok(());
        }
        // From now on the kernel's own word counts again, also for a driver that says something else.
        let is_last = self.carriers.deadline().is_none();
        let mut back = Vec::new();
        for uplink in 0..self.config.uplinks.len() {
            let Some(attached) = self.attachments.uplink(&self.config.uplinks[uplink].name) else { continue };
            let waits = |path: &ManagedPath| path.uplink == uplink && path.link == Some(Err(Reason::Carrier));
            match has_carrier(&self.config.uplinks[uplink].interface) {
                Some(false) if !is_last => self.put_down(Reason::Carrier, |entry| entry.ifindex == attached.ifindex)?,
                Some(_) if self.paths.values().any(waits) => back.push(attached.ifindex),
                _ => {}
            }
        }
        if back.is_empty() { Ok(()) } else { self.refresh(Some(&back)).await }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carriers_are_looked_at_for_a_while_after_a_change() {
        let mut watch = CarrierWatch::default();
        assert_eq!(watch.deadline(), None);
        let start = Duration::from_secs(100);
        watch.begin(start);
        let mut looks = 0;
        while let Some(next) = watch.deadline() {
            assert!(watch.is_due(next) && !watch.is_due(next));
            looks += 1;
        }
        assert_eq!(looks, TOLD_LATE.as_millis() / LOOK.as_millis());
    }
}
