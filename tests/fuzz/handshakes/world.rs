//! The network between the gateways, and its good and bad times.

use std::{net::SocketAddr, time::Duration};

use multipath_loader::{config::SecretKey, protocol::message::MAC_LEN};

use crate::{
    gateway::{Gateway, Sent},
    insider::Insider,
};

const SECRETS: [&str; 3] = [
    "CAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHn8=",
    "EAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHn8=",
    "GAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHn8=",
];
/// The insider's number at the second gateway, which is the only one that knows it.
const INSIDER: u32 = 1;
/// Datagrams that the network remembers.
const REMEMBERED: usize = 32;
/// The longest time that two gateways may take from whatever state to a common session, when nothing is lost.
const SETTLES_WITHIN: Duration = Duration::from_mins(1);
/// How long they must then stay with one.
const STAYS_FOR: Duration = Duration::from_secs(3);

/// Who sends and receives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    First,
    Second,
    Insider,
}

#[derive(Clone)]
enum Content {
    Handshake(Vec<u8>),
    /// The receiver index that it is sealed for.
    Sealed(u32),
}

#[derive(Clone)]
struct Packet {
    from: End,
    to: End,
    content: Content,
}

/// Everything.
pub struct World {
    now: Duration,
    gateways: [Gateway; 2],
    insider: Insider,
    network: Vec<Packet>,
}

/// The input.
pub struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// As many of the next bytes as there are.
    fn up_to(&mut self, len: u8) -> Vec<u8> {
        (0..len).map_while(|_| self.byte()).collect()
    }

    /// The next bytes; zeros when there are no more.
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte().unwrap_or_default())
    }
}

impl World {
    pub fn new() -> Self {
        let [first, second, insider] = SECRETS.map(|secret| secret.parse::<SecretKey>().expect("a key"));
        let now = Duration::from_secs(1000);
        let gateways = [
            Gateway::new(&first, &[second.public()], now),
            Gateway::new(&second, &[first.public(), insider.public()], now),
        ];
        Self { now, gateways, insider: Insider::new(insider, second.public()), network: Vec::new() }
    }

    /// Does what a byte says, with more bytes of the script where it takes some.
    pub fn step(&mut self, step: u8, script: &mut Script) {
        let end = usize::from(step >> 7);
        match step & 0x0f {
            0 => self.wait(Duration::from_millis(1) * u32::from(script.bytes::<1>()[0]).pow(2)),
            1 => self.wait(Duration::from_secs(script.bytes::<1>()[0].into())),
            2 => {
                if let Some(packet) = self.take(script) {
                    self.deliver(&packet, address(script));
                }
            }
            3 => {
                if let Some(packet) = self.copy(script) {
                    self.deliver(&packet, address(script));
                }
            }
            4 => self.deliver_altered(script),
            5 => drop(self.take(script)),
            6 => self.send_sealed(end),
            7 => self.gateways[end].set_reachable(0, step & 0x10 != 0),
            8 => self.gateways[end].doubt(0),
            9 => self.gateways[end].use_up(0),
            10 => self.restart(end),
            11 => {
                let datagram = self.insider.initiate(u32::from_le_bytes(script.bytes()), &script.bytes());
                self.deliver_from_insider(End::Second, datagram, script);
            }
            12 => self.gateways[1].set_reachable(INSIDER, step & 0x10 != 0),
            13 => self.answer_as_insider(script),
            14 => {
                let [kind, len] = script.bytes();
                let body = script.up_to(len);
                let datagram = self.insider.address([&[kind, 0, 0, 0], &body[..]].concat());
                self.deliver_from_insider(End::Second, datagram, script);
            }
            _ => {
                let [len] = script.bytes();
                let datagram = script.up_to(len);
                self.deliver_from_insider(if end == 0 { End::First } else { End::Second }, datagram, script);
            }
        }
    }

    /// From now on nothing is lost, and both gateways do what their daemons do: soon both seal with the same session,
    /// and go on to.
    pub fn settles(&mut self) {
        let start = self.now;
        for gateway in &mut self.gateways {
            gateway.set_reachable(0, true);
        }
        let mut agreed_at = None;
        while agreed_at.is_none_or(|agreed_at| self.now < agreed_at + STAYS_FOR) {
            assert!(self.now < start + SETTLES_WITHIN, "no common session after {SETTLES_WITHIN:?}");
            self.wait(Duration::from_millis(100));
            self.drain();
            if self.now.subsec_nanos() < 100_000_000 {
                self.send_sealed(0);
                self.send_sealed(1);
                self.drain();
            }
            for gateway in &mut self.gateways {
                gateway.doubt_silence(self.now);
            }
            agreed_at = if self.agree() { agreed_at.or(Some(self.now)) } else { None };
        }
    }

    /// Both gateways seal with the same session.
    fn agree(&self) -> bool {
        let [Some(one), Some(other)] = [self.gateways[0].active(0), self.gateways[1].active(0)] else { return false };
        let is_same = (one.index, one.remote_index) == (other.remote_index, other.index);
        assert!(!is_same || (&one.send, &one.receive) == (&other.receive, &other.send), "two keys for one session");
        is_same
    }

