//! No counter of a session is drawn twice, whatever happens to the daemons.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use multipath_tests::gateway::{READY, mpvpn_binary};
use multipath_tests::traffic::{Capture, UdpStream};
use multipath_tests::{Daemon, Family, Gateway, LinkSpec, PATIENCE, Process, eventually};

use crate::datagram::Datagram;
use crate::scene::Scene;
use crate::state;

const PACE: u32 = 20_000;
const ROUNDS: usize = 2;
/// While nothing happens, and while a daemon is dead.
const PAUSE: Duration = Duration::from_millis(150);

/// Starts the daemon again with the file of the first start.
fn restart(gateway: &Gateway) -> Result<Daemon> {
    gateway.daemon(&gateway.directory().join("mp0.toml"))
}

/// Starts another build of `mpvpn`, as an upgrade does: the same layout under another path.
fn upgrade(gateway: &Gateway) -> Result<Process> {
    let copy = gateway.directory().join("mpvpn-new");
    fs::copy(mpvpn_binary()?, &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    let mut command = gateway.namespace().command(&copy);
    command.arg("--bpffs").arg(gateway.bpffs()).arg("up").arg(gateway.directory().join("mp0.toml"));
    let daemon = Process::spawn(command)?;
    let log = || Ok(daemon.stdout() + &daemon.stderr());
    eventually("the new build is ready", log, |log| log.contains(READY))?;
    Ok(daemon)
}

/// Packets that the programs of both gateways have sealed.
fn sealed(gateways: [&Gateway; 2]) -> Result<u64> {
    gateways.into_iter().try_fold(0, |sum, gateway| {
        Ok(sum + state::paths(gateway)?.iter().map(|path| path.egress.packets).sum::<u64>())
    })
}

#[test]
fn no_nonce_comes_twice() -> Result<()> {
    let mut scene = Scene::new(&[LinkSpec::VETH.family(Family::V4); 2])?;
    let configs = scene.topology.tunnel_configs(0);
    let captures = ["up0", "up1"].map(|uplink| Capture::start(scene.topology.a.namespace(), uplink));
    scene.up(&configs, &[])?;
    let [a, b] = [&scene.topology.a, &scene.topology.b];
    let stream = |from: &Gateway, to: &Gateway| {
        let stream = UdpStream { flows: 16, ..UdpStream::to(to.host_v4(), PACE, 64, Duration::from_mins(1)) };
        stream.start(from.host(), to.host())
    };
    let running = [stream(a, b)?, stream(b, a)?];
    let daemons = std::mem::take(&mut scene.daemons);
    let [mut of_a, mut of_b] = <[Daemon; 2]>::try_from(daemons).ok().context("two daemons")?;
    for _ in 0..ROUNDS {
        for (gateway, daemon) in [(a, &mut of_a), (b, &mut of_b)] {
            daemon.kill()?;
            thread::sleep(PAUSE);
            *daemon = restart(gateway)?;
            // It makes new keys at once; the next one is killed in the midst of that.
        }
        of_a.kill()?;
        of_b.kill()?;
        [of_a, of_b] = [restart(a)?, restart(b)?];
        thread::sleep(PAUSE);
    }
    of_a.terminate()?;
    of_b.terminate()?;
    thread::sleep(PAUSE);
    let mut upgraded = [upgrade(a)?, upgrade(b)?];
    thread::sleep(PAUSE);
    for running in running {
        let report = running.stop()?;
        println!("sent {}, lost {}, overflowed {}", report.sent, report.lost, report.overflowed);
        ensure!(report.received > u64::from(PACE), "hardly anything passed: {} of {}", report.received, report.sent);
    }
    // Nobody speaks any more, and what was sealed can be compared with what was captured.
    for daemon in &mut upgraded {
        daemon.signal(nix::sys::signal::Signal::SIGTERM)?;
        ensure!(daemon.wait(PATIENCE)?.success(), "{}", daemon.stderr());
    }
    let sealed = sealed([a, b])?;
    let mut found = 0;
    let mut sessions = BTreeSet::new();
    let mut seen = HashMap::new();
    for capture in captures {
        for frame in capture?.stop()? {
            let Some(datagram) = Datagram::read(&frame.bytes).filter(|datagram| !datagram.is_handshake()) else {
                continue;
            };
            sessions.insert((frame.is_outgoing, datagram.receiver()));
            // A session has a key for each direction: the same index both ways is not the same nonce.
            let nonce = (frame.is_outgoing, datagram.receiver(), datagram.counter());
            let payload = datagram.payload().to_vec();
            let Some(first) = seen.get(&nonce) else {
                found += 1;
                seen.insert(nonce, payload);
                continue;
            };
            // While a path is doubted, the very same packet goes by another one as well.
            ensure!(*first == payload, "{nonce:x?} seals {first:x?} and {payload:x?}");
        }
    }
    println!("{found} packets of {} sessions", sessions.len());
    ensure!(found == sealed, "{found} of {sealed} packets were captured");
    ensure!(sessions.len() > 2 * ROUNDS, "only {} sessions", sessions.len());
    scene.close()
}
