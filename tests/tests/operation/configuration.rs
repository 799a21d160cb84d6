//! Weights and rates from the file, and a file that is changed between two daemons.

use std::{thread, time::Duration};

use anyhow::{Context, Result};
use multipath_tests::{Connection, Family, Gateway, Lab, LinkSpec, TunnelConfig, traffic::UdpStream};
use serde_json::Value;

use crate::{PATIENCE, alone, close, path, paths, status, topology, until, up};

fn names(gateway: &Gateway) -> Result<Vec<String>> {
    let name = |path: &Value| Some(path["name"].as_str()?.to_owned());
    paths(gateway)?.iter().map(|path| name(path).context("a path without name")).collect()
}

/// Pinned links of the tunnel, without the interface's index.
fn links(gateway: &Gateway) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for link in std::fs::read_dir(gateway.bpffs().join("mpvpn/mp0/links"))? {
        let name = link?.file_name().to_string_lossy().into_owned();
        names.push(name.rsplit_once('-').map_or(name.clone(), |(name, _)| name.to_owned()));
    }
    names.sort();
    Ok(names)
}

/// Links of the uplinks with those of the tunnel's own device, sorted.
fn with_own<'a>(uplinks: &[&'a str]) -> Vec<&'a str> {
    let mut links = [&["delivered", "egress", "opening", "steer"], uplinks].concat();
    links.sort_unstable();
    links
}

#[test]
fn weights_and_rates_of_the_file_decide_the_shares() -> Result<()> {
    let _alone = alone();
    let topology = topology(3)?;
    let gateway = &topology.a;
    let [config, _] = topology.tunnel_configs(0);
    for (weights, rates, shares) in [
        ([Some(8), Some(3), Some(10)], [None; 3], [8.0 / 21.0, 3.0 / 21.0, 10.0 / 21.0]),
        ([None; 3], [Some("8mbit"), Some("2mbit"), Some("10mbit")], [0.4, 0.1, 0.5]),
        ([None; 3], [Some("8mbit"), None, None], [1.0 / 3.0; 3]),
    ] {
        let mut config = config.clone();
        for ((uplink, weight), rate) in config.uplinks.iter_mut().zip(weights).zip(rates) {
            uplink.weight = weight;
            uplink.rate = rate.map(str::to_owned);
        }
        let mut daemon = gateway.up(&config)?;
        for (number, share) in shares.into_iter().enumerate() {
            let path = path(gateway, &format!("b/up{number}"))?;
            let found = path["share"].as_f64().context("share")?;
            assert!((found - share).abs() < 1e-6, "up{number}: {found}, expected {share}");
            assert_eq!(path["rate_kbps"].is_u64(), rates[number].is_some());
        }
        // Automatic weights that stay in force would change only where they differ by more than a fifth.
        daemon.interrupt()?;
    }
    close(topology)
}

/// Three gateways: a and b by two links, a and c by one.
struct Triangle {
    a: Gateway,
    b: Gateway,
    c: Gateway,
    connections: Vec<Connection>,
    lab: Lab,
}

impl Triangle {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let [a, b, c] = [("a", 1), ("b", 2), ("c", 3)].map(|(name, number)| Gateway::new(&lab, name, number));
        let (a, b, c) = (a?, b?, c?);
        let spec = LinkSpec::PERFECT.family(Family::V4);
        let connections = vec![
            Connection::new(&lab, 0, [&a, &b], spec)?,
            Connection::new(&lab, 1, [&a, &b], spec)?,
            Connection::new(&lab, 2, [&a, &c], spec)?,
        ];
        Ok(Self { a, b, c, connections, lab })
    }

    fn configs(&self) -> Result<[TunnelConfig; 3]> {
        let configs = TunnelConfig::mesh(0, &[&self.a, &self.b, &self.c], &self.connections);
        configs.try_into().ok().context("three gateways have three configurations")
    }
}

