//! Three gateways: a hub and two spokes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use multipath_tests::traffic::Capture;
use multipath_tests::{Connection, Gateway, Lab, TunnelConfig, eventually};

use crate::journey::Journey;
use crate::scene::{LINK, alone, up_all};
use crate::status::Status;

/// Packets that the hub has sent to its peers b and c.
fn sent(hub: &Gateway) -> Result<[u64; 2]> {
    let status = Status::of(hub, "mp0")?;
    Ok(["b", "c"].map(|peer| status.paths_to(peer).map(|path| path.egress.packets).sum()))
}

fn prefixes<'a>(config: &'a mut TunnelConfig, peer: &str) -> Result<&'a mut Vec<String>> {
    let peer = config.peers.iter_mut().find(|found| found.name == peer);
    Ok(&mut peer.with_context(|| format!("{} has no such peer", config.name))?.allowed_ips)
}

#[test]
fn hub_and_spokes() -> Result<()> {
    let _alone = alone()?;
    let lab = Lab::new()?;
    let [hub, b, c] = [Gateway::new(&lab, "a", 1)?, Gateway::new(&lab, "b", 2)?, Gateway::new(&lab, "c", 3)?];
    let connections = [Connection::new(&lab, 0, [&hub, &b], LINK)?, Connection::new(&lab, 1, [&hub, &c], LINK)?];
    let mut configs = TunnelConfig::mesh(0, &[&hub, &b, &c], &connections);
    // Everything of the spokes leads to the hub; at the hub b has the wide prefixes, c its own in the midst of them.
    let wide = || ["10.98.0.0/16".to_owned(), "fd98::/16".to_owned()];
    for config in &mut configs[1..] {
        config.peers.retain(|peer| peer.name == "a");
        prefixes(config, "a")?.extend(wide());
    }
    prefixes(&mut configs[0], "b")?.extend(wide());
    [&hub, &b, &c].into_iter().try_for_each(Gateway::meet_host)?;
    let gateways: Vec<_> = [&hub, &b, &c].into_iter().zip(&configs).collect();
    let mut daemons = up_all(&gateways)?;

    for gateway in [&hub, &b, &c] {
        for other in [&hub, &b, &c].into_iter().filter(|other| other.name() != gateway.name()) {
            for journey in [
                Journey::new(gateway.host(), other.host(), other.host_v4()),
                Journey::new(gateway.host(), other.host(), other.host_v6()),
            ] {
                journey.pings(1416)?;
                journey.stream()?;
            }
        }
    }
    Journey::tcp_all(&[Journey::new(b.host(), c.host(), c.host_v4()), Journey::new(c.host(), b.host(), b.host_v6())])?;
    // The hub sends on what came in by the same device: no reason to tell the spokes of a shorter way that there is not.
    let redirects = Capture::start(b.host(), "eth0")?;
    Journey::new(b.host(), c.host(), c.host_v4()).ping(84)?;
    let redirect =
        redirects.stop()?.into_iter().find(|frame| frame.bytes.get(23) == Some(&1) && frame.bytes.get(34) == Some(&5));
    ensure!(redirect.is_none(), "the hub sends ICMP redirects into the spokes: {redirect:?}");

    longest_prefix_wins(&hub)?;
    nobody_sends_from_the_addresses_of_others(&hub, &b, &c)?;

    for daemon in &mut daemons {
        ensure!(daemon.is_running(), "{}", daemon.log());
    }
    drop(daemons);
    let left = lab.close()?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

/// Far more packets than probes go meanwhile.
const MANY: u64 = 200;

fn longest_prefix_wins(hub: &Gateway) -> Result<()> {
    for (address, expected) in [("10.98.3.77", 1), ("10.98.77.1", 0), ("fd98:3::77", 1), ("fd98:77::1", 0)] {
        let before = sent(hub)?;
        // The journey's other end is nobody: only where the packet goes counts.
        let journey = Journey::new(hub.host(), hub.host(), address.parse::<std::net::IpAddr>()?);
        (0..MANY).try_for_each(|_| journey.send_one())?;
        let look = || Ok(sent(hub)?.iter().zip(before).map(|(after, before)| after - before).sum::<u64>());
        eventually("the packets leave", look, |packets| *packets >= MANY)?;
        let after = sent(hub)?;
        let more = [after[0] - before[0], after[1] - before[1]];
        ensure!(more[expected] >= MANY && more[1 - expected] < MANY / 2, "{address}: packets to b and c: {more:?}");
    }
    Ok(())
}

fn nobody_sends_from_the_addresses_of_others(hub: &Gateway, b: &Gateway, c: &Gateway) -> Result<()> {
    // c's address, in the midst of what b may send from; and one of nobody.
    for (source, to) in [
        ("10.98.3.99/32", hub.host_v4().to_string()),
        ("192.0.2.1/32", hub.host_v4().to_string()),
        ("fd98:3::99/128", hub.host_v6().to_string()),
    ] {
        b.host().ip(&format!("addr add {source} dev lo"))?;
        let before = Status::of(hub, "mp0")?.dropped("wrong_source");
        let inside = Capture::start(hub.host(), "eth0")?;
        let source = source.split_once('/').map_or(source, |(address, _)| address);
        b.host()
            .output(&["ping", "-n", "-c", "3", "-i", "0.01", "-W", "0.2", "-I", source, &to], Duration::from_secs(5))?;
        let look = || Ok(Status::of(hub, "mp0")?.dropped("wrong_source") - before);
        eventually("the hub counts three packets of a wrong source", look, |dropped| *dropped == 3)?;
        let echo = inside
            .stop()?
            .into_iter()
            .find(|frame| !frame.is_outgoing && (frame.bytes.get(23) == Some(&1) || frame.bytes.get(54) == Some(&128)));
        ensure!(echo.is_none(), "a packet from {source} was delivered: {echo:?}");
    }
    // The same addresses are c's to use.
    c.host().ip("addr add 10.98.3.99/32 dev lo")?;
    let output = c.host().output(
        &["ping", "-n", "-c", "2", "-i", "0.01", "-W", "1", "-I", "10.98.3.99", &hub.host_v4().to_string()],
        Duration::from_secs(5),
    )?;
    output.success()?;
    Ok(())
}
