//! Sessions: what the handshakes decide is written into the maps, and what the maps say goes to the handshakes.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context, Result};
use bytemuck::Zeroable;
use multipath_common::{
    control::Message,
    maps::{ControlEvent, Session},
};
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use super::{DOUBT, Daemon, End, TRY_AGAIN_AFTER, health::has_way};
use crate::{
    clock,
    config::{Cipher, Peer},
    protocol::{Action, Adopted, Identity, NewSession, Random, Trouble},
    underlay::DatagramRoute,
};

/// How often sessions are looked at that the peer has not used yet: its first packet may carry data, which the daemon
/// hears nothing of.
const LOOK_AT_UNCONFIRMED: Duration = Duration::from_millis(100);
/// How often the counters of sessions are looked at. A session takes years to use them up.
const LOOK_AT_COUNTERS: Duration = Duration::from_mins(1);
/// How often it is looked at what changes slowly.
const LOOK_AROUND: Duration = Duration::from_secs(1);

/// The kernel's random numbers.
pub(super) struct KernelRandom;

impl Random for KernelRandom {
    fn fill(&mut self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the kernel has random numbers once it has given some");
    }
}

impl Daemon {
    /// Tells the handshakes of the peers, and of the sessions that an earlier daemon left, which go on.
    pub(super) fn adopt_sessions(&mut self) -> Result<()> {
        // Once here, where it may fail: it does not later.
        getrandom::fill(&mut [0]).context("the kernel gives no random numbers")?;
        let now = clock::since_boot()?;
        self.tell_handshakes(now);
        for peer in &self.peers {
            for session in self.maps.sessions_of(peer.number)? {
                let adopted = Adopted {
                    index: session.index,
                    remote_index: session.remote_index,
                    cipher: session.cipher,
                    expires: Duration::from_nanos(session.expires_ns),
                    is_initiator: session.is_initiator != 0,
                    is_current: session.index == peer.session,
                };
                self.handshakes.adopt(now, &adopted);
            }
        }
        if self.handshakes.unconfirmed().next().is_some() {
            self.look_at_unconfirmed = Some(now + LOOK_AT_UNCONFIRMED);
        }
        // A session that is named and gone seals nothing.
        for position in 0..self.peers.len() {
            let named = self.peers[position].session;
            if named != 0 && self.maps.session(named)?.is_none() {
                self.peers[position].session = 0;
                self.write_peer(position)?;
            }
        }
        self.tell_monitors(now);
        Ok(())
    }

    /// Tells the handshakes of the peers.
    pub(super) fn tell_handshakes(&mut self, now: Duration) {
        let identities: Vec<Identity> =
            self.config.peers.iter().zip(&self.peers).map(|(peer, managed)| identity(peer, managed.number)).collect();
        self.handshakes.set_peers(now, &identities);
    }

    /// Tells the paths' monitors whether there are sessions to seal probes with.
    pub(super) fn tell_monitors(&mut self, now: Duration) {
        for path in self.paths.values_mut() {
            let peer = self.positions.get(&path.peer).map(|position| &self.peers[*position]);
            path.monitor.set_session(now, peer.is_some_and(|peer| peer.session != 0));
        }
    }

    /// Says how badly peers are protected, once.
    pub(super) fn warn_of_ciphers(&self) {
        for (cipher, consequence) in [
            (Cipher::None, "nothing is encrypted, anybody on the way can read, change and forge the packets"),
            (Cipher::Auth, "nothing is encrypted, anybody on the way can read the packets"),
        ] {
            let names: Vec<&str> =
                self.config.peers.iter().filter(|peer| peer.cipher == cipher).map(|peer| peer.name.as_str()).collect();
            if !names.is_empty() {
                warn!("cipher = \"{}\" for {}: {consequence}", cipher.name(), listing(&names));
            }
        }
    }

    /// Does what the handshakes say. `via` is where the datagram came from that is being handled.
    pub(super) fn carry_out(&mut self, now: Duration, actions: Vec<Action>, via: Option<&DatagramRoute>) {
        // Of a session that could not be made nobody must hear.
        let mut failed = None;
        for action in actions {
            let done = match action {
                Action::Reply { .. } if failed.is_some() => Ok(()),
                Action::Activate { index, .. } | Action::Confirm { index, .. } if failed == Some(index) => Ok(()),
                Action::Broadcast { peer, datagram } => {
                    self.broadcast(peer, &datagram);
                    self.note(peer)
                }
                Action::Reply { datagram } => {
                    if let Some(via) = via {
                        self.send(via, &datagram);
                    }
                    Ok(())
                }
                Action::Install(session) => {
                    let installed = self.install(now, &session);
                    if installed.is_err() {
                        failed = Some(session.index);
                    }
                    installed
                }
                Action::Activate { peer, index } => self.activate(now, peer, index),
                Action::Confirm { peer, index } => {
                    self.say_everywhere(peer, index);
                    Ok(())
                }
                Action::Retire { index } => self.maps.retire_session(index),
                Action::Wipe { index } => self.maps.wipe_session(index),
                Action::Report { peer, trouble } => {
                    self.report(peer, trouble);
                    self.note(peer)
                }
            };
            if let Err(error) = done {
                warn!("a session could not be changed: {error:#}");
            }
        }
    }

