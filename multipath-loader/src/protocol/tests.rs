//! What [`Handshakes`] does, case by case; what it does over time is in `simulation`.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use multipath_common::maps::{CIPHER_AUTH, CIPHER_CHACHA20_POLY1305, MAX_COUNTER, first_session_slot, session_slot};
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::{
    Action, Adopted, Handshakes, Identity, NewSession, Random, Timers, Trouble,
    message::{COOKIE_LEN, INITIATION_LEN, MAC_LEN, RESPONSE_LEN},
    rate_limit::LOAD_PER_SECOND,
};
use crate::config::SecretKey;

const START: Duration = Duration::from_secs(1000);
const SECOND: Duration = Duration::from_secs(1);
const UNIX_NS: u64 = 1_700_000_000_000_000_000;
/// The peer's number at either end.
const PEER: u32 = 7;

/// Bytes that are all different, and a count of the ephemeral keys that were drawn: one for every exchange.
struct Drawn {
    next: u64,
    exchanges: Arc<AtomicU64>,
}

impl Random for Drawn {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.next += 1;
        blake3::Hasher::new().update(&self.next.to_le_bytes()).finalize_xof().fill(bytes);
        self.exchanges.fetch_add(u64::from(bytes.len() == 32), Ordering::Relaxed);
    }
}

struct Gateway {
    handshakes: Handshakes,
    secret: SecretKey,
    exchanges: Arc<AtomicU64>,
    from: SocketAddr,
}

fn secret(byte: u8) -> SecretKey {
    STANDARD.encode([byte; 32]).parse().unwrap()
}

fn identity(secret: &SecretKey) -> Identity {
    Identity {
        number: PEER,
        public_key: secret.public(),
        preshared_key: Zeroizing::new([0; 32]),
        cipher: CIPHER_CHACHA20_POLY1305,
    }
}

impl Gateway {
    fn new(byte: u8) -> Self {
        let (secret, exchanges) = (secret(byte), Arc::new(AtomicU64::new(0)));
        let random = Drawn { next: u64::from(byte) << 32, exchanges: exchanges.clone() };
        let handshakes = Handshakes::new(&secret, Timers::default(), Box::new(random));
        // The keys of the rate limits and of the first cookies are no exchanges.
        exchanges.store(0, Ordering::Relaxed);
        Self { handshakes, secret, exchanges, from: SocketAddr::from(([192, 0, 2, byte], 5182)) }
    }

    fn know(&mut self, peers: &[Identity]) {
        self.handshakes.set_peers(START, peers);
        for peer in peers {
            self.handshakes.set_reachable(peer.number, true);
        }
    }

    fn exchanges(&self) -> u64 {
        self.exchanges.load(Ordering::Relaxed)
    }

    /// The initiation that is due.
    fn initiate(&mut self, now: Duration) -> Vec<u8> {
        initiation(&self.handshakes.poll(now, UNIX_NS + now.as_nanos() as u64)).expect("an initiation")
    }

    fn receive(&mut self, now: Duration, from: SocketAddr, datagram: &[u8]) -> Vec<Action> {
        self.handshakes.receive(now, from, datagram)
    }
}

/// Two gateways that know each other.
fn pair() -> [Gateway; 2] {
    pair_with(|_| {})
}

/// The same, with what the second one has configured about the first changed.
fn pair_with(change: impl Fn(&mut Identity)) -> [Gateway; 2] {
    let (mut one, mut other) = (Gateway::new(1), Gateway::new(2));
    one.know(&[identity(&other.secret)]);
    let mut known = identity(&one.secret);
    change(&mut known);
    other.know(&[known]);
    [one, other]
}

fn initiation(actions: &[Action]) -> Option<Vec<u8>> {
    actions.iter().find_map(|action| match action {
        Action::Broadcast { peer: PEER, datagram } => Some(datagram.clone()),
        _ => None,
    })
}

fn reply(actions: &[Action]) -> Option<Vec<u8>> {
    actions.iter().find_map(|action| match action {
        Action::Reply { datagram } => Some(datagram.clone()),
        _ => None,
    })
}

fn installed(actions: &[Action]) -> Option<&NewSession> {
    actions.iter().find_map(|action| match action {
        Action::Install(session) => Some(session),
        _ => None,
    })
}

