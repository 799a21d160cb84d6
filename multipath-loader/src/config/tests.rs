use std::{fs, os::unix::fs::PermissionsExt};

use multipath_common::maps::MAX_PEERS;
use proptest::prelude::*;

use super::*;

mod class;

/// The key pair of the gateway under test (RFC 7748, section 6.1, Alice) and a peer's public key (Bob).
const SECRET: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const OWN: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
const PEER: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";

const TUNNEL: &str = "[tunnel]\nprivate_key = \"dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\"\n";
const UPLINK: &str = "[[uplink]]\nname = \"dsl\"\ninterface = \"ppp0\"\n";
const HUB: &str = "[[peer]]\nname = \"hub\"\npublic_key = \"3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=\"\n\
                   endpoints = [\"198.51.100.7:5182\"]\nallowed_ips = [\"10.98.0.0/24\"]\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("mp0.toml"))
}

/// The errors in `text`, one a line.
fn errors(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(config) => panic!("no error in {config:?}"),
        Err(ConfigError::Read { .. }) => unreachable!("nothing is read"),
        Err(ConfigError::Invalid { diagnostics }) => diagnostics.iter().map(ToString::to_string).collect(),
    }
}

/// The only error in `text`.
fn error(text: &str) -> String {
    let mut errors = errors(text);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors.remove(0)
}

/// The only error in a good file that has `added` at the end of its tunnel, uplink or peer.
fn error_in(table: &str, added: &str) -> String {
    let add = |head: &str| if head.contains(table) { format!("{head}{added}\n") } else { head.to_owned() };
    error(&[TUNNEL, UPLINK, HUB].map(add).concat())
}

/// A good file with one text replaced by another.
fn replaced(from: &str, to: &str) -> String {
    let text = [TUNNEL, UPLINK, HUB].concat();
    assert!(text.contains(from), "{from}");
    text.replacen(from, to, 1)
}

#[test]
fn least() {
    let config = parse(&[TUNNEL, UPLINK, HUB].concat()).unwrap();
    let Tunnel { name, private_key, listen_port, addresses, mtu, routes, spread, playout_delay } = config.tunnel;
    assert_eq!((name.as_str(), private_key.public().to_string().as_str()), ("mp0", OWN));
    assert_eq!((listen_port, addresses, mtu, routes, spread), (5182, vec![], None, Routes::Auto, Spread::Auto));
    assert_eq!((playout_delay, config.classes), (None, vec![]));
    let [Uplink { name, interface, weight, rate, xdp, role, quota, flows }] = &config.uplinks[..] else { panic!() };
    assert_eq!((name.as_str(), interface.as_str(), *weight, *rate, *xdp), ("dsl", "ppp0", None, None, Xdp::Auto));
    assert_eq!((*role, *quota, *flows), (Role::Active, None, 1));
    let [Peer { name, public_key, endpoints, allowed_ips, cipher, preshared_key }] = &config.peers[..] else {
        panic!()
    };
    assert_eq!((name.as_str(), public_key.to_string().as_str()), ("hub", PEER));
    assert_eq!((*cipher, preshared_key.is_none()), (Cipher::ChaCha20Poly1305, true));
    assert_eq!(endpoints, &[Endpoint { address: "198.51.100.7:5182".parse().unwrap(), uplinks: None }]);
    assert_eq!(allowed_ips, &["10.98.0.0/24".parse().unwrap()]);
}

