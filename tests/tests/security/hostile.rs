//! Somebody on the way who repeats, changes, cuts, turns round, withholds and makes up packets: every one is refused under
//! its reason, nothing is delivered, and the gateways learn nothing from it.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use multipath_tests::{End, Topology, eventually};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::datagram::{CONTROL, DATA, Datagram, HEADER, INITIATION, RESPONSE, TAG};
use crate::recording::{Recording, Sent, send_some, withhold};
use crate::scene::{LINK, PROBE_INTERVAL, Scene};
use crate::state::{self, State};
use crate::watch::Watch;

/// Two links, so that packets can take the wrong one.
const LINKS: usize = 2;
/// Far beyond all counters in use: were the window marked for it, everything that follows would be behind the window.
const FAR_AHEAD: u64 = 1 << 40;
/// Bits that are flipped in every byte, one after the other.
const FLIPS: [u8; 2] = [0x01, 0x80];
/// Where no gateway is.
const STRANGER: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 100, 0, 99), 4000);
/// Lines that a daemon may write about thousands of forged packets.
const FEW_LINES: usize = 20;

#[test]
fn at_xdp() -> Result<()> {
    check("native")
}

#[test]
fn at_tc() -> Result<()> {
    check("off")
}

fn check(hook: &str) -> Result<()> {
    let mut scene = Scene::new(&[LINK; LINKS])?;
    let mut configs = scene.topology.tunnel_configs(0);
    for uplink in configs.iter_mut().flat_map(|config| &mut config.uplinks) {
        uplink.xdp = Some(hook.to_owned());
    }
    let recording = Recording::start(&scene.topology)?;
    scene.up(&configs, &[])?;
    send_some(&scene.topology.a, &scene.topology.b)?;
    send_some(&scene.topology.b, &scene.topology.a)?;
    // Every path was idle for long enough to be probed, and the handshake is no longer fresh.
    thread::sleep(Duration::from_secs(1));
    let mut genuine = recording.stop()?;
    forget_unheard(&mut genuine);
    for (link, from) in directions() {
        for kind in [DATA, CONTROL] {
            one_of(&genuine, kind, link, from)?;
        }
    }
    let topology = &scene.topology;
    let lines = scene.logs().map(|log| log.lines().count());

    repeated(topology, &genuine).context("repeated")?;
    turned_round(topology, &genuine).context("turned round")?;
    handshakes(topology, &genuine).context("handshakes")?;
    let withheld = withhold(topology, || {
        // At the same time: a path that does not answer is doubted, and then its packets go by the other one as well.
        thread::scope(|scope| {
            let there = scope.spawn(|| send_some(&topology.a, &topology.b));
            send_some(&topology.b, &topology.a)?;
            there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        thread::sleep(2 * PROBE_INTERVAL);
        Ok(())
    })?;
    for gateway in [&topology.a, &topology.b] {
        let paths = || state::paths(gateway);
        eventually("the path is used again", paths, |paths| paths.iter().all(|path| path.state == "up"))?;
    }
    for from in [End::A, End::B] {
        for kind in [DATA, CONTROL] {
            let sent = one_of(&withheld, kind, 0, from)?;
            changed(topology, sent).context("changed")?;
            cut(topology, sent).context("cut")?;
            made_up(topology, sent).context("made up")?;
        }
        late_by_another_way(topology, one_of(&withheld, DATA, 0, from)?).context("late, by another way")?;
    }

    for (log, before) in scene.logs().iter().zip(lines) {
        ensure!(log.lines().count() < before + FEW_LINES, "forged packets flood the log:\n{log}");
    }
    let before = [state::drops(&state::maps(&topology.a)?)?, state::drops(&state::maps(&topology.b)?)?];
    scene.streams()?;
    let after = [state::drops(&state::maps(&topology.a)?)?, state::drops(&state::maps(&topology.b)?)?];
    ensure!(before == after, "the tunnel goes on without a loss: {before:?}, now {after:?}");
    scene.close()
}

/// Every link, both ways.
fn directions() -> impl Iterator<Item = (usize, End)> {
    (0..LINKS).flat_map(|link| [(link, End::A), (link, End::B)])
}

/// Leaves initiations out that came before the other daemon listened, and that no later one of the same gateway has outdated:
/// delivered late, they are no copies. (They lead to a session that their gateway has no use for any more.)
fn forget_unheard(sent: &mut Vec<Sent>) {
    let answered = |initiation: &Sent| {
        let index = initiation.datagram.sender();
        sent.iter().any(|sent| {
            (sent.from, sent.datagram.kind()) == (initiation.from.other(), RESPONSE) && sent.datagram.answers() == index
        })
    };
    let last_heard = [End::A, End::B].map(|from| {
        let initiations = sent.iter().filter(|sent| (sent.from, sent.datagram.kind()) == (from, INITIATION));
        initiations.filter(|initiation| answered(initiation)).map(|sent| sent.at_ns).max()
    });
    sent.retain(|sent| sent.datagram.kind() != INITIATION || Some(sent.at_ns) <= last_heard[sent.from.index()]);
}

fn one_of(sent: &[Sent], kind: u8, link: usize, from: End) -> Result<&Sent> {
    sent.iter()
        .find(|sent| (sent.datagram.kind(), sent.link, sent.from) == (kind, link, from))
        .with_context(|| format!("no packet of type {kind} from {from:?} over link {link}"))
}

/// Everything once more, forwards and backwards, by its own way, by the other one and from a stranger.
fn repeated(topology: &Topology, genuine: &[Sent]) -> Result<()> {
    let mut watch = Watch::start(topology)?;
    for sent in genuine.iter().chain(genuine.iter().rev()) {
        let to = sent.from.other();
        let other = (sent.link + 1) % LINKS;
        for (link, copy) in [
            (sent.link, sent.datagram.clone()),
            (other, sent.datagram.over(topology.link(other)?, to)),
            (sent.link, sent.datagram.from(STRANGER.0, STRANGER.1)),
        ] {
            if copy.is_handshake() {
                watch.inject(link, to, &copy)?;
            } else {
                let reason = watch.refused(link, to, &copy)?;
                ensure!(reason == "replayed", "{sent:x?} is refused as {reason}");
            }
        }
    }
    watch.unmoved()
}

/// Packets back to the gateway that sent them.
fn turned_round(topology: &Topology, genuine: &[Sent]) -> Result<()> {
    let mut watch = Watch::start(topology)?;
    for sent in genuine {
        let reflected = sent.datagram.reflected();
        if reflected.is_handshake() {
            watch.inject(sent.link, sent.from, &reflected)?;
        } else {
            let reason = watch.refused(sent.link, sent.from, &reflected)?;
            ensure!(reason == "unknown_session", "{sent:x?} is refused as {reason}");
        }
    }
    watch.unmoved()
}

/// Handshake packets that are old, changed, cut, or noise: none is answered.
fn handshakes(topology: &Topology, genuine: &[Sent]) -> Result<()> {
    let mut watch = Watch::start(topology)?;
    let answers = Recording::start(topology)?;
    let mut forge = |to: End, datagram: &Datagram| -> Result<()> {
        if datagram.payload().len() < HEADER {
            let reason = watch.refused(0, to, datagram)?;
            ensure!(reason == "truncated", "{datagram:x?} is refused as {reason}");
            return Ok(());
        }
        watch.inject(0, to, datagram)
    };
    for kind in [INITIATION, RESPONSE] {
        let sent = genuine.iter().find(|sent| sent.link == 0 && sent.datagram.kind() == kind);
        let sent = sent.with_context(|| format!("no packet of type {kind} was recorded"))?;
        let (to, payload) = (sent.from.other(), sent.datagram.payload());
        for at in 1..payload.len() {
            for bits in FLIPS {
                forge(to, &sent.datagram.flipped(at, bits))?;
            }
            forge(to, &sent.datagram.with(&payload[..at]))?;
        }
        forge(to, &sent.datagram.with(&[payload, &[0]].concat()))?;
    }
    let template = &genuine.first().context("nothing was recorded")?.datagram;
    let mut random = SmallRng::seed_from_u64(1);
    for kind in 1..DATA {
        for length in 4..300 {
            let mut payload: Vec<u8> = (0..length).map(|_| random.random()).collect();
            payload[..4].copy_from_slice(&[kind, 0, 0, 0]);
            let to = if template.source() == link_address(topology, End::A)? { End::B } else { End::A };
            forge(to, &template.with(&payload))?;
            forge(to.other(), &template.reflected().with(&payload))?;
        }
    }
    watch.unmoved()?;
    let answer = answers.stop()?.into_iter().find(|sent| sent.datagram.is_handshake());
    ensure!(answer.is_none(), "a forged packet was answered: {answer:x?}");
    Ok(())
}

/// Address of the first link's interface at an end.
fn link_address(topology: &Topology, end: End) -> Result<Ipv4Addr> {
    topology.connections[0].ends[end.index()].v4.context("the link has IPv4")
}

/// Every byte of a packet changed, the others left.
fn changed(topology: &Topology, sent: &Sent) -> Result<()> {
    let mut watch = Watch::start(topology)?;
    for at in 0..sent.datagram.payload().len() {
        for bits in FLIPS {
            let reason = watch.refused(sent.link, sent.from.other(), &sent.datagram.flipped(at, bits))?;
            let expected: &[&str] = match at {
                // Type, path and flags: another value that there is, or none.
                0..4 => &["bad_tag", "unknown_version"],
                4..8 => &["unknown_session"],
                // The other counter may have been seen, or be none.
                8..16 => &["bad_tag", "replayed", "session_expired"],
                _ => &["bad_tag"],
            };
            ensure!(expected.contains(&reason), "byte {at}, bits {bits:#x} of {sent:x?} is refused as {reason}");
        }
    }
    watch.unmoved()
}

/// A packet cut to every shorter length, with and without headers that say so, and a longer one.
fn cut(topology: &Topology, sent: &Sent) -> Result<()> {
    let mut watch = Watch::start(topology)?;
    let payload = sent.datagram.payload();
    let to = sent.from.other();
    for length in 0..payload.len() {
        let honest = watch.refused(sent.link, to, &sent.datagram.with(&payload[..length]))?;
        let expected = if length < HEADER + TAG { "truncated" } else { "bad_tag" };
        ensure!(honest == expected, "{length} bytes of {sent:x?} are refused as {honest}");
        let torn = watch.refused(sent.link, to, &sent.datagram.torn(length))?;
        ensure!(torn == "truncated", "{sent:x?}, torn after {length} bytes, is refused as {torn}");
    }
    let longer = watch.refused(sent.link, to, &sent.datagram.with(&[payload, &[0]].concat()))?;
    ensure!(longer == "bad_tag", "{sent:x?} with a byte more is refused as {longer}");
    watch.unmoved()
}

/// Packets with the header of a genuine one, from it and from a stranger: what knows the session and not its keys.
fn made_up(topology: &Topology, sent: &Sent) -> Result<()> {
    let mut watch = Watch::start(topology)?;
    let mut random = SmallRng::seed_from_u64(2);
    let sealed = sent.datagram.sealed().len();
    let mut header = sent.datagram.payload()[..HEADER].to_vec();
    header[8..16].copy_from_slice(&(sent.datagram.counter() + FAR_AHEAD).to_le_bytes());
    for kind in [DATA, CONTROL] {
        header[0] = kind;
        for length in [0, 1, 4, sealed, 200, 1400] {
            let noise: Vec<u8> = (0..length + TAG).map(|_| random.random()).collect();
            let untagged = [&noise[..length], &[0; TAG]].concat();
            for body in [noise, untagged] {
                let forged = sent.datagram.with(&[&header[..], &body].concat());
                for forged in [forged.from(STRANGER.0, STRANGER.1), forged] {
                    let reason = watch.refused(sent.link, sent.from.other(), &forged)?;
                    ensure!(reason == "bad_tag", "{forged:x?} is refused as {reason}");
                }
            }
        }
    }
    watch.unmoved()
}

/// A genuine packet that the other gateway has not seen comes over the other link, and then by its own: it counts once. What
/// that says of the path's whereabouts holds until the next packet of the path.
fn late_by_another_way(topology: &Topology, sent: &Sent) -> Result<()> {
    let gateways = [&topology.a, &topology.b];
    let before = [State::of(gateways[0])?, State::of(gateways[1])?];
    let mut watch = Watch::start(topology)?;
    let (to, other) = (sent.from.other(), 1);
    let detour = sent.datagram.over(topology.link(other)?, to);
    watch.inject(other, to, &detour)?;
    for (link, copy) in [(other, &detour), (0, &sent.datagram), (other, &detour)] {
        let reason = watch.refused(link, to, copy)?;
        ensure!(reason == "replayed", "a copy is refused as {reason}");
    }
    let delivered = watch.delivered()?;
    // The host that it is for answers that nobody listens any more: that comes out at the other end.
    let delivered = &delivered[to.index()];
    ensure!(delivered.len() == 1, "one packet is delivered: {delivered:x?}");
    let now = || Ok([State::of(gateways[0])?, State::of(gateways[1])?]);
    eventually("the path is where it was", now, |now| *now == before)?;
    Ok(())
}