    fn install(&mut self, now: Duration, new: &NewSession) -> Result<()> {
        debug!("{new:?}");
        let session = Session {
            index: new.index,
            remote_index: new.remote_index,
            peer: new.peer,
            cipher: new.cipher,
            expires_ns: new.expires.as_nanos() as u64,
            is_initiator: new.is_initiator.into(),
            ..Session::zeroed()
        };
        self.look_at_unconfirmed.get_or_insert(now + LOOK_AT_UNCONFIRMED);
        self.maps.fill_session(&session, &new.send, &new.receive)
    }

    /// Has a peer's packets sealed with a session from now on; 0 is none.
    fn activate(&mut self, now: Duration, peer: u32, index: u32) -> Result<()> {
        let Some(position) = self.position(peer) else { return Ok(()) };
        let name = &self.config.peers[position].name;
        match (self.peers[position].session, index) {
            (_, 0) => warn!("peer {name}: the session has ended, and no handshake has made another"),
            (0, _) => info!("peer {name}: session up, cipher {}", self.config.peers[position].cipher.name()),
            (_, _) => debug!("peer {name}: new keys"),
        }
        self.peers[position].session = index;
        self.peers[position].heard_at = now;
        for path in self.paths_of_mut(peer) {
            path.monitor.set_session(now, index != 0);
        }
        self.write_peer(position)
    }

    /// Writes down how a peer's handshakes stand.
    fn note(&mut self, peer: u32) -> Result<()> {
        self.position(peer).map_or(Ok(()), |position| self.write_peer(position))
    }

    fn report(&self, peer: u32, trouble: Trouble) {
        let Some(position) = self.position(peer) else { return };
        let name = &self.config.peers[position].name;
        match trouble {
            Trouble::CipherDiffers { own, theirs } => {
                let [own, theirs] = [own, theirs].map(|number| Cipher::from_number(number).map_or("?", Cipher::name));
                warn!(
                    "peer {name}: no session: cipher is \"{own}\" here and \"{theirs}\" there: write the same in both files"
                );
            }
            Trouble::NotAuthentic | Trouble::WeakKey => warn!("peer {name}: no session: {trouble}"),
        }
    }

    /// Passes on what peers said inside their sessions.
    pub(super) fn hear(&mut self, events: &[ControlEvent]) -> Result<Option<End>> {
        let now = clock::since_boot()?;
        for event in events {
            let bytes = event.bytes.get(..event.len as usize).unwrap_or(&event.bytes);
            match Message::from_bytes(bytes) {
                Ok(Message::Keepalive | Message::Probe(_) | Message::Reply(_)) => {}
                // A later version's: that it came says as much as a keepalive.
                Err(error) => debug!("from peer {}: {error}", event.peer),
            }
            if let Some(position) = self.position(event.peer) {
                self.peers[position].heard_at = now;
            }
            let actions = self.handshakes.heard(now, event.session);
            self.carry_out(now, actions, None);
        }
        Ok(None)
    }

