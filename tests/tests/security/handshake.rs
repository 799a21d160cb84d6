//! How two gateways come to keys: over whatever path works, both at once, and not at all where they do not agree.

use std::time::Duration;

use anyhow::{Result, ensure};
use multipath_tests::traffic::UdpStream;
use multipath_tests::{End, TunnelConfig, eventually};

use crate::recording::Recording;
use crate::scene::{LINK, Scene};
use crate::state;

/// Handshake packets on two links until both sides have settled: each side's initiation, once more, and the answers.
const FEW_PACKETS: usize = 24;

const ROUNDS: usize = 2;
/// Handshakes take milliseconds, and are begun again after 250.
const A_WHILE: Duration = Duration::from_secs(1);

/// Among many flows there are some whose path works.
fn something_passes(scene: &Scene) -> Result<()> {
    let topology = &scene.topology;
    for (from, to) in [(&topology.a, &topology.b), (&topology.b, &topology.a)] {
        let stream = UdpStream {
            flows: 64,
            linger: Duration::from_millis(100),
            ..UdpStream::to(to.host_v4(), 2000, 64, Duration::from_millis(100))
        };
        let report = stream.run(from.host(), to.host())?;
        ensure!(report.received > 0, "nothing passes from {} to {}", from.name(), to.name());
    }
    Ok(())
}

#[test]
fn any_path_that_works_will_do() -> Result<()> {
    let mut scene = Scene::new(&[LINK; 3])?;
    let configs = scene.topology.tunnel_configs(0);
    for dead in [&[0][..], &[2], &[0, 1], &[1, 2]] {
        for link in dead {
            scene.topology.link(*link)?.set_black_hole(true)?;
        }
        scene.up(&configs, &[])?;
        something_passes(&scene)?;
        scene.down()?;
        for link in dead {
            scene.topology.link(*link)?.set_black_hole(false)?;
        }
    }
    // Two paths carry one way only, and only the third both.
    for (link, deaf) in [(0, End::A), (1, End::B)] {
        let link = scene.topology.link(link)?;
        let shape = link.shape(deaf)?;
        link.set_shape(deaf, multipath_tests::Shape { black_hole: true, ..shape })?;
    }
    scene.up(&configs, &[])?;
    something_passes(&scene)?;
    scene.close()
}

#[test]
fn both_sides_at_once_settle() -> Result<()> {
    let mut scene = Scene::new(&[LINK; 2])?;
    let configs = scene.topology.tunnel_configs(0);
    for _ in 0..ROUNDS {
        let recording = Recording::start(&scene.topology)?;
        scene.up(&configs, &[])?;
        scene.streams()?;
        std::thread::sleep(A_WHILE);
        let handshakes = recording.stop()?.into_iter().filter(|sent| sent.datagram.is_handshake()).count();
        ensure!(handshakes <= FEW_PACKETS, "{handshakes} handshake packets");
        scene.established()?;
        let [a, b] = [&scene.topology.a, &scene.topology.b].map(state::current);
        println!("{handshakes} handshake packets; a seals with {:x?}, b with {:x?}", a?, b?);
        scene.down()?;
    }
    scene.close()
}

/// Starts two gateways that do not agree: there is no session, and nothing passes.
fn stays_apart(scene: &mut Scene, configs: &[TunnelConfig; 2]) -> Result<()> {
    scene.start(configs, &[])?;
    std::thread::sleep(A_WHILE);
    for gateway in [&scene.topology.a, &scene.topology.b] {
        let current = state::current(gateway)?;
        ensure!(current.is_none(), "gateway {} seals with {current:?}", gateway.name());
    }
    let stream = UdpStream {
        linger: Duration::from_millis(100),
        ..UdpStream::to(scene.topology.b.host_v4(), 100, 64, Duration::from_millis(100))
    };
    let report = stream.run(scene.topology.ha(), scene.topology.hb())?;
    ensure!(report.received == 0, "{} packets pass", report.received);
    Ok(())
}

/// Both logs hold exactly one warning with these words.
fn is_said_once(scene: &Scene, words: &[&str]) -> Result<()> {
    let warnings = || -> Result<[usize; 2]> {
        let tells = |line: &&str| line.contains("WARN") && words.iter().all(|word| line.contains(word));
        Ok(scene.logs().map(|log| log.lines().filter(tells).count()))
    };
    let said = eventually("both sides say it", warnings, |said| said.iter().all(|count| *count > 0));
    let said = said.map_err(|error| error.context(format!("the logs: {:#?}", scene.logs())))?;
    ensure!(said == [1, 1], "it is said {said:?} times: {:#?}", scene.logs());
    Ok(())
}

#[test]
fn other_ciphers_are_told() -> Result<()> {
    let mut scene = Scene::new(&[LINK; 2])?;
    let mut configs = scene.topology.tunnel_configs(0);
    let right = configs.clone();
    configs[0].peers[0].cipher = Some("auth".to_owned());
    stays_apart(&mut scene, &configs)?;
    is_said_once(&scene, &["cipher", "auth", "chacha20-poly1305"])?;
    scene.down()?;
    scene.up(&right, &[])?;
    scene.streams()?;
    scene.close()
}

#[test]
fn other_preshared_keys_are_told() -> Result<()> {
    let mut scene = Scene::new(&[LINK; 2])?;
    let mut configs = scene.topology.tunnel_configs(0);
    let [first, second] = [(); 2].map(|()| scene.topology.a.mpvpn(&["genpsk"]));
    let (first, second) = (first?, second?);
    let gateways = [&scene.topology.a, &scene.topology.b];
    let files = gateways.map(|gateway| gateway.directory().join("peer.psk"));
    for (((gateway, file), key), config) in gateways.into_iter().zip(&files).zip([&first, &second]).zip(&mut configs) {
        gateway.write_secret(file, key.success()?)?;
        config.peers[0].preshared_key_file = Some(file.display().to_string());
    }
    stays_apart(&mut scene, &configs)?;
    is_said_once(&scene, &["preshared"])?;
    scene.down()?;
    // One side has one and the other has none.
    let mut lopsided = configs.clone();
    lopsided[1].peers[0].preshared_key_file = None;
    stays_apart(&mut scene, &lopsided)?;
    scene.down()?;
    scene.topology.b.write_secret(&files[1], first.success()?)?;
    scene.up(&configs, &[])?;
    scene.streams()?;
    scene.close()
}