#[test]
fn everything() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("mp0.key");
    fs::write(&key, format!("{SECRET}\n")).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let file = directory.path().join("mp0.toml");
    let text = r#"
        [tunnel]
        private_key_file = "mp0.key"
        listen_port = 51_820
        address = ["10.99.0.1/24", "fd99::1/64"]
        mtu = 1400
        routes = "off"
        spread = "off"

        [[uplink]]
        name = "dsl"
        interface = "ppp0"
        weight = 10
        rate = "8mbit"
        xdp = "off"

        [[uplink]]
        name = "lte"
        interface = "wwan0"
        role = "metered"
        quota = "10GB/month"
        flows = 2

        [[peer]]
        name = "hub"
        public_key = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="
        endpoints = ["198.51.100.7:5182", { address = "[2001:db8::7]:5182", uplinks = ["dsl"] }]
        allowed_ips = ["0.0.0.0/0", "fd98::/64"]

        [[peer]]
        name = "roamer"
        public_key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
        allowed_ips = ["10.97.0.0/24"]
        cipher = "none"
    "#;
    fs::write(&file, text).unwrap();
    let config = Config::load(&file).unwrap();
    assert_eq!(config.tunnel.private_key.public().to_string(), OWN);
    assert_eq!((config.tunnel.listen_port, config.tunnel.mtu), (51820, Some(1400)));
    assert_eq!(config.tunnel.addresses.len(), 2);
    assert_eq!((config.tunnel.routes, config.tunnel.spread), (Routes::Off, Spread::Off));
    assert_eq!((config.uplinks[0].weight, config.uplinks[0].rate.map(Rate::kbit)), (Some(10), Some(8000)));
    assert_eq!(config.uplinks[0].xdp, Xdp::Off);

    let lte = &config.uplinks[1];
    assert_eq!((lte.role, lte.quota, lte.flows), (Role::Metered, Quota::new(10_000_000_000, Period::Month), 2));
    assert_eq!((config.file.as_path(), config.port_count()), (file.as_path(), 2));

    let names = |peer: usize| -> Vec<_> {
        let candidates = config.candidates(&config.peers[peer]).into_iter();
        candidates.map(|path| (path.name, path.uplink, path.number, path.flow)).collect()
    };
    let path = |name: &str, uplink, number, flow| (name.to_owned(), uplink, number, flow);
    assert_eq!(
        names(0),
        [path("hub/dsl", 0, 0, 0), path("hub/lte", 1, 0, 0), path("hub/lte#2", 1, 0, 1), path("hub/dsl/2", 0, 1, 0)]
    );
    assert_eq!(names(1), [path("roamer/dsl", 0, 0, 0), path("roamer/lte", 1, 0, 0)]);
    assert!(config.candidates(&config.peers[1]).iter().all(|path| path.endpoint.is_none()));
}

#[test]
fn every_error_is_reported_in_order() {
    let text = "[tunnel]\nprivate_key = \"AAAA\"\nlisten_port = 0\n\n[[uplink]]\nname = \"dsl\"\nwieght = 3\n\n\
                [[peer]]\nname = 7\npublic_key = \"AAAA\"\nallowed_ips = [\"10.0.0.1/8\", \"x\"]\n";
    assert_eq!(
        errors(text),
        [
            "mp0.toml:2:15: tunnel.private_key: found base64 of 3 bytes, expected 32 bytes in base64, as `mpvpn genkey` \
             and `mpvpn pubkey` print them",
            "mp0.toml:3:15: tunnel.listen_port: found 0, expected a whole number from 1 to 65535",
            "mp0.toml:5:1: uplink.interface: found nothing, expected an interface's name in quotes",
            "mp0.toml:7:1: uplink.wieght: found an unknown key, expected a known key (did you mean `weight`?)",
            "mp0.toml:10:8: peer.name: found 7, expected a name in quotes",
            "mp0.toml:11:14: peer.public_key: found \"AAAA\", expected 32 bytes in base64, as `mpvpn genkey` and `mpvpn \
             pubkey` print them (this is base64 of 3 bytes)",
            "mp0.toml:12:16: peer.allowed_ips: found \"10.0.0.1/8\", expected a prefix without host bits: 10.0.0.0/8 (or \
             10.0.0.1/32 for this one host)",
            "mp0.toml:12:30: peer.allowed_ips: found \"x\", expected a prefix, for instance 10.98.0.0/24 or fd98::/64",
        ]
    );
}

#[test]
fn syntax() {
    assert_eq!(
        errors("[tunnel]\nprivate_key = dwdtCnMYpX08=\nmtu = = 3\n"),
        [
            "mp0.toml:2:15: found a syntax error, expected TOML: string values must be quoted, expected literal string",
            "mp0.toml:3:7: found a syntax error, expected TOML: extra `=`, expected nothing",
        ]
    );
    assert_eq!(
        error(&replaced("name = \"hub\"", "name = \"hub\"\nname = \"hub\"")),
        "mp0.toml:8:1: found a syntax error, expected TOML: duplicate key"
    );
}