    /// When [`Self::keep_time`] must be called at the latest.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let upkeep = [
            self.next_probe(),
            self.carriers.deadline(),
            self.leads.deadline(),
            self.look_at_unconfirmed,
            Some(self.look_at_counters),
            Some(self.look_around_at),
        ];
        let upkeep = upkeep.into_iter().flatten().min().map(|deadline| deadline.max(self.upkeep_pauses_until));
        [self.handshakes.next_deadline(), upkeep].into_iter().flatten().min()
    }

    /// Does whatever is due.
    pub(super) async fn keep_time(&mut self) -> Result<Option<End>> {
        let now = clock::since_boot()?;
        // First, for nothing that fails below must keep sessions from being made.
        if self.handshakes.next_deadline().is_some_and(|deadline| deadline <= now) {
            let actions = self.handshakes.poll(now, clock::unix_ns()?);
            self.carry_out(now, actions, None);
        }
        if now < self.upkeep_pauses_until {
            return Ok(None);
        }
        if let Err(error) = self.keep_up(now).await {
            self.upkeep_pauses_until = now + TRY_AGAIN_AFTER;
            return Err(error);
        }
        Ok(None)
    }

    /// Looks at sessions and paths, as far as they are due.
    async fn keep_up(&mut self, now: Duration) -> Result<()> {
        self.follow_operator()?;
        self.probe(now)?;
        self.choose_paths(now)?;
        self.lead(now)?;
        self.write_qualities(now)?;
        self.watch_carriers(now).await?;
        if std::mem::take(&mut self.must_learn) {
            self.learn_all().await?;
        }
        if self.look_at_unconfirmed.is_some_and(|due| due <= now) {
            self.look_at_unconfirmed(now)?;
        }
        if self.look_at_counters <= now {
            self.look_at_counters()?;
            self.look_at_counters = now + LOOK_AT_COUNTERS;
        }
        if self.look_around_at <= now {
            self.look_around_at = now + LOOK_AROUND;
            self.count_quotas()?;
            self.keep_usage(now);
            self.weigh()?;
            self.abandon_silent(now)?;
            self.doubt_silent(now);
        }
        self.adapt_mtu().await
    }

    fn look_at_unconfirmed(&mut self, now: Duration) -> Result<()> {
        let unconfirmed: Vec<u32> = self.handshakes.unconfirmed().collect();
        for index in unconfirmed {
            if self.maps.session(index)?.is_some_and(|session| session.window.next != 0) {
                let actions = self.handshakes.heard(now, index);
                self.carry_out(now, actions, None);
            }
        }
        let has_more = self.handshakes.unconfirmed().next().is_some();
        self.look_at_unconfirmed = has_more.then_some(now + LOOK_AT_UNCONFIRMED);
        Ok(())
    }

    fn look_at_counters(&mut self) -> Result<()> {
        for peer in &self.peers {
            if let Some(session) = self.maps.session(peer.session)? {
                self.handshakes.used(session.index, session.next_counter);
            }
        }
        Ok(())
    }

    /// Doubts that peers still know the session that have been silent although something leads to them.
    fn doubt_silent(&mut self, now: Duration) {
        for position in 0..self.peers.len() {
            let number = self.peers[position].number;
            let is_reachable = self.paths_of(number).any(|path| has_way(&path.written));
            let peer = &mut self.peers[position];
            if peer.session != 0 && is_reachable && now.saturating_sub(peer.heard_at) >= DOUBT {
                // Once more only after as long a silence.
                peer.heard_at = now;
                debug!("peer {}: silent for {DOUBT:?}", self.config.peers[position].name);
                self.handshakes.doubt(number);
            }
        }
    }

    /// Says by every path of a peer that leads anywhere that a session works, sealed with it.
    fn say_everywhere(&self, peer: u32, session: u32) {
        for path in self.paths_of(peer).filter(|path| has_way(&path.written)) {
            let (message, len) = Message::Keepalive.to_bytes();
            let frame = [&path.mark(session)[..], &message[..len]].concat();
            if let Err(error) = self.frames.send(&frame) {
                debug!("path {}: no keepalive was sent: {error}", path.name);
            }
        }
    }

    /// Chooses paths anew where something has changed, and tells the handshakes who can be reached, if that has.
    pub(super) fn settle(&mut self) -> Result<()> {
        let now = clock::since_boot()?;
        self.choose_paths(now)?;
        if !std::mem::take(&mut self.has_changed_paths) {
            return Ok(());
        }
        for position in 0..self.peers.len() {
            let number = self.peers[position].number;
            let is_reachable = self.paths_of(number).any(|path| has_way(&path.written));
            self.handshakes.set_reachable(number, is_reachable);
        }
        Ok(())
    }
}

fn identity(peer: &Peer, number: u32) -> Identity {
    let preshared_key = peer.preshared_key.as_ref().map_or([0; 32], |key| *key.as_bytes());
    Identity {
        number,
        public_key: peer.public_key,
        preshared_key: Zeroizing::new(preshared_key),
        cipher: peer.cipher.number(),
    }
}

/// Names, as many as fit into a line.
fn listing(names: &[&str]) -> String {
    const SHOWN: usize = 10;
    let mut text = if names.len() == 1 { "the peer ".to_owned() } else { format!("{} peers: ", names.len()) };
    text += &names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN {
        let _ = write!(text, " and {} more", names.len() - SHOWN);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_are_counted_and_not_listed() {
        let names: Vec<String> = (0..12).map(|number| format!("p{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(listing(&names[..1]), "the peer p0");
        assert_eq!(listing(&names[..2]), "2 peers: p0, p1");
        assert_eq!(listing(&names), "12 peers: p0, p1, p2, p3, p4, p5, p6, p7, p8, p9 and 2 more");
    }
}