#[test]
fn a_changed_file_takes_effect_without_harm_to_what_stays() -> Result<()> {
    let _alone = alone();
    let triangle = Triangle::new()?;
    let a = &triangle.a;
    let [config, b, c] = triangle.configs()?;
    let mut daemon = a.up(&config)?;
    let _others = [triangle.b.up(&b)?, triangle.c.up(&c)?];
    a.wait_for_sessions("mp0")?;
    assert_eq!(names(a)?, ["b/up0", "b/up1", "c/up2"]);
    let reaches = |gateway: &Gateway| -> Result<bool> {
        let ping = multipath_tests::traffic::Ping {
            count: 3,
            interval: Duration::ZERO,
            ..multipath_tests::traffic::Ping::to(gateway.host_v4())
        };
        Ok(ping.run(a.host())?.received == 3)
    };
    assert!(reaches(&triangle.b)? && reaches(&triangle.c)?);
    let key_of = |name: &str| -> Result<Value> { Ok(path(a, name)?["key"].clone()) };
    let keys = [key_of("b/up0")?, key_of("b/up1")?, key_of("c/up2")?];
    a.mpvpn(&["path", "set", "c/up2", "weight", "77"])?.success()?;

    // The flow to c stays through all of it.
    let stream = UdpStream { flows: 4, ..UdpStream::to(triangle.c.host_v4(), 1000, 64, Duration::from_mins(1)) };
    let stream = stream.start(a.host(), triangle.c.host())?;

    // The peer b and its uplinks go.
    let mut without_b = config.clone();
    without_b.peers.retain(|peer| peer.name == "c");
    without_b.uplinks.retain(|uplink| uplink.name == "up2");
    daemon.terminate()?;
    let mut daemon = a.up(&without_b)?;
    assert_eq!(names(a)?, ["c/up2"]);
    assert_eq!(key_of("c/up2")?, keys[2], "the path keeps its number");
    assert_eq!(path(a, "c/up2")?["operator_weight"], 77);
    assert_eq!(links(a)?, with_own(&["up2-tc", "up2-xdp"]));
    assert!(!reaches(&triangle.b)?);
    let routes = a.namespace().output(&["ip", "route", "show", "dev", "mp0"], PATIENCE)?;
    assert!(!routes.success()?.contains("10.98.2.0"), "{}", routes.stdout);

    // b comes back under another name, before c in the file, with its first uplink under another name and other prefixes.
    let mut renamed = config.clone();
    renamed.peers[0].name = "hub".to_owned();
    renamed.peers[0].allowed_ips.retain(|prefix| !prefix.starts_with("fd98"));
    renamed.peers[0].allowed_ips.push("10.55.0.0/16".to_owned());
    renamed.uplinks[0].name = "fibre".to_owned();
    for endpoint in &mut renamed.peers[0].endpoints {
        for uplink in endpoint.uplinks.iter_mut().filter(|uplink| *uplink == "up0") {
            "fibre".clone_into(uplink);
        }
    }
    daemon.terminate()?;
    let mut daemon = a.up(&renamed)?;
    let mut found = names(a)?;
    found.sort();
    assert_eq!(found, ["c/up2", "hub/fibre", "hub/up1"]);
    assert_eq!(key_of("c/up2")?, keys[2]);
    assert_eq!(links(a)?, with_own(&["fibre-tc", "fibre-xdp", "up1-tc", "up1-xdp", "up2-tc", "up2-xdp"]));
    a.wait_for_session_with(&triangle.b, "mp0")?;
    assert!(reaches(&triangle.b)?);
    let routes = a.namespace().output(&["ip", "route", "show", "dev", "mp0"], PATIENCE)?;
    assert!(routes.success()?.contains("10.55.0.0/16"), "{}", routes.stdout);

    // Only names change: of the peer, whose other path keeps its number, and of an uplink whose programs stay attached.
    let hub = key_of("hub/fibre")?;
    let mut named_back = renamed.clone();
    named_back.peers[0].name = "b".to_owned();
    named_back.uplinks[1].name = "copper".to_owned();
    named_back.peers[0].endpoints[1].uplinks = vec!["copper".to_owned()];
    daemon.terminate()?;
    let _daemon = a.up(&named_back)?;
    assert_eq!(links(a)?, with_own(&["copper-tc", "copper-xdp", "fibre-tc", "fibre-xdp", "up2-tc", "up2-xdp"]));
    until("the path is used", || Ok(path(a, "b/copper")?["used"] == true))?;
    assert_eq!(key_of("b/fibre")?, hub);
    assert_eq!(status(a)?["peers"].as_array().map(Vec::len), Some(2));

    thread::sleep(Duration::from_millis(100));
    let report = stream.stop()?;
    println!("sent {}, lost {}, duplicated {}", report.sent, report.lost, report.duplicated);
    assert_eq!((report.lost - report.refused - report.overflowed, report.duplicated), (0, 0));
    let left = triangle.lab.close()?;
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn a_changed_prefix_moves_from_one_peer_to_the_other() -> Result<()> {
    let _alone = alone();
    let topology = topology(1)?;
    let [mut daemon, _b] = up(&topology)?;
    let [config, _] = topology.tunnel_configs(0);
    let ping = multipath_tests::traffic::Ping { count: 3, ..multipath_tests::traffic::Ping::to(topology.b.host_v4()) };
    let mut smaller = config.clone();
    smaller.peers[0].allowed_ips.retain(|prefix| prefix != "10.98.2.0/24");
    daemon.terminate()?;
    let mut daemon = topology.a.up(&smaller)?;
    assert_eq!(ping.run(topology.ha())?.received, 0, "the prefix is not the peer's any more");
    daemon.terminate()?;
    let _daemon = topology.a.up(&config)?;
    assert_eq!(ping.run(topology.ha())?.received, 3);
    close(topology)
}

#[test]
fn a_session_of_other_keys_or_another_cipher_ends_at_the_start() -> Result<()> {
    let _alone = alone();
    let topology = topology(1)?;
    let [mut daemon, _b] = up(&topology)?;
    let [config, _] = topology.tunnel_configs(0);
    let session = |gateway: &Gateway| -> Result<Value> { Ok(status(gateway)?["peers"][0]["session"].clone()) };
    let index = session(&topology.a)?["index"].clone();
    assert!(index.is_u64(), "{index}");
    // A daemon that ends leaves it to the next one.
    daemon.terminate()?;
    assert_eq!(session(&topology.a)?["index"], index);
    let key_file = topology.a.directory().join("psk");
    topology.a.write_secret(&key_file, "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n")?;
    let mut other_key = config.clone();
    other_key.peers[0].preshared_key_file = Some(key_file.display().to_string());
    let mut daemon = topology.a.up(&other_key)?;
    assert!(session(&topology.a)?.is_null(), "a session that was made without the preshared key goes on");
    daemon.terminate()?;

    let mut daemon = topology.a.up(&config)?;
    topology.a.wait_for_sessions("mp0")?;
    daemon.terminate()?;
    let mut other_cipher = config.clone();
    other_cipher.peers[0].cipher = Some("auth".to_owned());
    let _daemon = topology.a.up(&other_cipher)?;
    assert!(session(&topology.a)?.is_null(), "a session of another cipher goes on");
    close(topology)
}
