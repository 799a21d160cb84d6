//! A hub and two spokes: each behind its own address translator, the hub knows none of their addresses.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use multipath_tests::{Connection, Gateway, Lab, TunnelConfig, eventually};

use crate::scene::{LINK, PROBE_INTERVAL, alone, reaches, up_all};
use crate::state;

#[test]
fn spokes_without_address_are_reached_at_once_and_for_long() -> Result<()> {
    let _alone = alone();
    let lab = Lab::new()?;
    let [hub, b, c] = [Gateway::new(&lab, "a", 1)?, Gateway::new(&lab, "b", 2)?, Gateway::new(&lab, "c", 3)?];
    let connections =
        [Connection::new(&lab, 0, [&b, &hub], LINK.natted())?, Connection::new(&lab, 1, [&c, &hub], LINK.natted())?];
    for gateway in [&hub, &b, &c] {
        gateway.meet_host()?;
    }
    let mut configs = TunnelConfig::mesh(0, &[&hub, &b, &c], &connections);
    ensure!(configs[0].peers.iter().all(|peer| peer.endpoints.is_empty()), "the hub knows no address");
    for config in &mut configs[1..] {
        config.peers.retain(|peer| peer.name == "a");
        config.peers[0].allowed_ips.extend(["10.98.0.0/16".to_owned(), "fd98::/16".to_owned()]);
    }
    let gateways: Vec<_> = [&hub, &b, &c].into_iter().zip(&configs).collect();
    let mut daemons = up_all(&gateways, &[])?;
    let current = || {
        let sessions = state::sessions(&hub)?;
        Ok(sessions.into_iter().filter(|session| session.is_current).count())
    };
    eventually("the hub has keys with both spokes, before anybody has sent anything", current, |count| *count == 2)?;

    let everywhere = || -> Result<()> {
        for (from, to) in [(&hub, &b), (&hub, &c), (&b, &hub), (&c, &hub), (&b, &c), (&c, &b)] {
            reaches(from.host(), to.host_v4())?;
            reaches(from.host(), to.host_v6())?;
        }
        Ok(())
    };
    everywhere()?;
    // Behind the translators nothing happens for a while, but that the spokes speak on their own.
    thread::sleep(Duration::from_secs(1));
    for path in state::paths(&hub)? {
        let silent_for = path.ingress.last_seen_seconds.unwrap_or(f64::INFINITY);
        ensure!(
            path.learned && silent_for < 3.0 * PROBE_INTERVAL.as_secs_f64(),
            "{} is silent for {silent_for} s",
            path.name
        );
    }
    everywhere()?;

    for daemon in &mut daemons {
        ensure!(daemon.is_running(), "{}", daemon.log());
    }
    drop(daemons);
    let left = lab.close()?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
