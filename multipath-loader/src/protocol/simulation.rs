//! Two gateways on a network that loses, duplicates, delays and reorders, through restarts and steps of the wall clock,
//! over hours of virtual time; every step is checked against what the maps of both would hold.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    net::SocketAddr,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use multipath_common::maps::{CIPHER_CHACHA20_POLY1305, session_slot};
use zeroize::Zeroizing;

use super::{Action, Adopted, Handshakes, Identity, NewSession, Random, Timers};
use crate::config::SecretKey;

/// How often a gateway sends a packet, and how often its daemon looks for first packets.
const TICK: Duration = Duration::from_millis(250);
/// How long two gateways need at most to share a session once the network works: the longest pause between two
/// initiations, and one more for an answer that found no free slot.
const BOUND: Duration = Duration::from_secs(13);

/// Reproducible random numbers.
struct Seeded(blake3::OutputReader);

impl Seeded {
    fn new(seed: u64) -> Self {
        Self(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof())
    }

    fn below(&mut self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % bound
    }
}

impl Random for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill(bytes);
    }
}

/// A path, seen from gateway 0 and from gateway 1.
#[derive(Clone, Copy)]
struct Path {
    delay_ms: u64,
    jitter_ms: u64,
    loss_percent: [u64; 2],
}

const GOOD: Path = Path { delay_ms: 10, jitter_ms: 20, loss_percent: [0, 0] };
const SLOW: Path = Path { delay_ms: 300, jitter_ms: 500, loss_percent: [20, 20] };
const LOSSY: Path = Path { delay_ms: 40, jitter_ms: 200, loss_percent: [50, 50] };
const ONE_WAY: Path = Path { delay_ms: 5, jitter_ms: 5, loss_percent: [0, 100] };
const OTHER_WAY: Path = Path { delay_ms: 1, jitter_ms: 5, loss_percent: [100, 0] };
const DEAD: Path = Path { delay_ms: 1, jitter_ms: 1, loss_percent: [100, 100] };

/// A packet that was sealed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Sealed {
    receiver: u32,
    key: [u8; 32],
    is_control: bool,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Arrival {
    Datagram(Vec<u8>),
    Packet(Sealed),
}

/// When it arrives, a number that makes it unique, at which gateway and by which path it does.
type OnItsWay = (Duration, u64, usize, usize, Arrival);

/// A gateway: its daemon, and its maps.
struct Gateway {
    handshakes: Handshakes,
    secret: SecretKey,
    peer: Identity,
    sessions: HashMap<u32, Installed>,
    /// Slots whose keys were not wiped.
    keyed: HashSet<u32>,
    active: u32,
    every_key: HashSet<[u8; 32]>,
    expiries: HashMap<u32, Duration>,
    is_reachable: bool,
    /// How far the wall clock is behind.
    unix_behind: u64,
    installs: usize,
    last_retired: HashMap<u32, Duration>,
}

struct Installed {
    session: NewSession,
    has_received: bool,
}

struct World {
    now: Duration,
    random: Seeded,
    timers: Timers,
    paths: Vec<Path>,
    arrivals: BinaryHeap<Reverse<OnItsWay>>,
    sent: u64,
    gateways: [Gateway; 2],
    next_tick: Duration,
    delivered: usize,
}

