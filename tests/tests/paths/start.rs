//! Starts with some of the paths dead, or all of them.

use std::{thread, time::Duration};

use anyhow::Result;
use multipath_tests::{Topology, traffic::Ping};

use crate::{
    scene::{BACK_WITHIN, PATIENCE, alone, delayed, meet, until, until_used, up_both},
    status::paths,
};

const LINKS: usize = 3;
/// Handshakes go by every path at once, so a dead one is waited for by nobody.
const UP_WITHIN: Duration = Duration::from_secs(1);

fn is_answered(topology: &Topology) -> Result<bool> {
    let ping = Ping { count: 1, interval: Duration::from_millis(10), ..Ping::to(topology.b.host_v4()) };
    Ok(ping.run(topology.ha())?.received == 1)
}

/// The path that is alive may be any of them, also the last.
#[test]
fn any_path_may_be_dead() -> Result<()> {
    let _alone = alone();
    let topology = Topology::new(&[delayed(5); LINKS])?;
    meet(&topology)?;
    let configs = topology.tunnel_configs(0);
    for dead in [0b001_usize, 0b011, 0b110, 0b101] {
        let of_state = |is_dead: bool| (0..LINKS).filter(move |link| (dead >> link & 1 == 1) == is_dead);
        for link in of_state(true) {
            topology.link(link)?.set_black_hole(true)?;
        }
        let mut daemons = up_both(&topology, &configs)?;
        until("there is a session", UP_WITHIN, || Ok(topology.a.sessions("mp0")?.iter().all(Option::is_some)))?;
        for link in of_state(false) {
            until_used(&topology.a, &format!("b/up{link}"), true, UP_WITHIN)?;
            until_used(&topology.b, &format!("a/up{link}"), true, UP_WITHIN)?;
        }
        for link in of_state(true) {
            until_used(&topology.a, &format!("b/up{link}"), false, UP_WITHIN)?;
            until_used(&topology.b, &format!("a/up{link}"), false, UP_WITHIN)?;
        }
        let report = Ping { count: 20, ..Ping::to(topology.b.host_v4()) }.run(topology.ha())?;
        assert_eq!(report.received, 20, "dead {dead:03b}: {report:?}");
        for link in of_state(true) {
            topology.link(link)?.set_black_hole(false)?;
            until_used(&topology.a, &format!("b/up{link}"), true, BACK_WITHIN)?;
        }
        for daemon in &mut daemons {
            assert!(daemon.is_running(), "{}", daemon.log());
            daemon.interrupt()?;
        }
    }
    assert!(topology.lab.close()?.is_empty());
    Ok(())
}

#[test]
fn all_paths_may_be_dead() -> Result<()> {
    let _alone = alone();
    let topology = Topology::new(&[delayed(5); 2])?;
    meet(&topology)?;
    for link in 0..2 {
        topology.link(link)?.set_black_hole(true)?;
    }
    let configs = topology.tunnel_configs(0);
    let mut daemons = up_both(&topology, &configs)?;
    thread::sleep(Duration::from_secs(1));
    topology.link(1)?.set_black_hole(false)?;
    // A handshake that has failed a few times is repeated after seconds.
    let first = until("packets pass by the path that lives", 2 * PATIENCE, || is_answered(&topology))?;
    topology.link(0)?.set_black_hole(false)?;
    for gateway in [&topology.a, &topology.b] {
        let is_whole = || Ok(paths(gateway)?.iter().all(|path| path.used));
        until("all paths are used", 2 * BACK_WITHIN, is_whole)?;
    }
    println!("packets pass {first:.1?} after one path lives");
    for daemon in &mut daemons {
        assert!(daemon.is_running(), "{}", daemon.log());
    }
    drop(daemons);
    assert!(topology.lab.close()?.is_empty());
    Ok(())
}