fn kinds(actions: &[Action]) -> Vec<&'static str> {
    let kind = |action: &Action| match action {
        Action::Broadcast { .. } => "broadcast",
        Action::Reply { .. } => "reply",
        Action::Install(_) => "install",
        Action::Activate { index: 0, .. } => "deactivate",
        Action::Activate { .. } => "activate",
        Action::Confirm { .. } => "confirm",
        Action::Retire { .. } => "retire",
        Action::Wipe { .. } => "wipe",
        Action::Report { .. } => "report",
    };
    actions.iter().map(kind).collect()
}

/// A handshake that `one` begins and that both ends know to be through. Our receiver indices.
fn shake_hands(one: &mut Gateway, other: &mut Gateway, now: Duration) -> [u32; 2] {
    let initiation = one.initiate(now);
    let answered = other.receive(now, one.from, &initiation);
    let completed = one.receive(now, other.from, &reply(&answered).unwrap());
    let indices = [&completed, &answered].map(|actions| installed(actions).unwrap().index);
    assert_eq!(kinds(&other.handshakes.heard(now, indices[1])), ["activate", "confirm"]);
    assert_eq!(kinds(&one.handshakes.heard(now, indices[0])), [""; 0]);
    indices
}

#[test]
fn a_handshake_gives_both_ends_the_same_session() {
    let [mut one, mut other] = pair();
    let initiation = one.initiate(START);
    assert_eq!(initiation.len(), INITIATION_LEN);
    let answered = other.receive(START, one.from, &initiation);
    assert_eq!(kinds(&answered), ["install", "reply"]);
    let response = reply(&answered).unwrap();
    assert_eq!(response.len(), RESPONSE_LEN);
    let completed = one.receive(START + SECOND, other.from, &response);
    assert_eq!(kinds(&completed), ["install", "activate", "confirm"]);
    let (ours, theirs) = (installed(&completed).unwrap(), installed(&answered).unwrap());
    assert_eq!((ours.index, ours.remote_index), (theirs.remote_index, theirs.index));
    assert_eq!((&ours.send, &ours.receive), (&theirs.receive, &theirs.send));
    assert_ne!(ours.send, ours.receive);
    assert_eq!((ours.is_initiator, theirs.is_initiator), (true, false));
    assert_eq!((ours.peer, ours.cipher), (PEER, CIPHER_CHACHA20_POLY1305));
    assert_eq!((ours.expires, theirs.expires), (START + 181 * SECOND, START + 180 * SECOND));
    for session in [ours, theirs] {
        assert_eq!(session_slot(session.index) & !3, first_session_slot(PEER));
        assert!(!format!("{session:?}").contains("send"));
    }
    assert_eq!(one.handshakes.status(PEER).last_handshake, Some(START + SECOND));
    assert_eq!(other.handshakes.status(PEER).last_handshake, None);
    let ours = ours.index;
    assert_eq!(other.handshakes.unconfirmed().collect::<Vec<_>>(), [theirs.index]);
    assert_eq!(kinds(&other.handshakes.heard(START, theirs.index)), ["activate", "confirm"]);
    assert_eq!(kinds(&other.handshakes.heard(START, theirs.index)), [""; 0]);
    assert_eq!(one.handshakes.unconfirmed().collect::<Vec<_>>(), [ours]);
}

#[test]
fn the_first_packet_is_confirmed_until_something_is_heard() {
    let [mut one, mut other] = pair();
    let initiation = one.initiate(START);
    let response = reply(&other.receive(START, one.from, &initiation)).unwrap();
    let index = installed(&one.receive(START, other.from, &response)).unwrap().index;
    for delay_ms in [100, 500] {
        let due = START + Duration::from_millis(delay_ms);
        assert_eq!(one.handshakes.next_deadline(), Some(due));
        assert_eq!(kinds(&one.handshakes.poll(due, UNIX_NS)), ["confirm"]);
    }
    one.handshakes.heard(START + SECOND, index);
    assert_eq!(kinds(&one.handshakes.poll(START + 2 * SECOND, UNIX_NS)), [""; 0]);
    assert_eq!(one.handshakes.next_deadline(), Some(START + 120 * SECOND));
}