impl World {
    /// `hub`: gateway 1 can send only after it heard gateway 0.
    fn new(seed: u64, timers: Timers, paths: &[Path], hub: bool) -> Self {
        let mut random = Seeded::new(seed);
        let secrets = [0, 1].map(|_| {
            let mut bytes = [0; 32];
            random.fill(&mut bytes);
            STANDARD.encode(bytes).parse::<SecretKey>().unwrap()
        });
        let gateway = |own: usize| {
            let peer = Identity {
                number: [3, 16_383][own],
                public_key: secrets[1 - own].public(),
                preshared_key: Zeroizing::new([9; 32]),
                cipher: CIPHER_CHACHA20_POLY1305,
            };
            Gateway {
                handshakes: Handshakes::new(&secrets[own], timers, Box::new(Seeded::new(seed * 2 + own as u64))),
                secret: secrets[own].clone(),
                peer,
                sessions: HashMap::new(),
                keyed: HashSet::new(),
                active: 0,
                every_key: HashSet::new(),
                expiries: HashMap::new(),
                is_reachable: own == 0 || !hub,
                unix_behind: 0,
                installs: 0,
                last_retired: HashMap::new(),
            }
        };
        let mut world = Self {
            now: Duration::from_secs(100),
            timers,
            paths: paths.to_vec(),
            arrivals: BinaryHeap::new(),
            sent: 0,
            gateways: [0, 1].map(gateway),
            next_tick: Duration::from_secs(100),
            random,
            delivered: 0,
        };
        for gateway in &mut world.gateways {
            gateway.begin(Duration::from_secs(100));
        }
        world
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let arrival = self.arrivals.peek().map(|Reverse((at, ..))| *at);
            let deadlines = self.gateways.iter().map(|gateway| gateway.handshakes.next_deadline());
            let next = deadlines.chain([arrival, Some(self.next_tick)]).flatten().min().unwrap_or(end).max(self.now);
            if next > end {
                self.now = end;
                return;
            }
            self.now = next;
            self.step();
            self.check();
        }
    }

    fn step(&mut self) {
        let now = self.now;
        while let Some(Reverse((at, ..))) = self.arrivals.peek()
            && *at <= now
        {
            let Some(Reverse((_, _, to, path, arrival))) = self.arrivals.pop() else { return };
            self.arrive(to, path, arrival);
        }
        if self.next_tick <= now {
            self.next_tick += TICK;
            for own in [0, 1] {
                self.tick(own);
            }
        }
        for own in [0, 1] {
            if self.gateways[own].handshakes.next_deadline().is_some_and(|deadline| deadline <= now) {
                let gateway = &mut self.gateways[own];
                let unix_ns = 1_700_000_000_000_000_000 + now.as_nanos() as u64 - gateway.unix_behind;
                let actions = gateway.handshakes.poll(now, unix_ns);
                self.carry_out(own, None, actions);
            }
        }
    }

    fn tick(&mut self, own: usize) {
        let unconfirmed: Vec<u32> = self.gateways[own].handshakes.unconfirmed().collect();
        for index in unconfirmed {
            if self.gateways[own].sessions.get(&session_slot(index)).is_some_and(|it| it.has_received) {
                let actions = self.gateways[own].handshakes.heard(self.now, index);
                self.carry_out(own, None, actions);
            }
        }
        let path = self.random.below(self.paths.len() as u64) as usize;
        let is_control = self.random.below(4) == 0;
        self.seal(own, self.gateways[own].active, path, is_control);
    }

    fn seal(&mut self, own: usize, index: u32, path: usize, is_control: bool) {
        let gateway = &self.gateways[own];
        if let Some(it) = gateway.sessions.get(&session_slot(index))
            && it.session.index == index
            && gateway.is_reachable
            && self.now < it.session.expires
        {
            let packet = Sealed { receiver: it.session.remote_index, key: *it.session.send, is_control };
            self.send(own, path, || Arrival::Packet(packet.clone()));
        }
    }

    fn send(&mut self, own: usize, path: usize, arrival: impl Fn() -> Arrival) {
        let Path { delay_ms, jitter_ms, loss_percent } = self.paths[path];
        let copies = if self.random.below(10) == 0 { 2 } else { 1 };
        for _ in 0..copies {
            let delay = Duration::from_millis(delay_ms + self.random.below(jitter_ms));
            self.sent += 1;
            if self.random.below(100) >= loss_percent[own] {
                self.arrivals.push(Reverse((self.now + delay, self.sent, 1 - own, path, arrival())));
            }
        }
    }

    fn arrive(&mut self, to: usize, path: usize, arrival: Arrival) {
        match arrival {
            Arrival::Datagram(bytes) => {
                let from: SocketAddr = format!("192.0.2.{}:5182", path * 2 + to).parse().unwrap();
                let actions = self.gateways[to].handshakes.receive(self.now, from, &bytes);
                self.carry_out(to, Some(path), actions);
            }
            Arrival::Packet(Sealed { receiver, key, is_control }) => {
                let (now, gateway) = (self.now, &mut self.gateways[to]);
                if now >= gateway.expiries[&receiver] {
                    return;
                }
                let installed = gateway.sessions.get_mut(&session_slot(receiver));
                let it = installed.filter(|it| it.session.index == receiver).expect("a packet found no session");
                assert_eq!(*it.session.receive, key, "a packet was sealed with another key");
                it.has_received = true;
                self.delivered += 1;
                if !gateway.is_reachable {
                    gateway.is_reachable = true;
                    gateway.handshakes.set_reachable(gateway.peer.number, true);
                }
                if is_control {
                    let actions = self.gateways[to].handshakes.heard(now, receiver);
                    self.carry_out(to, None, actions);
                }
            }
        }
    }

    fn carry_out(&mut self, own: usize, came_by: Option<usize>, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Broadcast { peer, datagram } => {
                    assert_eq!(peer, self.gateways[own].peer.number);
                    for path in 0..self.paths.len() {
                        self.send(own, path, || Arrival::Datagram(datagram.clone()));
                    }
                }
                Action::Reply { datagram } => {
                    self.send(own, came_by.expect("a reply to a datagram"), || Arrival::Datagram(datagram.clone()));
                }
                Action::Confirm { index, .. } => {
                    for path in 0..self.paths.len() {
                        self.seal(own, index, path, true);
                    }
                }
                Action::Report { trouble, .. } => panic!("{trouble}"),
                action => self.gateways[own].write_maps(self.now, action),
            }
        }
    }

    /// What a gateway seals with, the other can open; unless it has expired there.
    fn check(&self) {
        for own in [0, 1] {
            let (one, other) = (&self.gateways[own], &self.gateways[1 - own]);
            if one.active == 0 {
                continue;
            }
            let session = &one.sessions[&session_slot(one.active)].session;
            if self.now >= other.expiries[&session.remote_index] || self.now >= session.expires {
                continue;
            }
            let counterpart = other.sessions.get(&session_slot(session.remote_index));
            let counterpart = &counterpart.expect("the other end has no such session").session;
            assert_eq!((counterpart.index, counterpart.remote_index), (session.remote_index, session.index));
            assert_eq!((&counterpart.receive, &counterpart.send), (&session.send, &session.receive));
            assert_ne!(counterpart.is_initiator, session.is_initiator);
        }
    }

    fn share_a_session(&self) -> bool {
        let [one, other] = &self.gateways;
        one.active != 0 && one.sessions[&session_slot(one.active)].session.remote_index == other.active
    }

    /// The time until both seal with the same session.
    fn settle(&mut self) -> Duration {
        let began = self.now;
        while !self.share_a_session() {
            assert!(self.now < began + BOUND, "no common session after {BOUND:?}");
            self.run(Duration::from_millis(10));
        }
        self.now.saturating_sub(began)
    }

    fn restart(&mut self, own: usize) {
        let (now, timers) = (self.now, self.timers);
        let seed = self.random.below(u64::MAX);
        self.gateways[own].restart(now, timers, seed);
    }
}

