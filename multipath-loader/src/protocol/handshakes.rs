//! The handshakes with all peers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    time::Duration,
};

use multipath_common::maps::{SESSIONS_PER_PEER, session_slot};
use zeroize::Zeroizing;

use super::{
    action::{Action, Adopted, HandshakeStatus, Identity, Random},
    answered::Answered,
    cookie::Doorkeeper,
    message::{self, Macs, Message, NOISE_INITIATION_LEN, NOISE_RESPONSE_LEN},
    noise,
    peer::{Clock, Context, Peer},
    rate_limit::{Load, Sources},
    sessions::Sessions,
    timers::Timers,
};
use crate::config::{PublicKey, SecretKey};

/// Makes sessions with peers: decides what to send and what to write to the maps, and does neither.
///
/// All `now` are times of `CLOCK_BOOTTIME` that never go back, all `unix_ns` nanoseconds since 1970 by the wall clock,
/// which may go anywhere. After every call [`Self::next_deadline`] may be another.
pub struct Handshakes {
    secret: SecretKey,
    timers: Timers,
    random: Box<dyn Random>,
    doorkeeper: Doorkeeper,
    unproven: Sources,
    proven: Sources,
    load: Load,
    answered: Answered,
    /// By number.
    peers: BTreeMap<u32, Peer>,
    numbers: HashMap<PublicKey, u32>,
    /// Slots of numbers that are no peer's any more, until they are wiped.
    departed: BTreeMap<u32, Sessions>,
    deadlines: Deadlines,
    /// For the next poll.
    queued: Vec<Action>,
}

impl Handshakes {
    /// Handshakes of the gateway with the private key `secret`; still with nobody.
    pub fn new(secret: &SecretKey, timers: Timers, mut random: Box<dyn Random>) -> Self {
        let mut sources = || {
            let mut key = Zeroizing::new([0; 32]);
            random.fill(key.as_mut());
            Sources::new(key)
        };
        let (unproven, proven) = (sources(), sources());
        Self {
            doorkeeper: Doorkeeper::new(&secret.public()),
            secret: secret.clone(),
            timers,
            random,
            unproven,
            proven,
            load: Load::default(),
            answered: Answered::default(),
            peers: BTreeMap::new(),
            numbers: HashMap::new(),
            departed: BTreeMap::new(),
            deadlines: Deadlines::default(),
            queued: Vec::new(),
        }
    }

    /// These are the peers from now on. One whose number, keys and cipher are as before keeps its sessions; all others
    /// are retired by the next poll.
    pub fn set_peers(&mut self, now: Duration, peers: &[Identity]) {
        let before = std::mem::take(&mut self.peers);
        for (number, peer) in before {
            if peers.contains(&peer.identity) {
                self.peers.insert(number, peer);
                continue;
            }
            let mut sessions = peer.sessions;
            sessions.retire_all(now, &mut self.queued);
            self.departed.insert(number, sessions);
            self.reschedule(number);
        }
        for identity in peers {
            let number = identity.number;
            if !self.peers.contains_key(&number) {
                let sessions = self.departed.remove(&number).unwrap_or_else(|| Sessions::new(number));
                self.peers.insert(number, Peer::new(identity.clone(), &self.secret, sessions));
                self.reschedule(number);
            }
        }
        self.numbers = peers.iter().map(|identity| (identity.public_key, identity.number)).collect();
    }

    /// Takes over a session that stands in the maps after a restart; the peer is rekeyed at once. What can't be kept
    /// (no peer has its slot, or the peer's cipher is another) is retired by the next poll.
    ///
    /// The caller answers for it that the session was made with the public key and the preshared key that the peer of
    /// its slot has now.
    pub fn adopt(&mut self, now: Duration, session: &Adopted) {
        let number = peer_of(session.index);
        if let Some(peer) = self.peers.get_mut(&number) {
            peer.adopt(now, session, &mut self.queued);
        } else {
            let sessions = self.departed.entry(number).or_insert_with(|| Sessions::new(number));
            sessions.adopt(now, session);
            sessions.retire_all(now, &mut self.queued);
        }
        self.reschedule(number);
    }