#[test]
fn strangers_get_no_answer() {
    let (mut stranger, mut other) = (Gateway::new(1), Gateway::new(2));
    stranger.know(&[identity(&other.secret)]);
    other.know(&[identity(&secret(3))]);
    let initiation = stranger.initiate(START);
    assert_eq!(kinds(&other.receive(START, stranger.from, &initiation)), [""; 0]);
    assert_eq!(other.handshakes.unconfirmed().count(), 0);
    assert!(!other.handshakes.status(PEER).in_progress);
}

#[test]
fn every_byte_of_an_initiation_and_of_a_response_counts() {
    let [mut one, mut other] = pair();
    let initiation = one.initiate(START);
    let at = |byte: usize| START + SECOND * byte as u32;
    for byte in 0..INITIATION_LEN - MAC_LEN {
        let mut forged = initiation.clone();
        forged[byte] ^= 1;
        assert_eq!(kinds(&other.receive(at(byte), one.from, &forged)), [""; 0], "byte {byte}");
    }
    let response = reply(&other.receive(at(200), one.from, &initiation)).unwrap();
    for byte in 0..RESPONSE_LEN - MAC_LEN {
        let mut forged = response.clone();
        forged[byte] ^= 1;
        assert_eq!(kinds(&one.receive(at(byte), other.from, &forged)), [""; 0], "byte {byte}");
    }
    assert_eq!(kinds(&one.receive(at(200), other.from, &response)), ["install", "activate", "confirm"]);
}

#[test]
fn a_replayed_initiation_makes_no_session() {
    let [mut one, mut other] = pair();
    let old = one.initiate(START);
    let now = START + SECOND;
    shake_hands(&mut one, &mut other, now);
    let much_later = now + 10 * SECOND;
    assert_eq!(kinds(&other.receive(much_later, one.from, &old)), [""; 0], "older than the last");
    one.handshakes.set_reachable(PEER, true);
    let last = {
        let due = now + 120 * SECOND;
        let last = one.initiate(due);
        assert_eq!(kinds(&other.receive(due, one.from, &last)), ["install", "reply"]);
        last
    };
    assert_eq!(kinds(&other.receive(now + 130 * SECOND, one.from, &last)), [""; 0], "the last");
}

#[test]
fn copies_get_the_same_answer_and_cost_no_exchange() {
    let [mut one, mut other] = pair();
    let initiation = one.initiate(START);
    let first = other.receive(START, one.from, &initiation);
    let exchanges = other.exchanges();
    let copy = other.receive(START + SECOND, SocketAddr::from(([198, 51, 100, 1], 9)), &initiation);
    assert_eq!(kinds(&copy), ["reply"]);
    assert_eq!(reply(&copy), reply(&first));
    assert_eq!(other.exchanges(), exchanges);
    assert_eq!(kinds(&one.receive(START, other.from, &reply(&copy).unwrap())), ["install", "activate", "confirm"]);
    assert_eq!(kinds(&one.receive(START, other.from, &reply(&first).unwrap())), [""; 0]);
}

#[test]
fn an_initiation_is_retried_ever_more_slowly_while_the_peer_is_reachable() {
    let [mut one, mut other] = pair();
    let mut now = START;
    let mut pauses = Vec::new();
    let mut last = one.initiate(now);
    for _ in 0..8 {
        let due = one.handshakes.next_deadline().unwrap();
        assert_eq!(kinds(&one.handshakes.poll(due.saturating_sub(Duration::from_nanos(1)), UNIX_NS)), [""; 0]);
        pauses.push(due.saturating_sub(now).as_millis());
        now = due;
        let next = one.initiate(now);
        assert_ne!(next, last);
        last = next;
    }
    for (pause, least) in pauses.iter().zip([250, 500, 1000, 2000, 4000, 5000, 5000, 5000]) {
        assert!((least..=least * 5 / 4).contains(pause), "{pauses:?}");
    }
    assert_eq!(one.handshakes.status(PEER).attempts, 9);
    one.handshakes.set_reachable(PEER, false);
    assert_eq!(one.handshakes.next_deadline(), None);
    one.handshakes.set_reachable(PEER, true);
    shake_hands(&mut one, &mut other, now);
    assert_eq!(one.handshakes.status(PEER).attempts, 0);
}