#[test]
fn missing_tables() {
    assert_eq!(
        errors(""),
        [
            "mp0.toml:1:1: tunnel: found nothing, expected a table [tunnel]",
            "mp0.toml:1:1: uplink: found nothing, expected at least one table [[uplink]]",
            "mp0.toml:1:1: peer: found nothing, expected at least one table [[peer]]",
        ]
    );
    assert_eq!(
        error(&replaced("[[uplink]]", "[uplink]")),
        "mp0.toml:3:1: uplink: found a table, expected a list of tables, each headed [[uplink]] in double brackets"
    );
    assert_eq!(
        error(&format!("peer = []\n{TUNNEL}{UPLINK}")),
        "mp0.toml:1:8: peer: found an empty list, expected at least one table [[peer]]"
    );
}

#[test]
fn unknown_keys() {
    assert_eq!(
        error_in("[tunnel]", "port = 7"),
        "mp0.toml:3:1: tunnel.port: found an unknown key, expected one of private_key, private_key_file, listen_port, \
         address, mtu, routes, spread, playout_delay"
    );
    assert_eq!(
        error_in("[[peer]]", "alowed_ip = []"),
        "mp0.toml:11:1: peer.alowed_ip: found an unknown key, expected a known key (did you mean `allowed_ips`?)"
    );
    assert_eq!(
        error(&replaced("\"198.51.100.7:5182\"", "{ address = \"198.51.100.7:5182\", uplink = \"dsl\" }")),
        "mp0.toml:9:47: peer.endpoints.uplink: found an unknown key, expected a known key (did you mean `uplinks`?)"
    );
    assert_eq!(
        error(&format!("{TUNNEL}{UPLINK}{HUB}[[uplinks]]\n")),
        "mp0.toml:11:3: uplinks: found an unknown key, expected a known key (did you mean `uplink`?)"
    );
}

#[test]
fn names() {
    assert_eq!(
        error(&replaced("\"dsl\"", "\"sixteen-letters_\"")),
        "mp0.toml:4:8: uplink.name: found \"sixteen-letters_\", expected 1 to 15 of the characters A-Z a-z 0-9 _ -"
    );
    assert_eq!(
        error(&replaced("\"hub\"", "\"\"")),
        "mp0.toml:7:8: peer.name: found \"\", expected 1 to 15 of the characters A-Z a-z 0-9 _ -"
    );
    assert_eq!(
        errors(&format!("{TUNNEL}{UPLINK}{UPLINK}{HUB}")),
        [
            "mp0.toml:7:8: uplink.name: found \"dsl\", expected a name of its own: this one stands in line 4 already",
            "mp0.toml:8:13: uplink.interface: found \"ppp0\", expected an interface of its own: this one stands in line 5 \
             already",
        ]
    );
    assert_eq!(
        error(&replaced("\"ppp0\"", "\"an-interface-too-long\"")),
        "mp0.toml:5:13: uplink.interface: found \"an-interface-too-long\", expected an interface's name of 1 to 15 bytes, \
         without '/', ':' and spaces"
    );
    for own in ["mp0", "mp0-port"] {
        assert_eq!(
            error(&replaced("\"ppp0\"", &format!("{own:?}"))),
            format!(
                "mp0.toml:5:13: uplink.interface: found {own:?}, expected an interface below the tunnel, not the \
                 tunnel's own"
            )
        );
    }
    let text = [TUNNEL, UPLINK, HUB].concat();
    let Err(error) = Config::parse(&text, Path::new("/etc/mpvpn/a-long-name.toml")) else { panic!() };
    assert_eq!(
        error.to_string(),
        "the configuration is wrong, nothing of it is applied:\n/etc/mpvpn/a-long-name.toml: file name: found \
         \"a-long-name\", expected a tunnel's name of 1 to 10 of the characters A-Z a-z 0-9 _ -, because the device \
         NAME-port must fit into an interface's 15, and .toml"
    );
}

