//! What can be read on the uplinks, and what daemons say about it.

use std::collections::HashSet;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use multipath_tests::traffic::Capture;
use multipath_tests::{End, TunnelConfig};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use std::net::UdpSocket;

use crate::datagram::{CONTROL, DATA, HEADER};
use crate::recording::{Recording, Sent, withhold};
use crate::scene::{LINK, PROBE_INTERVAL, Scene};
use crate::state;
use crate::watch::Watch;

const ETHERNET: usize = 14;
/// Bytes of an inner packet that must not be found in a row. By chance, that happens once in 10^9 runs of this test.
const RUN: usize = 8;
const PACKETS: usize = 50;

type Runs = HashSet<[u8; RUN]>;

/// What passed while a tunnel with some cipher was set up and carried packets.
struct Heard {
    scene: Scene,
    /// What was sent over the uplinks.
    sent: Vec<Sent>,
    /// Every run of bytes in the inner packets.
    runs: Runs,
}

fn hear(cipher: &str) -> Result<Heard> {
    let mut scene = Scene::new(&[LINK; 2])?;
    let mut configs = scene.topology.tunnel_configs(0);
    for peer in configs.iter_mut().flat_map(|config| &mut config.peers) {
        peer.cipher = Some(cipher.to_owned());
    }
    let recording = Recording::start(&scene.topology)?;
    scene.up(&configs, &["-vv"])?;
    let topology = &scene.topology;
    let inner = [Capture::start(topology.a.namespace(), "mp0")?, Capture::start(topology.b.namespace(), "mp0")?];
    let mut random = SmallRng::seed_from_u64(3);
    for (from, to) in [(&topology.a, &topology.b), (&topology.b, &topology.a)] {
        for (any, address) in [("0.0.0.0:0", to.host_v4().into()), ("[::]:0", to.host_v6().into())] {
            let there: std::net::SocketAddr = std::net::SocketAddr::new(address, 9);
            for number in 0..PACKETS {
                let socket = from.host().run(|| UdpSocket::bind(any))??;
                let payload: Vec<u8> = (0..number * 25).map(|_| random.random()).collect();
                socket.send_to(&payload, there)?;
            }
        }
    }
    thread::sleep(PROBE_INTERVAL + Duration::from_millis(300));
    let mut runs = Runs::new();
    for capture in inner {
        let frames = capture.stop()?;
        ensure!(frames.len() > 2 * PACKETS, "only {} inner packets", frames.len());
        runs.extend(frames.iter().flat_map(|frame| runs_of(&frame.bytes[ETHERNET..])));
    }
    let sent = recording.stop()?;
    for kind in [DATA, CONTROL] {
        let count = sent.iter().filter(|sent| sent.datagram.kind() == kind).count();
        ensure!(count > 1, "{count} packets of type {kind} were recorded");
    }
    never_logged(&scene, &configs)?;
    Ok(Heard { scene, sent, runs })
}

/// Zeros say nothing: they stand in IPv6 addresses and in probes as well as where a handshake has nothing to say.
fn runs_of(bytes: &[u8]) -> impl Iterator<Item = [u8; RUN]> {
    bytes
        .windows(RUN)
        .filter_map(|run| run.try_into().ok())
        .filter(|run: &[u8; RUN]| run.iter().filter(|byte| **byte != 0).nth(RUN / 2 - 1).is_some())
}

impl Heard {
    /// Packets of which something can be read.
    fn legible(&self) -> Vec<&Sent> {
        let is_legible = |sent: &&Sent| {
            // The header of a packet is everybody's to read.
            let head = if sent.datagram.is_handshake() { 4 } else { HEADER };
            runs_of(&sent.datagram.payload()[head..]).any(|run| self.runs.contains(&run))
        };
        self.sent.iter().filter(is_legible).collect()
    }

    /// What `mpvpn status` and both logs say about the cipher.
    fn is_told(&self, cipher: &str, is_warned_of: bool) -> Result<()> {
        for (gateway, log) in [&self.scene.topology.a, &self.scene.topology.b].into_iter().zip(self.scene.logs()) {
            let status = state::status(gateway)?;
            ensure!(status.peers.iter().all(|peer| peer.cipher == cipher), "{:?}", status.peers);
            let shown = gateway.mpvpn(&["status"])?;
            ensure!(shown.success()?.contains(cipher), "{}", shown.stdout);
            let warning = log.lines().find(|line| line.contains("WARN") && line.contains(cipher));
            ensure!(warning.is_some() == is_warned_of, "warning: {warning:?}; the log:\n{log}");
        }
        Ok(())
    }
}

