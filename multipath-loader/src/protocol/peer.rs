//! What is known of a peer, and its handshakes with this gateway.

use std::time::Duration;

use multipath_common::maps::MAX_COUNTER;
use zeroize::Zeroizing;

use super::{
    action::{Action, Adopted, HandshakeStatus, Identity, NewSession, Random, Trouble},
    cookie::Envelope,
    message::{Answer, NOISE_RESPONSE_LEN, Offer, write_initiation, write_response},
    noise::{self, Initiated, Keys, Opened},
    sessions::{Order, Sessions, WIPE_DELAY},
    timers::{CONFIRM_AGAIN, Timers, retry_delay},
};
use crate::config::SecretKey;

/// Packets that a session has sealed when the next handshake begins: at 10^7 packets per second 7 minutes before the
/// programs refuse to seal with it.
const REKEY_AFTER_PACKETS: u64 = MAX_COUNTER - (1 << 32);

/// Answers to one initiation that are opened whoever sends them, two multiplications on the curve each. Forged ones beyond
/// them cost their sender a proof of its address, and the next initiation has another index.
const OPENED_UNPROVEN: u32 = 8;

/// One peer.
pub(super) struct Peer {
    pub identity: Identity,
    pub sessions: Sessions,
    pub envelope: Envelope,
    /// This gateway's public key is greater than the peer's.
    is_greater: bool,
    is_reachable: bool,
    attempt: Option<Attempt>,
    attempts: u32,
    not_before: Duration,
    rekey_is_due: bool,
    confirming: Option<Confirming>,
    last_timestamp_sent: u64,
    greatest_timestamp_received: u64,
    generation: u32,
    trouble: Option<Trouble>,
}

/// An initiation that waits for its answer.
struct Attempt {
    index: u32,
    exchange: Initiated,
    /// Answers that were not authentic.
    forged: u32,
}

/// A session that the peer may not know yet to be in use.
struct Confirming {
    index: u32,
    since: Duration,
    repeats: usize,
}

impl Confirming {
    fn deadline(&self) -> Option<Duration> {
        CONFIRM_AGAIN.get(self.repeats).map(|delay| self.since + *delay)
    }
}

impl Peer {
    /// `sessions` may still hold what a peer left that had the number before.
    pub(super) fn new(identity: Identity, secret: &SecretKey, sessions: Sessions) -> Self {
        Self {
            envelope: Envelope::new(&identity.public_key),
            is_greater: secret.public() > identity.public_key,
            identity,
            sessions,
            is_reachable: false,
            attempt: None,
            attempts: 0,
            not_before: Duration::ZERO,
            rekey_is_due: false,
            confirming: None,
            last_timestamp_sent: 0,
            greatest_timestamp_received: 0,
            generation: 0,
            trouble: None,
        }
    }

    pub(super) fn set_reachable(&mut self, is_reachable: bool) {
        // A way that is new deserves a try at once.
        if is_reachable && !self.is_reachable {
            (self.attempts, self.not_before) = (0, Duration::ZERO);
        }
        self.is_reachable = is_reachable;
    }

    /// Takes over a session of an earlier daemon, if it was made with the cipher that is configured now.
    pub(super) fn adopt(&mut self, now: Duration, session: &Adopted, actions: &mut Vec<Action>) {
        self.sessions.adopt(now, session);
        if session.cipher != self.identity.cipher {
            self.sessions.retire_all(now, actions);
        }
    }

    /// The active session has sealed as many packets as `next_counter` says.
    pub(super) fn used(&mut self, index: u32, next_counter: u64) {
        let is_active = self.sessions.active().is_some_and(|active| active.index == index);
        self.rekey_is_due |= is_active && next_counter >= REKEY_AFTER_PACKETS;
    }

    /// The session may be this gateway's alone.
    pub(super) fn doubt(&mut self) {
        self.rekey_is_due = true;
    }

    pub(super) fn heard(&mut self, now: Duration, index: u32, actions: &mut Vec<Action>) {
        let before = self.active_index();
        self.sessions.hear(now, index, actions);
        self.settle(before);
        self.confirming.take_if(|confirming| confirming.index == index);
    }

    /// When [`Self::poll`] has something to do.
    pub(super) fn deadline(&self, timers: &Timers) -> Option<Duration> {
        let confirm = self.confirming.as_ref().and_then(Confirming::deadline);
        [self.sessions.deadline(), confirm, self.initiation_due(timers)].into_iter().flatten().min()
    }