#[test]
fn only_the_last_initiation_can_be_answered() {
    let [mut one, mut other] = pair();
    let early = one.initiate(START);
    let late = reply(&other.receive(START, one.from, &early)).unwrap();
    let next = one.initiate(START + SECOND);
    assert_eq!(kinds(&one.receive(START + SECOND, other.from, &late)), [""; 0]);
    let answered = other.receive(START + SECOND, one.from, &next);
    assert_eq!(kinds(&answered), ["retire", "install", "reply"], "the answer that nobody took is retired");
    let wiped = other.handshakes.poll(START + SECOND + Duration::from_millis(100), UNIX_NS);
    assert!(kinds(&wiped).contains(&"wipe"));
}

#[test]
fn a_session_that_the_peer_says_it_uses_is_kept_although_nothing_came_by_it() {
    let [mut one, mut other] = pair();
    let first = one.initiate(START);
    let answered = other.receive(START, one.from, &first);
    one.receive(START, other.from, &reply(&answered).unwrap());
    one.handshakes.doubt(PEER);
    let next = one.initiate(START + SECOND);
    let actions = other.receive(START + SECOND, one.from, &next);
    assert_eq!(kinds(&actions), ["activate", "confirm", "install", "reply"]);
    let kept = installed(&answered).unwrap().index;
    assert!(matches!(actions[0], Action::Activate { index, .. } if index == kept));
}

#[test]
fn a_wall_clock_that_steps_back_does_not_stop_handshakes() {
    let [mut one, mut other] = pair();
    shake_hands(&mut one, &mut other, START);
    let due = START + 120 * SECOND;
    let initiation = initiation(&one.handshakes.poll(due, 5)).unwrap();
    assert_eq!(kinds(&other.receive(due, one.from, &initiation)), ["install", "reply"]);
}

#[test]
fn the_initiator_rekeys_and_the_responder_steps_in() {
    let [mut one, mut other] = pair();
    shake_hands(&mut one, &mut other, START);
    assert_eq!(one.handshakes.next_deadline(), Some(START + 120 * SECOND));
    assert_eq!(other.handshakes.next_deadline(), Some(START + 135 * SECOND));
    shake_hands(&mut other, &mut one, START + 135 * SECOND);
    assert_eq!(other.handshakes.next_deadline(), Some(START + 180 * SECOND), "the first session expires");
    assert_eq!(kinds(&other.handshakes.poll(START + 180 * SECOND, UNIX_NS)), ["retire"]);
    assert_eq!(kinds(&other.handshakes.poll(START + 181 * SECOND, UNIX_NS)), ["wipe"]);
    assert_eq!(other.handshakes.next_deadline(), Some(START + 255 * SECOND));
}

#[test]
fn a_session_that_nobody_replaces_expires() {
    let [mut one, mut other] = pair();
    let [index, _] = shake_hands(&mut one, &mut other, START);
    one.handshakes.set_reachable(PEER, false);
    assert_eq!(kinds(&one.handshakes.poll(START + 179 * SECOND, UNIX_NS)), [""; 0]);
    let expired = one.handshakes.poll(START + 180 * SECOND, UNIX_NS);
    assert_eq!(kinds(&expired), ["deactivate", "retire"]);
    assert!(matches!(expired[1], Action::Retire { index: retired } if retired == index));
    assert_eq!(one.handshakes.next_deadline(), Some(START + 180 * SECOND + Duration::from_millis(100)));
    assert_eq!(one.handshakes.status(PEER).last_handshake, None);
}

#[test]
fn a_session_that_is_almost_used_up_is_replaced() {
    let [mut one, mut other] = pair();
    let [index, _] = shake_hands(&mut one, &mut other, START);
    one.handshakes.used(index, MAX_COUNTER - (1 << 32) - 1);
    assert_eq!(one.handshakes.next_deadline(), Some(START + 120 * SECOND));
    one.handshakes.used(index, MAX_COUNTER - (1 << 32));
    shake_hands(&mut one, &mut other, START + SECOND);
    assert_eq!(one.handshakes.next_deadline(), Some(START + 121 * SECOND));
}