impl Gateway {
    fn begin(&mut self, now: Duration) {
        self.handshakes.set_peers(now, std::slice::from_ref(&self.peer));
        self.handshakes.set_reachable(self.peer.number, self.is_reachable);
    }

    fn restart(&mut self, now: Duration, timers: Timers, seed: u64) {
        self.handshakes = Handshakes::new(&self.secret, timers, Box::new(Seeded::new(seed)));
        self.begin(now);
        self.keyed.retain(|slot| self.sessions.contains_key(slot));
        for it in self.sessions.values() {
            let NewSession { index, remote_index, cipher, is_initiator, expires, .. } = it.session;
            let is_current = index == self.active;
            self.handshakes.adopt(now, &Adopted { index, remote_index, cipher, expires, is_initiator, is_current });
        }
    }

    fn write_maps(&mut self, now: Duration, action: Action) {
        match action {
            Action::Install(session) => {
                let slot = session_slot(session.index);
                assert_eq!(slot / 4, self.peer.number);
                assert!(session.index >> 16 != 0 && session.remote_index != 0);
                assert!(self.keyed.insert(slot), "slot {slot} still has keys");
                assert!(self.every_key.insert(*session.send), "a key was installed twice");
                assert!(self.every_key.insert(*session.receive), "a key was installed twice");
                self.expiries.insert(session.index, session.expires);
                self.installs += 1;
                let before = self.sessions.insert(slot, Installed { session, has_received: false });
                assert!(before.is_none());
            }
            Action::Activate { peer, index } => {
                assert_eq!(peer, self.peer.number);
                assert!(index == 0 || self.sessions[&session_slot(index)].session.index == index);
                assert_ne!(self.active, index);
                self.active = index;
            }
            Action::Retire { index } => {
                assert_ne!(self.active, index, "an active session was retired");
                let retired = self.sessions.remove(&session_slot(index)).expect("a session to retire");
                assert_eq!(retired.session.index, index);
                self.last_retired.insert(index, now);
            }
            Action::Wipe { index } => {
                assert!(now >= self.last_retired[&index] + Duration::from_millis(100), "wiped too early");
                assert!(!self.sessions.contains_key(&session_slot(index)));
                assert!(self.keyed.remove(&session_slot(index)), "nothing to wipe");
            }
            action => panic!("{action:?} is not for the maps"),
        }
    }
}

