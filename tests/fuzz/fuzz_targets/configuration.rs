//! The configuration file: what is accepted keeps every promise of its types, what is refused says where and why.
#![no_main]

use std::{collections::BTreeSet, net::SocketAddr, path::Path};

use libfuzzer_sys::fuzz_target;
use multipath_common::{
    classes::{MAX_CLASS_RULES, MAX_COUNTED_RULES},
    maps::MAX_PATHS,
};
use multipath_loader::config::{
    Config, ConfigError, FLOWS_MAX, MTU_MAX, MTU_MIN, Peer, WEIGHT_MAX, WEIGHT_MIN, check_interface_name, check_name,
    class_rules, classes_of,
};

fuzz_target!(|text: &str| {
    // Files that the text may name are looked for beside a file that does not exist.
    match Config::parse(text, Path::new("/nonexistent/mp0.toml")) {
        Ok(config) => keeps_its_promises(&config),
        Err(ConfigError::Invalid { diagnostics }) => {
            assert!(!diagnostics.is_empty());
            let places: Vec<_> = diagnostics.iter().map(|diagnostic| diagnostic.place).collect();
            assert!(places.is_sorted(), "the errors stand in the file's order");
            for diagnostic in diagnostics {
                let (line, column) = diagnostic.place.expect("the file's name is right");
                let line = text.split('\n').nth(line - 1).expect("a line of the file");
                assert!((1..=line.chars().count() + 2).contains(&column), "{diagnostic}");
            }
        }
        Err(error) => panic!("nothing is read: {error}"),
    }
});

fn keeps_its_promises(config: &Config) {
    let Config { tunnel, uplinks, peers, classes, .. } = config;
    assert_ne!(tunnel.listen_port, 0);
    assert!(u16::try_from(u32::from(tunnel.listen_port) + config.port_count() - 1).is_ok());
    assert!(tunnel.mtu.is_none_or(|mtu| (MTU_MIN..=MTU_MAX).contains(&mtu)));
    assert!(!uplinks.is_empty() && !peers.is_empty());
    for uplink in uplinks {
        assert_eq!(check_name(&uplink.name), Ok(()));
        assert_eq!(check_interface_name(&uplink.interface), Ok(()));
        assert!(uplink.interface != tunnel.name, "a tunnel in itself");
        assert!(uplink.weight.is_none_or(|weight| (WEIGHT_MIN..=WEIGHT_MAX).contains(&weight)));
        assert!((1..=FLOWS_MAX).contains(&uplink.flows));
    }
    assert_unique(uplinks.iter().map(|uplink| &uplink.name));
    assert_unique(uplinks.iter().map(|uplink| &uplink.interface));
    assert_unique(peers.iter().map(|peer| &peer.name));
    assert_unique(peers.iter().map(|peer| peer.public_key));
    assert_unique(peers.iter().flat_map(|peer| &peer.allowed_ips));
    for peer in peers {
        peer_keeps_its_promises(peer, config);
    }
    let rules = class_rules(classes);
    assert!(classes.len() < MAX_COUNTED_RULES && rules.len() <= MAX_CLASS_RULES);
    assert_eq!(classes_of(&rules), *classes);
    assert_unique(classes.iter().filter_map(|class| class.name.as_ref()));
    let secret = tunnel.private_key.to_base64();
    let is_also_public = peers.iter().any(|peer| peer.public_key.as_bytes() == tunnel.private_key.as_bytes());
    assert!(is_also_public || !format!("{config:?}").contains(secret.as_str()), "the private key is shown");
}

fn peer_keeps_its_promises(peer: &Peer, config: &Config) {
    assert_eq!(check_name(&peer.name), Ok(()));
    assert_ne!(peer.public_key, config.tunnel.private_key.public());
    assert!(!peer.allowed_ips.is_empty());
    assert!(peer.allowed_ips.iter().all(|prefix| *prefix == prefix.trunc()));
    for endpoint in &peer.endpoints {
        assert!(is_of_another_host(endpoint.address), "{}", endpoint.address);
        for name in endpoint.uplinks.iter().flatten() {
            assert!(config.uplinks.iter().any(|uplink| uplink.name == *name), "{name}");
        }
    }
    let candidates = config.candidates(peer);
    assert!((1..=MAX_PATHS).contains(&candidates.len()));
    assert!(candidates.iter().all(|candidate| candidate.uplink < config.uplinks.len()));
    assert_unique(candidates.iter().map(|candidate| &candidate.name));
}

fn is_of_another_host(address: SocketAddr) -> bool {
    let ip = address.ip();
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback()
}

fn assert_unique<T: Ord + std::fmt::Debug>(values: impl Iterator<Item = T>) {
    let mut seen = BTreeSet::new();
    for value in values {
        assert!(!seen.contains(&value), "{value:?} twice");
        seen.insert(value);
    }
}
