//! A gateway without a data plane: the handshakes, and what their orders make of the slots.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    time::Duration,
};

use multipath_common::maps::{
    CIPHER_CHACHA20_POLY1305, MAX_COUNTER, SESSIONS_PER_PEER, WIPE_DELAY_MS, first_session_slot, session_slot,
};
use multipath_loader::{
    config::{PublicKey, SecretKey},
    protocol::{
        Action, Adopted, Handshakes, Identity, NewSession, Random, Timers,
        message::{INITIATION_LEN, MAC_LEN},
    },
};

/// The wall clock at boot, nanoseconds since 1970.
const BOOTED_AT: u64 = 1_700_000_000_000_000_000;
/// How long a daemon hears nothing until it doubts the session.
const DOUBT_AFTER: Duration = Duration::from_secs(15);

/// What leaves a gateway.
pub enum Sent {
    /// To a peer, by its number.
    Broadcast(u32, Vec<u8>),
    /// To where the datagram in hand came from.
    Reply(Vec<u8>),
    /// A sealed keepalive: the peer's number, the peer's receiver index.
    Keepalive(u32, u32),
}

enum Slot {
    Held(NewSession),
    Retired { index: u32, at: Duration },
}

/// A gateway.
pub struct Gateway {
    pub secret: SecretKey,
    peers: Vec<Identity>,
    handshakes: Handshakes,
    slots: BTreeMap<u32, Slot>,
    /// Receiver index of the session to seal with, by the peer's number.
    active: BTreeMap<u32, u32>,
    /// Initiations that led to a session.
    answered: HashSet<Vec<u8>>,
    heard_at: Duration,
    restarts: u64,
}

impl Gateway {
    pub fn new(secret: &SecretKey, peers: &[PublicKey], now: Duration) -> Self {
        let identity = |(number, public_key): (usize, &PublicKey)| Identity {
            number: number as u32,
            public_key: *public_key,
            preshared_key: [7; 32].into(),
            cipher: CIPHER_CHACHA20_POLY1305,
        };
        let peers: Vec<Identity> = peers.iter().enumerate().map(identity).collect();
        let mut gateway = Self {
            handshakes: handshakes(secret, 0),
            secret: secret.clone(),
            peers,
            slots: BTreeMap::new(),
            active: BTreeMap::new(),
            answered: HashSet::new(),
            heard_at: now,
            restarts: 0,
        };
        gateway.handshakes.set_peers(now, &gateway.peers);
        gateway
    }

    /// The daemon dies, and the next one takes over what stands in the maps.
    pub fn restart(&mut self, now: Duration) {
        self.restarts += 1;
        self.handshakes = handshakes(&self.secret, self.restarts);
        self.handshakes.set_peers(now, &self.peers);
        self.slots.retain(|_, slot| matches!(slot, Slot::Held(_)));
        for slot in self.slots.values() {
            let Slot::Held(session) = slot else { continue };
            self.handshakes.adopt(
                now,
                &Adopted {
                    index: session.index,
                    remote_index: session.remote_index,
                    cipher: session.cipher,
                    expires: session.expires,
                    is_initiator: session.is_initiator,
                    is_current: self.active.get(&session.peer) == Some(&session.index),
                },
            );
        }
    }

    pub fn set_reachable(&mut self, peer: u32, is_reachable: bool) {
        self.handshakes.set_reachable(peer, is_reachable);
    }

    pub fn doubt(&mut self, peer: u32) {
        self.handshakes.doubt(peer);
    }

    /// The session that is in use has sealed nearly all that it may.
    pub fn use_up(&mut self, peer: u32) {
        if let Some(session) = self.active(peer) {
            let index = session.index;
            self.handshakes.used(index, MAX_COUNTER - 1);
        }
    }

    pub fn next_deadline(&self) -> Option<Duration> {
        self.handshakes.next_deadline()
    }

    pub fn poll(&mut self, now: Duration) -> Vec<Sent> {
        let actions = self.handshakes.poll(now, BOOTED_AT + now.as_nanos() as u64);
        assert!(self.handshakes.next_deadline().is_none_or(|deadline| deadline > now), "polled in vain");
        self.carry_out(now, actions, None)
    }

    pub fn receive(&mut self, now: Duration, from: SocketAddr, datagram: &[u8]) -> Vec<Sent> {
        let actions = self.handshakes.receive(now, from, datagram);
        self.carry_out(now, actions, Some(datagram))
    }