    /// Lets time pass; the daemons wake up when something is due.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let deadlines = self.gateways.iter().filter_map(Gateway::next_deadline);
            let due = deadlines.min().map(|deadline| deadline.max(self.now)).filter(|due| *due <= end);
            self.now = due.unwrap_or(end);
            for at in 0..self.gateways.len() {
                let sent = self.gateways[at].poll(self.now);
                self.send(at, sent);
            }
            if due.is_none() {
                return;
            }
        }
    }

    fn restart(&mut self, at: usize) {
        // A daemon wipes what its predecessor retired, when no program can hold it any more.
        self.wait(Duration::from_millis(100));
        self.gateways[at].restart(self.now);
    }

    /// Data by the session that a gateway seals with.
    fn send_sealed(&mut self, from: usize) {
        if let Some(session) = self.gateways[from].active(0) {
            let keepalive = Sent::Keepalive(0, session.remote_index);
            self.send(from, vec![keepalive]);
        }
    }

    fn send(&mut self, at: usize, sent: Vec<Sent>) {
        self.send_answering(at, sent, None);
    }

    fn send_answering(&mut self, at: usize, sent: Vec<Sent>, asker: Option<End>) {
        let (from, other) = if at == 0 { (End::First, End::Second) } else { (End::Second, End::First) };
        let to = |peer: u32| if peer == INSIDER { End::Insider } else { other };
        for sent in sent {
            let (to, content) = match sent {
                Sent::Broadcast(peer, datagram) => (to(peer), Content::Handshake(datagram)),
                Sent::Keepalive(peer, index) => (to(peer), Content::Sealed(index)),
                Sent::Reply(datagram) if asker == Some(End::Insider) => {
                    self.insider.read(&datagram);
                    continue;
                }
                Sent::Reply(datagram) => (asker.expect("an answer has a question"), Content::Handshake(datagram)),
            };
            if self.network.len() == REMEMBERED {
                self.network.remove(0);
            }
            self.network.push(Packet { from, to, content });
        }
    }

    fn position(&self, script: &mut Script) -> Option<usize> {
        usize::from(script.byte()?).checked_rem(self.network.len())
    }

    fn take(&mut self, script: &mut Script) -> Option<Packet> {
        let at = self.position(script)?;
        Some(self.network.remove(at))
    }

    fn copy(&mut self, script: &mut Script) -> Option<Packet> {
        let at = self.position(script)?;
        Some(self.network[at].clone())
    }

    fn drain(&mut self) {
        while !self.network.is_empty() {
            let packet = self.network.remove(0);
            self.deliver(&packet, SocketAddr::from(([192, 0, 2, 1], 5182)));
        }
    }

    fn deliver(&mut self, packet: &Packet, from: SocketAddr) {
        let at = match packet.to {
            End::First => 0,
            End::Second => 1,
            End::Insider => return,
        };
        let sent = match &packet.content {
            Content::Handshake(datagram) => self.gateways[at].receive(self.now, from, datagram),
            Content::Sealed(index) => {
                self.assert_same_keys(at, *index);
                self.gateways[at].hear(self.now, *index)
            }
        };
        self.send_answering(at, sent, Some(packet.from));
    }

    fn deliver_from_insider(&mut self, to: End, datagram: Vec<u8>, script: &mut Script) {
        let packet = Packet { from: End::Insider, to, content: Content::Handshake(datagram) };
        self.deliver(&packet, address(script));
    }

    /// Both ends of a session, if both still have it.
    fn assert_same_keys(&self, at: usize, index: u32) {
        let Some(own) = self.gateways[at].session(index).filter(|session| session.peer == 0) else { return };
        let Some(theirs) = self.gateways[1 - at].session(own.remote_index) else { return };
        if theirs.peer == 0 && theirs.remote_index == own.index {
            assert_eq!((&own.send, &own.receive), (&theirs.receive, &theirs.send));
            assert_ne!(own.is_initiator, theirs.is_initiator);
        }
    }

    /// A handshake message with a wrong byte or length: nobody takes it.
    fn deliver_altered(&mut self, script: &mut Script) {
        let Some(mut packet) = self.copy(script) else { return };
        let Content::Handshake(datagram) = &mut packet.content else { return };
        let [position, change] = script.bytes();
        if position == u8::MAX {
            datagram.truncate(usize::from(change) % datagram.len());
        } else {
            // mac2 proves an address; without load nobody looks at it.
            let covered = datagram.len() - MAC_LEN;
            datagram[usize::from(position) % covered] ^= change.max(1);
        }
        let before = self.sessions();
        self.deliver(&packet, address(script));
        assert_eq!(self.sessions(), before, "an altered message made or ended a session");
    }

    /// The receiver indices of all sessions at both gateways.
    fn sessions(&self) -> [Vec<u32>; 2] {
        [0, 1].map(|at: usize| self.gateways[at].sessions().collect())
    }

    fn answer_as_insider(&mut self, script: &mut Script) {
        let Some(at) = self.network.iter().position(|packet| packet.to == End::Insider) else { return };
        let Content::Handshake(initiation) = self.network.remove(at).content else { return };
        let sender = u32::from_le_bytes(script.bytes());
        if let Some(answer) = self.insider.answer(&initiation, sender, script.bytes()) {
            self.deliver_from_insider(End::Second, answer, script);
        }
    }
}

/// Some senders share an address, some do not.
fn address(script: &mut Script) -> SocketAddr {
    let [host] = script.bytes();
    SocketAddr::from(([192, 0, 2, host % 4 + 1], 5182))
}