#[test]
fn a_doubted_session_is_replaced_and_used_until_then() {
    let [mut one, mut other] = pair();
    let [index, _] = shake_hands(&mut one, &mut other, START);
    one.handshakes.doubt(PEER);
    assert_eq!(kinds(&one.handshakes.poll(START + SECOND, UNIX_NS)), ["broadcast"]);
    assert_eq!(one.handshakes.status(PEER).last_handshake, Some(START));
    assert!(one.handshakes.next_deadline().unwrap() > START + SECOND);
    assert_eq!(kinds(&one.handshakes.heard(START + SECOND, index)), [""; 0]);
}

#[test]
fn handshakes_that_cross_end_at_one_session() {
    let [mut one, mut other] = pair();
    let (ours, theirs) = (one.initiate(START), other.initiate(START));
    let to_theirs = one.receive(START, other.from, &theirs);
    let to_ours = other.receive(START, one.from, &ours);
    let at_one = one.receive(START, other.from, &reply(&to_ours).unwrap());
    let at_other = other.receive(START, one.from, &reply(&to_theirs).unwrap());
    assert_eq!(kinds(&at_one), ["install", "activate", "confirm"]);
    assert_eq!(kinds(&at_other), ["install", "activate", "confirm"]);
    let by_one = (installed(&at_one).unwrap().index, installed(&to_ours).unwrap().index);
    let by_other = (installed(&to_theirs).unwrap().index, installed(&at_other).unwrap().index);
    let one_is_greater = one.secret.public() > other.secret.public();
    let at_one = kinds(&one.handshakes.heard(START, by_other.0));
    let at_other = kinds(&other.handshakes.heard(START, by_one.1));
    let changes = ["activate", "confirm"];
    if one_is_greater {
        assert_eq!((at_one.as_slice(), at_other.as_slice()), (&[""; 0][..], &changes[..]));
    } else {
        assert_eq!((at_one.as_slice(), at_other.as_slice()), (&changes[..], &[""; 0][..]));
    }
}

#[test]
fn different_ciphers_make_no_session_and_both_ends_say_so_once() {
    let [mut one, mut other] = pair_with(|identity| identity.cipher = CIPHER_AUTH);
    for (round, expected) in [(0, [&["report", "reply"][..], &["report"]]), (1, [&["reply"], &[]])] {
        let now = START + 10 * SECOND * round;
        let initiation = one.initiate(now);
        let answered = other.receive(now, one.from, &initiation);
        assert_eq!(kinds(&answered), expected[0]);
        assert_eq!(kinds(&one.receive(now, other.from, &reply(&answered).unwrap())), expected[1]);
    }
    let trouble = |gateway: &Gateway| gateway.handshakes.status(PEER).trouble;
    let differs = |own, theirs| Some(Trouble::CipherDiffers { own, theirs });
    assert_eq!(trouble(&one), differs(CIPHER_CHACHA20_POLY1305, CIPHER_AUTH));
    assert_eq!(trouble(&other), differs(CIPHER_AUTH, CIPHER_CHACHA20_POLY1305));
}

#[test]
fn different_preshared_keys_make_no_session_in_use() {
    let [mut one, mut other] = pair_with(|identity| identity.preshared_key = Zeroizing::new([1; 32]));
    for (round, expected) in [(0, &["report"][..]), (1, &[])] {
        let now = START + 10 * SECOND * round;
        let initiation = one.initiate(now);
        let response = reply(&other.receive(now, one.from, &initiation)).unwrap();
        assert_eq!(kinds(&one.receive(now, other.from, &response)), expected);
    }
    assert_eq!(one.handshakes.status(PEER).trouble, Some(Trouble::NotAuthentic));
}

#[test]
fn a_peer_with_a_weak_key_is_reported() {
    let mut one = Gateway::new(1);
    one.know(&[Identity { public_key: [0; 32].into(), ..identity(&secret(2)) }]);
    assert_eq!(kinds(&one.handshakes.poll(START, UNIX_NS)), ["report"]);
    assert!(one.handshakes.next_deadline().unwrap() > START);
}

/// A gateway that others flood with initiations whose mac1 is right, from ever new addresses.
fn flood(other: &mut Gateway, now: Duration, count: u32) -> Vec<Vec<Action>> {
    flood_from(other, now, count, |number| SocketAddr::from(((0x0a00_0000 + number).to_be_bytes(), 5182)))
}