    /// A datagram of type 1 to 3 came. What is not authentic changes nothing and is not answered, but by a cookie.
    pub fn receive(&mut self, now: Duration, from: SocketAddr, datagram: &[u8]) -> Vec<Action> {
        match message::parse(datagram) {
            Ok(Message::Initiation { sender, noise, macs }) => self.initiation(now, from, sender, noise, &macs),
            Ok(Message::Response { sender, receiver, noise, macs }) => {
                self.response(now, from, (sender, receiver), noise, &macs)
            }
            Ok(Message::Cookie { receiver, nonce, sealed }) => {
                if let Some(peer) = self.peers.get_mut(&peer_of(receiver)) {
                    peer.envelope.take_cookie(now, nonce, sealed);
                }
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }

    /// Authentic traffic came by the session with our receiver index `index`.
    pub fn heard(&mut self, now: Duration, index: u32) -> Vec<Action> {
        let (number, mut actions) = (peer_of(index), Vec::new());
        if let Some(peer) = self.peers.get_mut(&number) {
            peer.heard(now, index, &mut actions);
            self.reschedule(number);
        }
        actions
    }

    /// Our receiver indices of sessions by which nothing was heard yet: whoever finds the first packet of one in the
    /// maps says so by [`Self::heard`].
    pub fn unconfirmed(&self) -> impl Iterator<Item = u32> {
        self.peers.values().flat_map(|peer| peer.sessions.unheard())
    }

    /// The session has sealed `next_counter` packets. Shortly before `MAX_COUNTER` a rekey is due.
    pub fn used(&mut self, index: u32, next_counter: u64) {
        let number = peer_of(index);
        if let Some(peer) = self.peers.get_mut(&number) {
            peer.used(index, next_counter);
            self.reschedule(number);
        }
    }

    /// The peer is silent although it should not be: it may have lost the session. A rekey is due.
    pub fn doubt(&mut self, peer: u32) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.doubt();
            self.reschedule(peer);
        }
    }