#[test]
fn numbers_and_choices() {
    assert_eq!(
        error_in("[tunnel]", "mtu = 1279"),
        "mp0.toml:3:7: tunnel.mtu: found 1279, expected a whole number from 1280 to 9000"
    );
    assert_eq!(
        error_in("[tunnel]", "mtu = \"1400\""),
        "mp0.toml:3:7: tunnel.mtu: found \"1400\", expected a whole number from 1280 to 9000"
    );
    assert_eq!(
        error_in("[tunnel]", "routes = true"),
        "mp0.toml:3:10: tunnel.routes: found true, expected \"auto\" or \"off\""
    );
    for weight in ["0", "1_000_001", "-1", "1.5", "99999999999999999999"] {
        assert_eq!(
            error_in("[[uplink]]", &format!("weight = {weight}")),
            format!("mp0.toml:6:10: uplink.weight: found {weight}, expected a whole number from 1 to 1000000")
        );
    }
    assert_eq!(
        error_in("[[uplink]]", "rate = \"8 potatoes\""),
        "mp0.toml:6:8: uplink.rate: found \"8 potatoes\", expected a rate from 1kbit to 4294gbit with its unit (bit, kbit, \
         mbit or gbit), for instance 8mbit"
    );
    assert_eq!(
        error_in("[[uplink]]", "xdp = \"fast\""),
        "mp0.toml:6:7: uplink.xdp: found \"fast\", expected \"auto\" or \"native\" or \"generic\" or \"off\""
    );
}

#[test]
fn ciphers() {
    for (text, cipher) in
        [("chacha20-poly1305", Cipher::ChaCha20Poly1305), ("auth", Cipher::Auth), ("none", Cipher::None)]
    {
        let config = parse(&format!("{TUNNEL}{UPLINK}{HUB}cipher = \"{text}\"\n")).unwrap();
        assert_eq!(config.peers[0].cipher, cipher);
    }
    assert_eq!(
        error_in("[[peer]]", "cipher = \"rot13\""),
        "mp0.toml:11:10: peer.cipher: found \"rot13\", expected \"chacha20-poly1305\" or \"auth\" or \"none\""
    );
}

#[test]
fn preshared_keys() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("hub.psk");
    fs::write(&key, SECRET).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let text = format!("{TUNNEL}{UPLINK}{HUB}preshared_key_file = {key:?}\n");
    let config = parse(&text).unwrap();
    assert_eq!(*config.peers[0].preshared_key.as_ref().unwrap().to_base64(), SECRET);

    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let name = key.display();
    assert_eq!(
        error(&text),
        format!(
            "mp0.toml:11:22: peer.preshared_key_file: found {key:?}, expected a file with a preshared key: {name} is open \
             to others than its owner (mode 640): chmod 600 {name}"
        )
    );
    assert_eq!(
        error_in("[[peer]]", &format!("preshared_key_file = \"{SECRET}\"")),
        "mp0.toml:11:22: peer.preshared_key_file: found a key, expected the name of a file with it"
    );
}

#[test]
fn a_file_with_the_key_itself_is_its_owners_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("mp0.toml");
    fs::write(&file, [TUNNEL, UPLINK, HUB].concat()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(Config::load(&file).is_ok());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let name = file.display();
    assert_eq!(
        Config::load(&file).unwrap_err().to_string(),
        format!(
            "the configuration is wrong, nothing of it is applied:\n{name}:2:15: tunnel.private_key: found a key, expected \
             it in a file that is its owner's alone; {name} is open to others than its owner (mode 644): chmod 600 {name}"
        )
    );
}

#[test]
fn more_peers_than_there_is_room_for() {
    let peer = |number: usize| {
        let [high, low] = [number >> 8, number & 0xff];
        format!("[[peer]]\nname = \"p{number}\"\npublic_key = \"{}\"\nallowed_ips = [\"10.{high}.{low}.0/24\"]\n", {
            let mut bytes = [1; 32];
            bytes[..2].copy_from_slice(&[high as u8, low as u8]);
            PublicKey::from(bytes)
        })
    };
    let text = |count: usize| format!("{TUNNEL}{UPLINK}{}", (0..count).map(peer).collect::<String>());
    assert_eq!(parse(&text(MAX_PEERS)).unwrap().peers.len(), MAX_PEERS);
    assert_eq!(
        error(&text(MAX_PEERS + 1)),
        format!(
            "mp0.toml:{}:1: peer: found 16385 peers, expected at most 16384 peers of one tunnel",
            6 + 4 * MAX_PEERS
        )
    );
}

