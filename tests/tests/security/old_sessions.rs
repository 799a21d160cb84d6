//! Packets that were withheld until their session had ended.

use anyhow::{Result, ensure};
use multipath_tests::End;

use crate::recording::{Sent, send_some, withhold};
use crate::scene::{LINK, Scene};
use crate::state;
use crate::watch::Watch;
use multipath_tests::eventually;

#[test]
fn packets_of_an_old_session_are_refused() -> Result<()> {
    let mut scene = Scene::new(&[LINK; 2])?;
    let configs = scene.topology.tunnel_configs(0);
    scene.up(&configs, &["--rekey-after", "2"])?;
    let topology = &scene.topology;
    let withheld = withhold(topology, || send_some(&topology.a, &topology.b))?.into_iter();
    let withheld: Vec<Sent> = withheld.filter(|sent| sent.from == End::A && !sent.datagram.is_handshake()).collect();
    ensure!(!withheld.is_empty(), "nothing was withheld");

    let sessions = || state::sessions(&topology.b);
    eventually("the session ends", sessions, |sessions| {
        withheld.iter().all(|sent| sessions.iter().all(|session| session.index != sent.datagram.receiver()))
    })?;
    let mut watch = Watch::start(topology)?;
    for sent in &withheld {
        let reason = watch.refused(sent.link, End::B, &sent.datagram)?;
        ensure!(reason == "unknown_session", "{sent:x?} is refused as {reason}");
    }
    let delivered = watch.delivered()?;
    ensure!(delivered[End::B.index()].is_empty(), "delivered: {delivered:x?}");
    scene.streams()?;
    scene.close()
}