    /// The peer has a path that something can be sent by, or has none. Without one its handshakes pause.
    pub fn set_reachable(&mut self, peer: u32, is_reachable: bool) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.set_reachable(is_reachable);
            self.reschedule(peer);
        }
    }

    /// Does what is due.
    pub fn poll(&mut self, now: Duration, unix_ns: u64) -> Vec<Action> {
        let mut actions = std::mem::take(&mut self.queued);
        let Self { secret, timers, random, .. } = self;
        let mut context = Context { secret, timers, random: random.as_mut() };
        let due = self.deadlines.due(now);
        for number in &due {
            if let Some(peer) = self.peers.get_mut(number) {
                peer.poll(Clock { now, unix_ns }, &mut context, &mut actions);
            } else if let Some(sessions) = self.departed.get_mut(number) {
                sessions.poll(now, &mut actions);
            }
        }
        self.departed.retain(|_, sessions| !sessions.is_empty());
        for number in due {
            self.reschedule(number);
        }
        actions
    }

    /// When the next [`Self::poll`] is due; at once if that has passed, never if there is none.
    pub fn next_deadline(&self) -> Option<Duration> {
        if self.queued.is_empty() { self.deadlines.first() } else { Some(Duration::ZERO) }
    }

    /// How the handshakes with a peer stand.
    pub fn status(&self, peer: u32) -> HandshakeStatus {
        self.peers.get(&peer).map(Peer::status).unwrap_or_default()
    }

    fn initiation(
        &mut self,
        now: Duration,
        from: SocketAddr,
        sender: u32,
        noise: &[u8; NOISE_INITIATION_LEN],
        macs: &Macs,
    ) -> Vec<Action> {
        if !self.doorkeeper.is_for_us(macs) {
            return Vec::new();
        }
        if let Some(datagram) = self.answered.again(now, macs.mac1) {
            return vec![Action::Reply { datagram }];
        }
        if let Err(refusal) = self.admit(now, from, sender, macs) {
            return refusal;
        }
        let Self { secret, timers, random, .. } = self;
        let mut context = Context { secret, timers, random: random.as_mut() };
        let ephemeral = context.ephemeral();
        let Ok(opened) = noise::open(secret, ephemeral, noise) else { return Vec::new() };
        let Some(&number) = self.numbers.get(&opened.remote) else { return Vec::new() };
        let Some(peer) = self.peers.get_mut(&number) else { return Vec::new() };
        let mut actions = Vec::new();
        if let Some(datagram) = peer.answer(now, &mut context, opened, sender, &mut actions) {
            self.answered.remember(now, *macs.mac1, datagram.clone());
            actions.push(Action::Reply { datagram });
        }
        self.reschedule(number);
        actions
    }

    fn response(
        &mut self,
        now: Duration,
        from: SocketAddr,
        (sender, receiver): (u32, u32),
        noise: &[u8; NOISE_RESPONSE_LEN],
        macs: &Macs,
    ) -> Vec<Action> {
        let number = peer_of(receiver);
        let Some(waiting) = self.peers.get(&number).filter(|peer| peer.is_waiting(receiver)) else { return Vec::new() };
        if !self.doorkeeper.is_for_us(macs) {
            return Vec::new();
        }
        // Few know the index that an answer must name: it is no matter what else comes under the peer's address.
        if !waiting.opens_unproven()
            && let Err(refusal) = self.admit(now, from, sender, macs)
        {
            return refusal;
        }
        let mut actions = Vec::new();
        if let Some(peer) = self.peers.get_mut(&number) {
            peer.complete(now, &self.timers, sender, noise, &mut actions);
            self.reschedule(number);
        }
        actions
    }

    /// Whether a message may cost a multiplication on the curve. If not: what to do instead.
    ///
    /// A source whose address is not proven has to prove it once all sources together, or it alone, send too much. Who
    /// sends under another's address uses up what that one may send without proof, and no more: what it may send with
    /// proof takes a cookie, and cookies have no limit. They are cheap, and shorter than what they answer.
    fn admit(&mut self, now: Duration, from: SocketAddr, sender: u32, macs: &Macs) -> Result<(), Vec<Action>> {
        let is_loaded = self.load.count(now);
        let source = from.ip();
        if self.doorkeeper.is_proven(now, macs, from) {
            return if self.proven.allow(now, source) { Ok(()) } else { Err(Vec::new()) };
        }
        if !is_loaded && self.unproven.allow(now, source) {
            return Ok(());
        }
        if sender == 0 {
            return Err(Vec::new());
        }
        let datagram = self.doorkeeper.cookie_message(now, self.random.as_mut(), sender, macs, from);
        Err(vec![Action::Reply { datagram }])
    }

    fn reschedule(&mut self, number: u32) {
        let deadline = match self.peers.get(&number) {
            Some(peer) => peer.deadline(&self.timers),
            None => self.departed.get(&number).and_then(Sessions::deadline),
        };
        self.deadlines.set(number, deadline);
    }
}

fn peer_of(index: u32) -> u32 {
    session_slot(index) / SESSIONS_PER_PEER as u32
}

/// The peers' deadlines in their order.
#[derive(Default)]
struct Deadlines {
    of_peer: HashMap<u32, Duration>,
    in_order: BTreeSet<(Duration, u32)>,
}

impl Deadlines {
    fn set(&mut self, peer: u32, deadline: Option<Duration>) {
        if let Some(before) = self.of_peer.remove(&peer) {
            self.in_order.remove(&(before, peer));
        }
        if let Some(deadline) = deadline {
            self.of_peer.insert(peer, deadline);
            self.in_order.insert((deadline, peer));
        }
    }

    fn first(&self) -> Option<Duration> {
        self.in_order.first().map(|(deadline, _)| *deadline)
    }

    /// Peers whose deadline is `now` or was before.
    fn due(&self, now: Duration) -> Vec<u32> {
        self.in_order.iter().take_while(|(deadline, _)| *deadline <= now).map(|(_, peer)| *peer).collect()
    }
}