fn flood_from(other: &mut Gateway, now: Duration, count: u32, source: impl Fn(u32) -> SocketAddr) -> Vec<Vec<Action>> {
    let mut stranger = Gateway::new(99);
    stranger.know(&[identity(&other.secret)]);
    let initiation = stranger.initiate(START);
    let forged = |number: u32| {
        let key = blake3::derive_key("mpvpn 1 mac1", other.secret.public().as_bytes());
        let mut datagram = initiation[..INITIATION_LEN - 2 * MAC_LEN].to_vec();
        datagram[20..24].copy_from_slice(&number.to_be_bytes());
        let mac1 = *blake3::keyed_hash(&key, &datagram).as_bytes().first_chunk::<MAC_LEN>().unwrap();
        datagram.extend_from_slice(&mac1);
        datagram.extend_from_slice(&[0; MAC_LEN]);
        (source(number), datagram)
    };
    let floods: Vec<_> = (0..count).map(forged).collect();
    floods.iter().map(|(from, datagram)| other.handshakes.receive(now, *from, datagram)).collect()
}

#[test]
fn a_flood_costs_no_exchange_and_a_cookie_gets_through_it() {
    let [mut one, mut other] = pair();
    let before = other.exchanges();
    let refused = flood(&mut other, START, 5000);
    // One renewal of the cookie secret is no exchange.
    assert_eq!(other.exchanges() - before, u64::from(LOAD_PER_SECOND) + 1);
    assert!(refused[..LOAD_PER_SECOND as usize].iter().all(Vec::is_empty));
    let replies: Vec<_> = refused.iter().filter_map(|actions| reply(actions)).collect();
    assert!(replies.iter().all(|datagram| datagram.len() == COOKIE_LEN));
    assert_eq!(replies.len(), 5000 - LOAD_PER_SECOND as usize);
    let before = other.exchanges();
    let initiation = one.initiate(START);
    let cookie = other.receive(START, one.from, &initiation);
    assert_eq!(reply(&cookie).unwrap().len(), COOKIE_LEN);
    assert_eq!(other.exchanges(), before);
    assert_eq!(kinds(&one.receive(START, other.from, &reply(&cookie).unwrap())), [""; 0]);
    let retry = START + SECOND;
    flood(&mut other, retry, 5000);
    let initiation = one.initiate(retry);
    let elsewhere = SocketAddr::from(([192, 0, 2, 77], 5182));
    assert_eq!(reply(&other.receive(retry, elsewhere, &initiation)).unwrap().len(), COOKIE_LEN);
    let answered = other.receive(retry, one.from, &initiation);
    assert_eq!(kinds(&answered), ["install", "reply"]);
    assert_eq!(kinds(&one.receive(retry, other.from, &reply(&answered).unwrap())), ["install", "activate", "confirm"]);
}

#[test]
fn a_flood_under_a_peers_address_does_not_keep_the_peer_out() {
    let [mut one, mut other] = pair();
    let address = one.from;
    flood_from(&mut other, START, 5000, |_| address);
    let initiation = one.initiate(START);
    let cookie = reply(&other.receive(START, one.from, &initiation)).unwrap();
    assert_eq!(kinds(&one.receive(START, other.from, &cookie)), [""; 0]);
    let retry = START + SECOND;
    flood_from(&mut other, retry, 5000, |_| address);
    let initiation = one.initiate(retry);
    assert_eq!(kinds(&other.receive(retry, one.from, &initiation)), ["install", "reply"]);
}

/// Floods two gateways, each under the other's address.
fn flood_both(one: &mut Gateway, other: &mut Gateway, now: Duration) {
    let addresses = [one.from, other.from];
    flood_from(one, now, 2000, |_| addresses[1]);
    flood_from(other, now, 2000, |_| addresses[0]);
}