#[test]
fn keys() {
    assert_eq!(
        error(&replaced(PEER, OWN)),
        format!(
            "mp0.toml:8:14: peer.public_key: found \"{OWN}\", expected the peer's public key, not this gateway's own"
        )
    );
    let other = HUB.replace("hub", "other").replace("10.98", "10.97");
    assert_eq!(
        error(&format!("{TUNNEL}{UPLINK}{HUB}{other}")),
        format!(
            "mp0.toml:13:14: peer.public_key: found \"{PEER}\", expected a key of its own: this one stands in line 8 \
             already"
        )
    );
    assert_eq!(
        error(&format!("[tunnel]\n{UPLINK}{HUB}")),
        "mp0.toml:1:1: tunnel.private_key_file: found nothing, expected private_key_file = \"FILE\" or private_key = \
         \"BASE64\" (`mpvpn genkey` makes one)"
    );
    assert_eq!(
        error_in("[tunnel]", "private_key_file = \"mp0.key\""),
        "mp0.toml:3:20: tunnel.private_key_file: found \"mp0.key\", expected either this or private_key, not both"
    );
}

#[test]
fn a_mistyped_private_key_is_never_printed() {
    for wrong in ["dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo", "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=="] {
        let misplaced = replaced("private_key =", "private_key_file =").replace(SECRET, wrong);
        assert!(!errors(&misplaced).concat().contains("dwdtCn"), "{:?}", errors(&misplaced));
        let text = [TUNNEL, UPLINK, HUB].concat();
        for quote in ["\"", "", "'''"] {
            let text = text.replace(&format!("\"{SECRET}\""), &format!("{quote}{wrong}{quote}"));
            assert!(!errors(&text).concat().contains("dwdtCn"), "{:?}", errors(&text));
        }
    }
}

#[test]
fn a_misplaced_private_key_is_never_printed() {
    assert_eq!(
        error(&replaced("private_key =", "private_key_file =")),
        "mp0.toml:2:20: tunnel.private_key_file: found a key, expected the name of a file (private_key takes a key)"
    );
}

#[test]
fn key_files() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("mp0.key");
    let text = format!("[tunnel]\nprivate_key_file = {key:?}\n{UPLINK}{HUB}");
    let name = key.display();
    let place = format!("mp0.toml:2:20: tunnel.private_key_file: found {key:?}, expected a file with");

    assert_eq!(
        error(&text),
        format!("{place} a private key: {name} can't be read (No such file or directory (os error 2))")
    );
    for mode in [0o640, 0o604, 0o644] {
        fs::write(&key, SECRET).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(
            error(&text),
            format!(
                "{place} a private key: {name} is open to others than its owner (mode {mode:03o}): chmod 600 {name}"
            )
        );
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(parse(&text).is_ok());
    fs::write(&key, "no key").unwrap();
    assert_eq!(
        error(&text),
        format!(
            "{place} 32 bytes in base64, as `mpvpn genkey` and `mpvpn pubkey` print them; this one has a text of 6 \
             characters that is not base64"
        )
    );
    fs::remove_file(&key).unwrap();
    fs::create_dir(&key).unwrap();
    assert_eq!(error(&text), format!("{place} a private key: {name} is not a regular file"));
}