    /// Does what is due.
    pub(super) fn poll(&mut self, clock: Clock, context: &mut Context, actions: &mut Vec<Action>) {
        self.sessions.poll(clock.now, actions);
        self.confirm_again(clock.now, actions);
        if self.initiation_due(context.timers).is_some_and(|due| due <= clock.now) {
            self.initiate(clock, context, actions);
        }
    }

    pub(super) fn status(&self) -> HandshakeStatus {
        let active = self.sessions.active();
        HandshakeStatus {
            last_handshake: active.and_then(|active| active.made),
            expires: active.map(|active| active.expires),
            in_progress: self.attempt.is_some(),
            attempts: self.attempts,
            trouble: self.trouble,
        }
    }

    fn initiation_due(&self, timers: &Timers) -> Option<Duration> {
        let due = match self.sessions.active() {
            None => Duration::ZERO,
            Some(_) if self.rekey_is_due => Duration::ZERO,
            Some(active) => {
                let patience = if active.is_initiator { Duration::ZERO } else { timers.responder_patience };
                active.made.map_or(Duration::ZERO, |made| made + timers.rekey_after + patience)
            }
        };
        self.is_reachable.then(|| due.max(self.not_before))
    }

    fn initiate(&mut self, clock: Clock, context: &mut Context, actions: &mut Vec<Action>) {
        self.give_up_attempt();
        let Some(index) = self.sessions.reserve(context.random) else {
            self.not_before = clock.now + WIPE_DELAY;
            return;
        };
        self.not_before = clock.now + retry_delay(self.attempts, context.random);
        self.attempts = self.attempts.saturating_add(1);
        self.last_timestamp_sent = clock.unix_ns.max(self.last_timestamp_sent.saturating_add(1));
        let offer = Offer {
            timestamp: self.last_timestamp_sent,
            cipher: self.identity.cipher as u8,
            generation: self.generation,
            sealing_with: self.sessions.active().map_or(0, |active| active.remote_index),
        };
        let Identity { number: peer, public_key, preshared_key, .. } = &self.identity;
        let (peer, ephemeral) = (*peer, context.ephemeral());
        let begun = noise::initiate(context.secret, public_key, preshared_key, ephemeral, &offer.to_bytes());
        let Ok((exchange, message)) = begun else {
            self.sessions.release(index);
            return self.report(Trouble::WeakKey, actions);
        };
        self.attempt = Some(Attempt { index, exchange, forged: 0 });
        let mut datagram = write_initiation(index, &message);
        self.envelope.address(clock.now, &mut datagram);
        actions.push(Action::Broadcast { peer, datagram });
    }

    /// Answers an initiation, and installs its session if there is one.
    pub(super) fn answer(
        &mut self,
        now: Duration,
        context: &mut Context,
        opened: Opened,
        remote_index: u32,
        actions: &mut Vec<Action>,
    ) -> Option<Vec<u8>> {
        let offer = Offer::from_bytes(&opened.offer)?;
        if offer.timestamp <= self.greatest_timestamp_received {
            return None;
        }
        self.greatest_timestamp_received = offer.timestamp;
        let before = self.active_index();
        self.sessions.supersede(now, offer.sealing_with, actions);
        self.settle(before);
        let cipher = self.identity.cipher as u8;
        if offer.cipher != cipher {
            let (message, _) =
                opened.answer(&self.identity.preshared_key, Answer { cipher, generation: 0 }.to_bytes()).ok()?;
            self.report(Trouble::CipherDiffers { own: cipher.into(), theirs: offer.cipher.into() }, actions);
            return Some(self.address_response(now, 0, remote_index, &message));
        }
        let index = self.make_room(context.random)?;
        let generation = self.generation.max(offer.generation).saturating_add(1);
        let answer = Answer { cipher, generation };
        let Ok((message, keys)) = opened.answer(&self.identity.preshared_key, answer.to_bytes()) else {
            self.sessions.release(index);
            return None;
        };
        self.install(now, context.timers, Made { index, remote_index, is_initiator: false, generation, keys }, actions);
        Some(self.address_response(now, index, remote_index, &message))
    }