#[test]
fn a_flood_under_the_addresses_of_both_peers_stops_no_rekey() {
    for other_begins in [false, true] {
        let mut gateways = pair();
        if other_begins {
            gateways.reverse();
        }
        let [mut one, mut other] = gateways;
        let (of_one, of_other) = (one.from, other.from);
        let mut now = START;
        for _ in 0..3 {
            flood_both(&mut one, &mut other, now);
            let initiation = one.initiate(now);
            let mut answered = other.receive(now, of_one, &initiation);
            if installed(&answered).is_none() {
                one.receive(now, of_other, &reply(&answered).unwrap());
                now += SECOND;
                flood_both(&mut one, &mut other, now);
                let initiation = one.initiate(now);
                answered = other.receive(now, of_one, &initiation);
            }
            let index = installed(&answered).expect("the cookie proves the address").index;
            flood_both(&mut one, &mut other, now);
            let made = one.receive(now, of_other, &reply(&answered).unwrap());
            assert!(kinds(&made).starts_with(&["install", "activate"]), "{:?}", kinds(&made));
            other.handshakes.heard(now, index);
            now += Timers::default().rekey_after;
        }
    }
}

/// An answer to an initiation, with a right mac1 and nothing else.
fn forged_response(to: &Gateway, initiation: &[u8], number: u32) -> Vec<u8> {
    let mut datagram = [&[2, 0, 0, 0, 1, 2, 3, 4], &initiation[4..8]].concat();
    datagram.resize(RESPONSE_LEN - 2 * MAC_LEN, 0);
    datagram[12..16].copy_from_slice(&number.to_le_bytes());
    let key = blake3::derive_key("mpvpn 1 mac1", to.secret.public().as_bytes());
    datagram.extend_from_slice(&blake3::keyed_hash(&key, &datagram).as_bytes()[..MAC_LEN]);
    datagram.extend_from_slice(&[0; MAC_LEN]);
    datagram
}

#[test]
fn an_initiator_who_gets_forged_answers_asks_the_responder_for_a_cookie() {
    let [mut one, mut other] = pair();
    let forge = |one: &mut Gateway, now: Duration, initiation: &[u8]| {
        flood(one, now, 500);
        for number in 1..=50 {
            let forged = forged_response(one, initiation, number);
            one.receive(now, SocketAddr::from(([203, 0, 113, 9], 9)), &forged);
        }
    };
    let initiation = one.initiate(START);
    let response = reply(&other.receive(START, one.from, &initiation)).unwrap();
    forge(&mut one, START, &initiation);
    let cookie = reply(&one.receive(START, other.from, &response)).unwrap();
    assert_eq!(cookie.len(), COOKIE_LEN);
    assert_eq!(kinds(&other.receive(START, one.from, &cookie)), [""; 0]);
    let retry = START + SECOND;
    let initiation = one.initiate(retry);
    let response = reply(&other.receive(retry, one.from, &initiation)).unwrap();
    forge(&mut one, retry, &initiation);
    assert_eq!(kinds(&one.receive(retry, other.from, &response)), ["install", "activate", "confirm"]);
}

#[test]
fn one_source_alone_cannot_make_the_gateway_compute() {
    let [mut one, mut other] = pair();
    let before = other.exchanges();
    for number in 0..50 {
        let now = START + Duration::from_millis(number);
        one.handshakes.set_reachable(PEER, false);
        one.handshakes.set_reachable(PEER, true);
        let initiation = one.initiate(now);
        let actions = other.receive(now, one.from, &initiation);
        if let Some(cookie) = reply(&actions).filter(|datagram| datagram.len() == COOKIE_LEN) {
            one.receive(now, other.from, &cookie);
        }
    }
    // Of the unproven and of the proven ones 5 at once; and the secret of the cookies.
    assert_eq!(other.exchanges() - before, 5 + 5 + 1);
}

#[test]
fn a_restarted_daemon_goes_on_with_its_sessions() {
    let [mut one, mut other] = pair();
    let [index, remote_index] = shake_hands(&mut one, &mut other, START);
    let mut restarted = Gateway::new(1);
    restarted.know(&[identity(&other.secret)]);
    let now = START + 50 * SECOND;
    let adopted = Adopted {
        index,
        remote_index,
        cipher: CIPHER_CHACHA20_POLY1305,
        expires: START + 180 * SECOND,
        is_initiator: true,
        is_current: true,
    };
    restarted.handshakes.adopt(now, &adopted);
    assert_eq!(restarted.handshakes.status(PEER).expires, Some(START + 180 * SECOND));
    let [next, _] = shake_hands(&mut restarted, &mut other, now);
    assert_ne!(session_slot(next), session_slot(index));
    assert_eq!(restarted.handshakes.next_deadline(), Some(now + 120 * SECOND));
    assert_eq!(kinds(&restarted.handshakes.poll(START + 180 * SECOND, UNIX_NS)), ["retire", "broadcast"]);
}