#[test]
fn endpoints() {
    let with = |endpoints: &str| error(&replaced("[\"198.51.100.7:5182\"]", endpoints));
    assert_eq!(
        with("\"198.51.100.7:5182\""),
        "mp0.toml:9:13: peer.endpoints: found \"198.51.100.7:5182\", expected a list of \"ADDRESS:PORT\" or { address = \
         \"ADDRESS:PORT\", uplinks = [\"NAME\"] }"
    );
    assert_eq!(
        with("[\"hub.example.org:5182\"]"),
        "mp0.toml:9:14: peer.endpoints: found \"hub.example.org:5182\", expected ADDRESS:PORT, for instance \
         198.51.100.7:5182 or [2001:db8::7]:5182 (names are not resolved)"
    );
    assert_eq!(
        with("[\"198.51.100.7:0\"]"),
        "mp0.toml:9:14: peer.endpoints: found \"198.51.100.7:0\", expected a port from 1 to 65535"
    );
    assert_eq!(
        with("[{ address = \"198.51.100.7:1\", uplinks = [\"lte\"] }]"),
        "mp0.toml:9:55: peer.endpoints.uplinks: found \"lte\", expected the name of one of the uplinks (dsl)"
    );
    assert_eq!(
        with("[{ address = \"198.51.100.7:1\", uplinks = [] }]"),
        "mp0.toml:9:54: peer.endpoints.uplinks: found an empty list, expected a list of uplinks' names, at least one"
    );
    assert_eq!(
        with("[\"198.51.100.7:1\", { address = \"198.51.100.7:1\" }]"),
        "mp0.toml:9:44: peer.endpoints.address: found \"198.51.100.7:1\", expected an endpoint of its own: this one \
         stands in line 9 already"
    );
    let many: Vec<_> = (1..=17).map(|port| format!("\"198.51.100.7:{port}\"")).collect();
    assert_eq!(
        with(&format!("[{}]", many.join(", "))),
        "mp0.toml:9:13: peer.endpoints: found 17 paths, expected at most 16 paths to one peer; its endpoints, the uplinks \
         that each may use and their flows make 17: name fewer uplinks, \"ADDRESS:PORT\" or { address = \
         \"ADDRESS:PORT\", uplinks = [\"NAME\"] }"
    );
}

#[test]
fn flows() {
    let with = |port: u32, flows: u32, endpoints: &str| {
        let text = format!("{TUNNEL}listen_port = {port}\n{UPLINK}flows = {flows}\n{HUB}");
        text.replace("[\"198.51.100.7:5182\"]", endpoints)
    };
    let two = "[\"198.51.100.7:1\", \"198.51.100.7:2\"]";
    let config = parse(&with(65528, 8, two)).unwrap();
    assert_eq!((config.candidates(&config.peers[0]).len(), config.port_count()), (16, 8));
    assert_eq!(config.candidates(&config.peers[0])[15].name, "hub/dsl/2#8");
    assert_eq!(error(&with(65528, 9, two)), "mp0.toml:7:9: uplink.flows: found 9, expected a whole number from 1 to 8");
    assert_eq!(
        error(&with(65533, 4, two)),
        "mp0.toml:7:9: uplink.flows: found 4, expected at most 3: each has a port of its own, from listen_port 65533 on"
    );
    let three = "[\"198.51.100.7:1\", \"198.51.100.7:2\", { address = \"198.51.100.7:3\", uplinks = [\"dsl\"] }]";
    assert!(error(&with(5182, 6, three)).contains("expected at most 16 paths to one peer"));
    // A peer without endpoints decides itself how many paths there are.
    let config = parse(&with(5182, 8, "[]")).unwrap();
    assert_eq!(config.candidates(&config.peers[0]).len(), 1);
}

#[test]
fn roles_and_quotas() {
    let uplink = |added: &str| parse(&[TUNNEL, UPLINK, added, HUB].concat()).unwrap().uplinks.remove(0);
    for (text, fresh, used_up) in [
        ("", Role::Active, Role::Active),
        ("role = \"backup\"\n", Role::Backup, Role::Backup),
        ("role = \"metered\"\n", Role::Metered, Role::Metered),
        ("quota = \"500MB/day\"\n", Role::Active, Role::Metered),
        ("role = \"metered\"\nquota = \"500MB/day\"\n", Role::Active, Role::Metered),
        ("role = \"backup\"\nquota = \"500MB/day\"\n", Role::Backup, Role::Metered),
    ] {
        let uplink = uplink(text);
        assert_eq!((uplink.role_with(false), uplink.role_with(true)), (fresh, used_up), "{text}");
    }
    assert_eq!(
        error_in("[[uplink]]", "role = \"spare\""),
        "mp0.toml:6:8: uplink.role: found \"spare\", expected \"active\" or \"backup\" or \"metered\""
    );
    assert_eq!(
        error_in("[[uplink]]", "quota = \"10GB\""),
        "mp0.toml:6:9: uplink.quota: found \"10GB\", expected a quota from 1B to 18446744TB with its unit (kB, MB, GB, TB \
         or KiB, MiB, GiB, TiB) and its period (day or month), for instance 10GB/month"
    );
}

