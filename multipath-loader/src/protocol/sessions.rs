//! A peer's sessions: what its four slots hold, and which of them its packets are sealed with.
//!
//! Both ends order the sessions of a pair alike: by generation, which the responder chooses above every one that either
//! end knows, and where two handshakes crossed and have the same, the one that the end with the greater public key began
//! comes last. A gateway seals with the last session of which it knows that the peer has it: it was the initiator and has
//! the answer, or it was the responder and heard the peer by it. So handshakes may cross in any way: both ends end up at
//! the same session.
//!
//! A session stays for receiving until it expires; or a little longer than packets can be late once two later ones were
//! in use; or until the peer, which never had the answer, begins anew.

use std::time::Duration;

use multipath_common::maps::{SESSION_SLOT_BITS, SESSIONS_PER_PEER, WIPE_DELAY_MS, first_session_slot, session_slot};

use super::action::{Action, Adopted, NewSession, Random};

/// How long a slot stays untouched after its session was retired.
pub(super) const WIPE_DELAY: Duration = Duration::from_millis(WIPE_DELAY_MS);
/// How long a session stays that is two behind: no path delays a packet that much.
const OVERLAP: Duration = Duration::from_secs(2);

/// A session in its slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Session {
    pub index: u32,
    pub remote_index: u32,
    pub is_initiator: bool,
    /// `None`: by an earlier daemon.
    pub made: Option<Duration>,
    pub expires: Duration,
    rank: Rank,
    heard: bool,
}

/// The order of a pair's sessions. The expiry tells those apart that were adopted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    generation: u32,
    begun_by_greater: bool,
    expires: Duration,
}

/// What the two ends agreed on about the order of a session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    /// Chosen by the responder.
    pub generation: u32,
    /// The initiator's public key is the greater one.
    pub begun_by_greater: bool,
}

#[derive(Debug, Clone, Copy)]
enum Slot {
    Free,
    /// An initiation names it.
    Reserved,
    Held(Session),
    Retired {
        index: u32,
        wipe_at: Duration,
    },
}

/// The sessions of one peer.
pub(super) struct Sessions {
    peer: u32,
    slots: [Slot; SESSIONS_PER_PEER],
    active: Option<u32>,
}

impl Sessions {
    pub(super) fn new(peer: u32) -> Self {
        Self { peer, slots: [Slot::Free; SESSIONS_PER_PEER], active: None }
    }

    /// The session that the peer's packets are sealed with.
    pub(super) fn active(&self) -> Option<&Session> {
        self.held().find(|session| Some(session.index) == self.active)
    }

    /// The session is there, and not retired.
    pub(super) fn hold(&self, index: u32) -> bool {
        self.held().any(|session| session.index == index)
    }

    /// Sessions by which nothing came yet.
    pub(super) fn unheard(&self) -> impl Iterator<Item = u32> {
        self.held().filter(|session| !session.heard).map(|session| session.index)
    }