    /// An initiation to the index waits for its answer.
    pub(super) fn is_waiting(&self, index: u32) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| attempt.index == index)
    }

    /// So few forged answers came that the next one is opened without proof of its sender's address.
    pub(super) fn opens_unproven(&self) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| attempt.forged < OPENED_UNPROVEN)
    }

    /// Takes the answer that [`Self::is_waiting`] waits for.
    pub(super) fn complete(
        &mut self,
        now: Duration,
        timers: &Timers,
        remote_index: u32,
        noise: &[u8; NOISE_RESPONSE_LEN],
        actions: &mut Vec<Action>,
    ) {
        let Some(attempt) = &mut self.attempt else { return };
        let index = attempt.index;
        let Ok((answer, keys)) = attempt.exchange.open(noise) else {
            attempt.forged = attempt.forged.saturating_add(1);
            return self.report(Trouble::NotAuthentic, actions);
        };
        self.attempt = None;
        let own = self.identity.cipher;
        match Answer::from_bytes(answer) {
            Some(Answer { cipher, .. }) if u32::from(cipher) != own => {
                self.sessions.release(index);
                self.report(Trouble::CipherDiffers { own, theirs: cipher.into() }, actions);
            }
            Some(Answer { generation, .. }) if remote_index != 0 => {
                let before = self.active_index();
                self.install(now, timers, Made { index, remote_index, is_initiator: true, generation, keys }, actions);
                self.settle(before);
                self.confirming = Some(Confirming { index, since: now, repeats: 0 });
            }
            _ => self.sessions.release(index),
        }
    }

    fn install(&mut self, now: Duration, timers: &Timers, made: Made, actions: &mut Vec<Action>) {
        let Made { index, remote_index, is_initiator, generation, keys: Keys { send, receive } } = made;
        self.generation = self.generation.max(generation);
        let session = NewSession {
            index,
            remote_index,
            peer: self.identity.number,
            cipher: self.identity.cipher,
            is_initiator,
            expires: now + timers.reject_after,
            send,
            receive,
        };
        let order = Order { generation, begun_by_greater: is_initiator == self.is_greater };
        self.sessions.install(now, session, order, actions);
    }

    fn address_response(
        &mut self,
        now: Duration,
        sender: u32,
        receiver: u32,
        message: &[u8; NOISE_RESPONSE_LEN],
    ) -> Vec<u8> {
        let mut datagram = write_response(sender, receiver, message);
        self.envelope.address(now, &mut datagram);
        datagram
    }

    /// An index for an answer. The peer's handshake goes before an own one that has no answer yet.
    fn make_room(&mut self, random: &mut dyn Random) -> Option<u32> {
        self.sessions.reserve(random).or_else(|| {
            self.give_up_attempt();
            self.sessions.reserve(random)
        })
    }

    fn give_up_attempt(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            self.sessions.release(attempt.index);
        }
    }

    fn active_index(&self) -> Option<u32> {
        self.sessions.active().map(|active| active.index)
    }

    /// When packets are sealed with another session than `before`, no handshake is needed for now.
    fn settle(&mut self, before: Option<u32>) {
        let active = self.active_index();
        if active.is_some() && active != before {
            self.give_up_attempt();
            (self.attempts, self.not_before, self.rekey_is_due) = (0, Duration::ZERO, false);
            self.trouble = None;
        }
    }

    fn confirm_again(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.confirming.take_if(|confirming| !self.sessions.hold(confirming.index));
        let Some(confirming) = &mut self.confirming else { return };
        if confirming.deadline().is_some_and(|deadline| deadline <= now) {
            confirming.repeats += 1;
            actions.push(Action::Confirm { peer: self.identity.number, index: confirming.index });
        }
    }

    fn report(&mut self, trouble: Trouble, actions: &mut Vec<Action>) {
        if self.trouble != Some(trouble) {
            self.trouble = Some(trouble);
            actions.push(Action::Report { peer: self.identity.number, trouble });
        }
    }
}

/// What an exchange gave.
struct Made {
    index: u32,
    remote_index: u32,
    is_initiator: bool,
    generation: u32,
    keys: Keys,
}

/// The two clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// `CLOCK_BOOTTIME`.
    pub now: Duration,
    /// Nanoseconds since 1970.
    pub unix_ns: u64,
}

/// What the handshakes of all peers share.
pub(super) struct Context<'a> {
    pub secret: &'a SecretKey,
    pub timers: &'a Timers,
    pub random: &'a mut dyn Random,
}

impl Context<'_> {
    /// An ephemeral private key.
    pub(super) fn ephemeral(&mut self) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        self.random.fill(key.as_mut());
        key
    }
}