#[test]
fn what_a_running_tunnel_takes_over() {
    let running = parse(&[TUNNEL, UPLINK, HUB].concat()).unwrap();
    let check = |text: &str| running.check_reload(&parse(text).unwrap(), running.capacity());
    let lte = "[[uplink]]\nname = \"lte\"\ninterface = \"wwan0\"\n";
    assert_eq!(check(&[TUNNEL, "mtu = 1400\n", UPLINK, "role = \"backup\"\n", lte, HUB].concat()), Ok(()));
    assert_eq!(
        check(&[TUNNEL, "listen_port = 7\n", UPLINK, HUB].concat()),
        Err(ReloadError::ListenPort { old: 5182, new: 7 })
    );
    assert_eq!(check(&replaced(SECRET, "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=")), Err(ReloadError::PrivateKey));
    let prefixes: Vec<_> = (0..=255).map(|net| format!("\"10.98.{net}.0/24\"")).collect();
    assert_eq!(
        check(&replaced("[\"10.98.0.0/24\"]", &format!("[{}]", prefixes.join(", ")))),
        Err(ReloadError::Capacity)
    );
}

#[test]
fn prefixes() {
    let other = HUB.replace("hub", "other").replace(PEER, "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=");
    assert_eq!(
        error(&format!("{TUNNEL}{UPLINK}{HUB}{other}")),
        "mp0.toml:15:16: peer.allowed_ips: found \"10.98.0.0/24\", expected a prefix of its own: this one stands in line \
         10 already"
    );
    // A longer prefix inside a shorter one is how a host of one peer is moved to another.
    assert!(parse(&format!("{TUNNEL}{UPLINK}{HUB}{}", other.replace("10.98.0.0/24", "10.98.0.0/16"))).is_ok());
    assert_eq!(
        error(&replaced("[\"10.98.0.0/24\"]", "[]")),
        "mp0.toml:10:15: peer.allowed_ips: found an empty list, expected a list of inner prefixes, at least one: \
         [\"10.98.0.0/24\"]"
    );
    assert_eq!(
        error_in("[tunnel]", "address = \"10.99.0.1/24\""),
        "mp0.toml:3:11: tunnel.address: found \"10.99.0.1/24\", expected a list of addresses: [\"10.99.0.1/24\"]"
    );
}

#[test]
fn files() {
    assert_eq!(Config::path_for(Path::new("mp0")), Path::new("/etc/mpvpn/mp0.toml"));
    assert_eq!(Config::path_for(Path::new("mp0.toml")), Path::new("mp0.toml"));
    assert_eq!(Config::path_for(Path::new("./mp0")), Path::new("./mp0"));
    let Err(error) = Config::load(Path::new("/nowhere/mp0.toml")) else { panic!() };
    assert_eq!(error.to_string(), "can't read the configuration /nowhere/mp0.toml");
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        let _ = parse(&text);
    }

    /// A good file with a piece cut out or overwritten: most of it is still TOML, so that the checks are reached.
    #[test]
    fn no_damaged_file_panics(start in 0..400_usize, length in 0..60_usize, put in "[\\[\\]{}\"'=#,.a-z0-9\n\\\\é]{0,20}") {
        let text = [TUNNEL, UPLINK, HUB].concat();
        let start = start.min(text.len());
        let end = (start + length).min(text.len());
        let damaged = format!("{}{put}{}", &text[..start], &text[end..]);
        if let Err(ConfigError::Invalid { diagnostics }) = parse(&damaged) {
            prop_assert!(!diagnostics.is_empty());
        }
    }
}