    /// No slot holds anything.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.iter().all(|slot| matches!(slot, Slot::Free))
    }

    /// When [`Self::poll`] has something to do.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let deadline = |slot: &Slot| match slot {
            Slot::Free | Slot::Reserved => None,
            Slot::Held(session) => Some(session.expires),
            Slot::Retired { wipe_at, .. } => Some(*wipe_at),
        };
        self.slots.iter().filter_map(deadline).min()
    }

    /// A receiver index for a session that may come to be; `None`: no slot is free.
    pub(super) fn reserve(&mut self, random: &mut dyn Random) -> Option<u32> {
        let free = self.slots.iter().position(|slot| matches!(slot, Slot::Free))?;
        self.slots[free] = Slot::Reserved;
        let mut bytes = [0; 4];
        random.fill(&mut bytes);
        let upper = 1 + u32::from_le_bytes(bytes) % u32::from(u16::MAX);
        Some((upper << SESSION_SLOT_BITS) | (first_session_slot(self.peer) + free as u32))
    }

    /// The session of a reserved index does not come to be.
    pub(super) fn release(&mut self, index: u32) {
        let slot = self.slot(index);
        debug_assert!(matches!(slot, Some(Slot::Reserved)), "{index:#x} was not reserved");
        if let Some(slot) = slot {
            *slot = Slot::Free;
        }
    }

    /// Installs a session under its reserved index. One that this gateway began is sealed with from now on; unless a
    /// later one is in use already, then it is not needed.
    pub(super) fn install(&mut self, now: Duration, new: NewSession, order: Order, actions: &mut Vec<Action>) {
        let Order { generation, begun_by_greater } = order;
        let session = Session {
            index: new.index,
            remote_index: new.remote_index,
            is_initiator: new.is_initiator,
            made: Some(now),
            expires: new.expires,
            rank: Rank { generation, begun_by_greater, expires: new.expires },
            heard: false,
        };
        let is_last = self.active().is_none_or(|active| active.rank < session.rank);
        if session.is_initiator && !is_last {
            return self.release(session.index);
        }
        let Some(slot) = self.slot(session.index) else { return };
        *slot = Slot::Held(session);
        actions.push(Action::Install(new));
        if session.is_initiator {
            self.activate(session.index, actions);
        }
    }

    /// Takes over what an earlier daemon left in a slot of this peer.
    pub(super) fn adopt(&mut self, now: Duration, adopted: &Adopted) {
        let &Adopted { index, remote_index, expires, is_initiator, is_current, .. } = adopted;
        let rank = Rank { generation: 0, begun_by_greater: false, expires };
        let heard = is_current && !is_initiator;
        let session = Session { index, remote_index, is_initiator, made: None, expires, rank, heard };
        let Some(slot) = self.slot(index) else { return };
        *slot = Slot::Held(session);
        if is_current {
            self.active = Some(index);
        }
        self.outdate(now);
    }

    /// An authentic packet came by the session.
    pub(super) fn hear(&mut self, now: Duration, index: u32, actions: &mut Vec<Action>) {
        let active = self.active().map(|active| active.rank);
        let Some(Slot::Held(session)) = self.slot(index) else { return };
        if session.index != index || session.heard {
            return;
        }
        session.heard = true;
        if active < Some(session.rank) {
            self.activate(index, actions);
        }
        self.outdate(now);
    }

    /// The peer begins anew, and seals with the session `sealing_with` (ours; 0: none) until it has the answer. Answers
    /// that it did not take before it will never take.
    pub(super) fn supersede(&mut self, now: Duration, sealing_with: u32, actions: &mut Vec<Action>) {
        self.hear(now, sealing_with, actions);
        for slot in 0..self.slots.len() {
            if let Slot::Held(Session { is_initiator: false, heard: false, .. }) = self.slots[slot] {
                self.retire(now, slot, actions);
            }
        }
    }

    /// Retires every session.
    pub(super) fn retire_all(&mut self, now: Duration, actions: &mut Vec<Action>) {
        for slot in 0..self.slots.len() {
            match self.slots[slot] {
                Slot::Held(_) => self.retire(now, slot, actions),
                Slot::Reserved => self.slots[slot] = Slot::Free,
                Slot::Free | Slot::Retired { .. } => {}
            }
        }
    }

    /// Retires what expired, wipes what was retired.
    pub(super) fn poll(&mut self, now: Duration, actions: &mut Vec<Action>) {
        for slot in 0..self.slots.len() {
            match self.slots[slot] {
                Slot::Held(session) if session.expires <= now => self.retire(now, slot, actions),
                Slot::Retired { index, wipe_at } if wipe_at <= now => {
                    actions.push(Action::Wipe { index });
                    self.slots[slot] = Slot::Free;
                }
                _ => {}
            }
        }
    }

    fn held(&self) -> impl Iterator<Item = &Session> {
        self.slots.iter().filter_map(|slot| if let Slot::Held(session) = slot { Some(session) } else { None })
    }

    fn slot(&mut self, index: u32) -> Option<&mut Slot> {
        let number = session_slot(index).checked_sub(first_session_slot(self.peer))?;
        self.slots.get_mut(number as usize)
    }

    /// The keepalive tells the peer that this gateway has the session.
    fn activate(&mut self, index: u32, actions: &mut Vec<Action>) {
        let peer = self.peer;
        self.active = Some(index);
        actions.push(Action::Activate { peer, index });
        actions.push(Action::Confirm { peer, index });
    }

    fn retire(&mut self, now: Duration, slot: usize, actions: &mut Vec<Action>) {
        let Slot::Held(Session { index, .. }) = self.slots[slot] else { return };
        if self.active == Some(index) {
            self.active = None;
            actions.push(Action::Activate { peer: self.peer, index: 0 });
        }
        actions.push(Action::Retire { index });
        self.slots[slot] = Slot::Retired { index, wipe_at: now + WIPE_DELAY };
    }

    /// The peer seals with the last session that it was heard by or with a later one. Of those before it only the last
    /// one stays.
    fn outdate(&mut self, now: Duration) {
        let Some(last_heard) = self.held().filter(|session| session.heard).map(|session| session.rank).max() else {
            return;
        };
        let Some(previous) = self.held().map(|session| session.rank).filter(|rank| *rank < last_heard).max() else {
            return;
        };
        for slot in &mut self.slots {
            if let Slot::Held(session) = slot
                && session.rank < previous
            {
                session.expires = session.expires.min(now + OVERLAP);
            }
        }
    }
}