    /// A packet came that was sealed by the peer's end of the session; whether that is a session here.
    pub fn hear(&mut self, now: Duration, index: u32) -> Vec<Sent> {
        if self.session(index).is_none() {
            return Vec::new();
        }
        self.heard_at = now;
        let actions = self.handshakes.heard(now, index);
        self.carry_out(now, actions, None)
    }

    /// What the daemon does when the first peer is silent.
    pub fn doubt_silence(&mut self, now: Duration) {
        if now >= self.heard_at + DOUBT_AFTER {
            self.heard_at = now;
            self.handshakes.doubt(0);
        }
    }

    pub fn session(&self, index: u32) -> Option<&NewSession> {
        match self.slots.get(&session_slot(index)) {
            Some(Slot::Held(session)) if session.index == index => Some(session),
            _ => None,
        }
    }

    /// The receiver indices of all sessions.
    pub fn sessions(&self) -> impl Iterator<Item = u32> {
        self.slots.values().filter_map(|slot| if let Slot::Held(session) = slot { Some(session.index) } else { None })
    }

    /// What the peer's packets are sealed with.
    pub fn active(&self, peer: u32) -> Option<&NewSession> {
        self.session(*self.active.get(&peer)?)
    }

    fn carry_out(&mut self, now: Duration, actions: Vec<Action>, datagram: Option<&[u8]>) -> Vec<Sent> {
        let mut sent = Vec::new();
        for action in actions {
            match action {
                Action::Broadcast { peer, datagram } => {
                    assert_eq!(datagram.len(), INITIATION_LEN);
                    sent.push(Sent::Broadcast(peer, datagram));
                }
                Action::Reply { datagram: reply } => {
                    let asked = datagram.expect("nobody asked");
                    assert!(reply.len() <= asked.len(), "an answer longer than the question");
                    sent.push(Sent::Reply(reply));
                }
                Action::Install(session) => self.install(now, session, datagram),
                Action::Activate { peer, index: 0 } => {
                    self.active.remove(&peer);
                }
                Action::Activate { peer, index } => {
                    assert_eq!(self.session(index).map(|session| session.peer), Some(peer), "no session to seal with");
                    self.active.insert(peer, index);
                }
                Action::Confirm { peer, index } => {
                    let session = self.session(index).expect("a session to confirm");
                    sent.push(Sent::Keepalive(peer, session.remote_index));
                }
                Action::Retire { index } => {
                    assert!(self.session(index).is_some(), "no session to retire");
                    assert!(!self.active.values().any(|active| *active == index), "the session is in use");
                    self.slots.insert(session_slot(index), Slot::Retired { index, at: now });
                }
                Action::Wipe { index } => {
                    let Some(Slot::Retired { index: retired, at }) = self.slots.remove(&session_slot(index)) else {
                        panic!("nothing to wipe")
                    };
                    assert_eq!(retired, index);
                    assert!(now >= at + Duration::from_millis(WIPE_DELAY_MS), "a program may still hold the keys");
                }
                Action::Report { trouble, .. } => assert!(!trouble.to_string().is_empty()),
            }
        }
        sent
    }

    fn install(&mut self, now: Duration, session: NewSession, datagram: Option<&[u8]>) {
        let slot = session_slot(session.index);
        let first = first_session_slot(session.peer);
        assert!((first..first + SESSIONS_PER_PEER as u32).contains(&slot), "another peer's slot");
        assert_ne!(session.index >> 16, 0);
        assert_ne!(session.remote_index, 0);
        assert!(session.expires > now && session.expires <= now + Timers::default().reject_after);
        assert_ne!(session.send, session.receive);
        assert!(!format!("{session:?}").contains("send"), "keys are shown");
        assert!(!self.slots.contains_key(&slot), "the slot is not free");
        let cause = datagram.expect("a session without a message");
        // mac2 proves an address and nothing about the message.
        let message = cause[..cause.len() - MAC_LEN].to_vec();
        assert!(session.is_initiator || self.restarts > 0 || self.answered.insert(message), "a replay made a session");
        self.slots.insert(slot, Slot::Held(session));
    }
}

fn handshakes(secret: &SecretKey, seed: u64) -> Handshakes {
    let [first, ..] = *secret.as_bytes();
    Handshakes::new(secret, Timers::default(), Box::new(Reproducible(seed << 8 | u64::from(first))))
}

/// `SplitMix64`: the same for the same input.
struct Reproducible(u64);

impl Random for Reproducible {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
            chunk.copy_from_slice(&mixed.to_le_bytes()[..chunk.len()]);
        }
    }
}