#[test]
fn what_cannot_be_adopted_is_retired() {
    let adopted = |index| Adopted {
        index,
        remote_index: 9,
        cipher: CIPHER_AUTH,
        expires: START + 100 * SECOND,
        is_initiator: true,
        is_current: true,
    };
    for index in [0x0005_0000 + first_session_slot(PEER) + 2, 0x0005_0000 + first_session_slot(PEER + 1)] {
        let [mut one, _] = pair();
        one.handshakes.set_reachable(PEER, false);
        one.handshakes.adopt(START, &adopted(index));
        assert_eq!(kinds(&one.handshakes.poll(START, UNIX_NS)), ["deactivate", "retire"]);
        assert_eq!(kinds(&one.handshakes.poll(START + SECOND, UNIX_NS)), ["wipe"]);
        assert_eq!(one.handshakes.next_deadline(), None);
    }
}

#[test]
fn a_changed_peer_loses_its_sessions_and_another_keeps_them() {
    let [mut one, mut other] = pair();
    let [index, _] = shake_hands(&mut one, &mut other, START);
    one.handshakes.set_peers(START, &[identity(&other.secret)]);
    assert_eq!(one.handshakes.next_deadline(), Some(START + 120 * SECOND));
    let changed = Identity { preshared_key: Zeroizing::new([3; 32]), ..identity(&other.secret) };
    one.know(&[changed]);
    let actions = one.handshakes.poll(START + SECOND, UNIX_NS);
    assert_eq!(kinds(&actions), ["deactivate", "retire", "wipe", "broadcast"]);
    one.handshakes.set_peers(START + SECOND, &[]);
    assert_eq!(kinds(&one.handshakes.poll(START + 2 * SECOND, UNIX_NS)), [""; 0]);
    assert_eq!(one.handshakes.next_deadline(), None);
    assert_eq!(kinds(&one.handshakes.heard(START + 2 * SECOND, index)), [""; 0]);
}

/// Frozen: both ends must agree, also across versions. BLAKE3 of the three messages of fixed keys.
#[test]
fn the_messages_are_frozen() {
    let [mut one, mut other] = pair();
    let initiation = one.initiate(START);
    let response = reply(&other.receive(START, one.from, &initiation)).unwrap();
    flood(&mut other, START, LOAD_PER_SECOND);
    one.handshakes.set_reachable(PEER, false);
    one.handshakes.set_reachable(PEER, true);
    let next = one.initiate(START + Duration::from_millis(1));
    let cookie = reply(&other.receive(START, one.from, &next)).unwrap();
    let hash = |datagram: &[u8]| blake3::hash(datagram).to_hex().to_string();
    assert_eq!([initiation, response, cookie].map(|datagram| hash(&datagram)), FROZEN);
}

const FROZEN: [&str; 3] = [
    "02094c23049457f36d585b2a2813cd9f24be14ae588f50ceaa08bf4020da2c4f",
    "9c156036d35daeb746bab1e97e54dff2bda24af576e90485cc3c42814b2ea64b",
    "efbec990eaf96be677d3ddd00d5b196c43a41b38d3738db4e4e11a2d04d289cd",
];

proptest! {
    #[test]
    fn any_datagram_is_survived(
        kind in 0u8..6,
        length in prop::sample::select(vec![0, 1, 4, COOKIE_LEN, RESPONSE_LEN, INITIATION_LEN, 200]),
        fill in any::<u8>(),
        index in any::<u32>(),
    ) {
        let [mut one, _] = pair();
        let mut datagram = vec![fill; length];
        if let Some(head) = datagram.first_chunk_mut::<4>() {
            *head = [kind, 0, 0, 0];
        }
        if let Some(at) = datagram.get_mut(4..8) {
            at.copy_from_slice(&index.to_le_bytes());
        }
        let from = one.from;
        prop_assert_eq!(kinds(&one.receive(START, from, &datagram)), [""; 0]);
    }
}
