//! Gateways that nobody has introduced.

use std::time::Duration;

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use multipath_tests::End;

use crate::datagram::INITIATION;
use crate::recording::Recording;
use crate::scene::{LINK, Scene};
use crate::state::{self, State};

/// Long enough for several initiations.
const A_WHILE: Duration = Duration::from_millis(1500);

#[test]
fn an_unknown_key_gets_no_answer() -> Result<()> {
    let mut scene = Scene::new(&[LINK])?;
    let mut configs = scene.topology.tunnel_configs(0);
    // a knows b, address and key; b knows somebody else. It does not know a's address either, so that it has no reason to speak.
    configs[0].tunnel.private_key = STANDARD.encode([0x77; 32]);
    configs[1].peers[0].endpoints.clear();
    let recording = Recording::start(&scene.topology)?;
    scene.start(&configs, &[])?;
    let before = State::of(&scene.topology.b)?;
    std::thread::sleep(A_WHILE);
    let sent = recording.stop()?;
    let asked = sent.iter().filter(|sent| (sent.from, sent.datagram.kind()) == (End::A, INITIATION)).count();
    ensure!(asked >= 3, "a asks again and again: {asked}");
    let answer = sent.iter().find(|sent| sent.from == End::B);
    ensure!(answer.is_none(), "b speaks to a stranger: {answer:x?}");
    ensure!(State::of(&scene.topology.b)? == before, "b has learned something from a stranger");
    for gateway in [&scene.topology.a, &scene.topology.b] {
        let sessions = state::sessions(gateway)?;
        ensure!(sessions.is_empty(), "gateway {}: {sessions:?}", gateway.name());
    }
    scene.close()
}
