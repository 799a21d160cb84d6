//! Who may send from which inner address: what comes authentic from a peer is its own, or it is dropped.

use std::time::Duration;

use anyhow::{Result, ensure};
use multipath_tests::traffic::Capture;

use crate::scene::{LINK, Scene};
use crate::state;
use multipath_tests::eventually;

#[test]
fn a_peer_does_not_send_from_the_addresses_of_others() -> Result<()> {
    let mut scene = Scene::new(&[LINK])?;
    let configs = scene.topology.tunnel_configs(0);
    scene.up(&configs, &[])?;
    let (ha, b) = (scene.topology.ha(), &scene.topology.b);
    // Of b's network, and of nobody.
    for (source, to) in [
        ("10.98.2.99/32", b.host_v4().to_string()),
        ("192.0.2.1/32", b.host_v4().to_string()),
        ("fd98:2::99/128", b.host_v6().to_string()),
    ] {
        ha.ip(&format!("addr add {source} dev lo"))?;
        let before = state::dropped(b, "wrong_source")?;
        let inside = Capture::start(b.namespace(), "mp0")?;
        let source = source.split_once('/').map_or(source, |(address, _)| address);
        let ping = ["ping", "-n", "-c", "3", "-i", "0.01", "-W", "0.1", "-I", source, &to];
        let output = ha.output(&ping, Duration::from_secs(5))?;
        ensure!(!output.status.success(), "{}", output.stdout);
        let dropped = || Ok(state::dropped(b, "wrong_source")? - before);
        eventually("b counts three packets of a wrong source", dropped, |dropped| *dropped == 3)?;
        let delivered = inside.stop()?.into_iter().find(|frame| !frame.is_outgoing && frame.bytes[0] & 1 == 0);
        ensure!(delivered.is_none(), "a packet from {source} was delivered: {delivered:x?}");
    }
    scene.streams()?;
    scene.close()
}