const MINUTE: Duration = Duration::from_mins(1);
/// Fast enough that a test sees many sessions.
const BRISK: Duration = Duration::from_secs(16);

#[test]
fn a_good_network_rekeys_in_time_and_loses_nothing() {
    let mut world = World::new(1, Timers::default(), &[GOOD], false);
    assert!(world.settle() < Duration::from_secs(1));
    world.run(MINUTE * 61);
    let [one, other] = world.gateways.each_ref().map(|gateway| gateway.installs);
    // Two at the start, where both began.
    assert!((31..=32).contains(&one) && (31..=32).contains(&other), "{one} and {other} sessions in 61 minutes");
    assert!(world.delivered > 2 * 4 * 60 * 60);
}

#[test]
fn any_one_path_that_works_is_enough() {
    for (seed, paths) in [
        &[DEAD, GOOD][..],
        &[GOOD, DEAD, DEAD],
        &[ONE_WAY, GOOD],
        &[OTHER_WAY, SLOW],
        &[ONE_WAY, OTHER_WAY, GOOD, DEAD],
    ]
    .into_iter()
    .enumerate()
    {
        for hub in [false, true] {
            let mut world = World::new(seed as u64, Timers::rekeying_after(BRISK), paths, hub);
            world.settle();
            world.run(MINUTE);
        }
    }
}

/// Loss, outages, restarts and clock steps; after each outage the gateways share a session in bounded time.
fn live_through(seed: u64, rounds: u32) {
    let timers = Timers::rekeying_after(BRISK);
    let mut world = World::new(seed, timers, &[LOSSY, SLOW, LOSSY], seed.is_multiple_of(2));
    for _ in 0..rounds {
        world.paths = match world.random.below(5) {
            0 => vec![LOSSY, DEAD, DEAD],
            1 => vec![DEAD; 3],
            2 => vec![ONE_WAY, OTHER_WAY, DEAD],
            3 => vec![LOSSY, SLOW, LOSSY],
            _ => vec![GOOD, SLOW, OTHER_WAY],
        };
        for _ in 0..world.random.below(4) {
            let pause = Duration::from_millis(world.random.below(8000));
            world.run(pause);
            let (own, step) = (world.random.below(2) as usize, world.random.below(7_200_000_000_000));
            match world.random.below(3) {
                // The wall clock steps back by up to two hours while the daemon runs.
                0 => world.gateways[own].unix_behind += step,
                // It was put right before the daemon starts again.
                1 => {
                    world.gateways[own].unix_behind = 0;
                    world.restart(own);
                }
                _ => {}
            }
        }
        world.paths = vec![DEAD, GOOD, ONE_WAY];
        world.settle();
        let calm = Duration::from_millis(world.random.below(30_000));
        world.run(calm);
    }
}

#[test]
fn whatever_happens_they_share_a_session_again() {
    for seed in 0..6 {
        live_through(seed, 4);
    }
}

#[test]
#[ignore = "takes minutes: hours of virtual time"]
fn whatever_happens_for_hours() {
    for seed in 100..160 {
        live_through(seed, 30);
    }
}