/// Neither the gateways' private keys nor those of their session stand in a log, although it says all that it can.
fn never_logged(scene: &Scene, configs: &[TunnelConfig; 2]) -> Result<()> {
    let mut secrets: Vec<Vec<u8>> = Vec::new();
    for config in configs {
        secrets.push(STANDARD.decode(&config.tunnel.private_key)?);
    }
    for gateway in [&scene.topology.a, &scene.topology.b] {
        for keys in state::session_keys(gateway)? {
            let [send, receive] = [keys.send, keys.receive].map(|words| words.map(u32::to_le_bytes).concat());
            secrets.extend([send, receive].into_iter().filter(|key| key.iter().any(|byte| *byte != 0)));
        }
    }
    ensure!(secrets.len() >= 2 + 2 * 2, "{} keys were found", secrets.len());
    for secret in secrets {
        let start: [u8; RUN] = secret[..RUN].try_into()?;
        let hexadecimal = format!("{:016x}", u64::from_be_bytes(start));
        let decimal = format!("{start:?}").trim_matches(['[', ']']).to_owned();
        for shape in [STANDARD.encode(&secret)[..20].to_owned(), hexadecimal, decimal] {
            let log = scene.logs().into_iter().find(|log| log.to_lowercase().contains(&shape.to_lowercase()));
            ensure!(log.is_none(), "a key stands in a log:\n{}", log.unwrap_or_default());
        }
    }
    Ok(())
}

#[test]
fn by_default_nothing_can_be_read() -> Result<()> {
    let heard = hear("chacha20-poly1305")?;
    let legible = heard.legible();
    ensure!(legible.is_empty(), "{} of {} packets: {:x?}", legible.len(), heard.sent.len(), legible[0]);
    // Nor who talks to whom: the initiator's public key is encrypted, the responder's is not sent.
    let keys = state::status(&heard.scene.topology.a)?.peers.into_iter();
    let keys = keys.chain(state::status(&heard.scene.topology.b)?.peers);
    for key in keys.map(|peer| STANDARD.decode(peer.public_key)) {
        let runs: Runs = runs_of(&key?).collect();
        let telling = heard.sent.iter().find(|sent| runs_of(sent.datagram.payload()).any(|run| runs.contains(&run)));
        ensure!(telling.is_none(), "a public key stands in {telling:x?}");
    }
    heard.is_told("chacha20-poly1305", false)?;
    heard.scene.close()
}

#[test]
fn what_is_authenticated_only_can_be_read_and_not_changed() -> Result<()> {
    let heard = hear("auth")?;
    let legible = heard.legible().len();
    ensure!(legible >= 2 * PACKETS, "only {legible} packets can be read");
    heard.is_told("auth", true)?;
    let topology = &heard.scene.topology;
    let withheld = withhold(topology, || {
        for _ in 0..20 {
            topology.ha().run(|| UdpSocket::bind("0.0.0.0:0"))??.send_to(b"withheld", (topology.b.host_v4(), 9))?;
        }
        thread::sleep(Duration::from_millis(50));
        Ok(())
    })?;
    let mut withheld = withheld.iter().filter(|sent| sent.from == End::A);
    let packet = &withheld.find(|sent| sent.datagram.kind() == DATA).context("nothing was withheld")?.datagram;
    ensure!(packet.sealed().ends_with(b"withheld"), "{packet:x?} can be read");
    let mut watch = Watch::start(topology)?;
    for at in HEADER..packet.payload().len() {
        let reason = watch.refused(0, End::B, &packet.flipped(at, 1))?;
        ensure!(reason == "bad_tag", "byte {at} of {packet:x?}, changed, is refused as {reason}");
    }
    watch.inject(0, End::B, packet)?;
    let reason = watch.refused(0, End::B, packet)?;
    ensure!(reason == "replayed", "the copy is refused as {reason}");
    let delivered = watch.delivered()?;
    ensure!(delivered[1] == [packet.sealed()], "unchanged it is delivered, once: {delivered:x?}");
    heard.scene.streams()?;
    heard.scene.close()
}

#[test]
fn without_cipher_everything_can_be_read() -> Result<()> {
    let heard = hear("none")?;
    let legible = heard.legible().len();
    ensure!(legible >= 2 * PACKETS, "only {legible} packets can be read");
    heard.is_told("none", true)?;
    heard.scene.streams()?;
    heard.scene.close()
}
