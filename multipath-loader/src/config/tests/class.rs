use multipath_common::classes::{ANY_DSCP, ANY_PROTOCOL, FlowClass, MAX_CLASS_RULES, MAX_COUNTED_RULES};

use super::*;

/// A good file with rules behind everything else.
fn with_rules(rules: &str) -> String {
    [TUNNEL, UPLINK, HUB, rules].concat()
}

/// The only error in a good file that has one more rule, whose keys begin in line 12.
fn error_in_rule(keys: &str) -> String {
    error(&with_rules(&format!("[[class]]\n{keys}\n")))
}

#[test]
fn rules() {
    let text = with_rules(
        r#"
        [[class]]
        name = "voice"
        class = "duplicate"
        protocol = "udp"
        ports = "5060, 16384-32767"
        prefixes = ["10.98.0.0/24", "fd98::/64"]
        dscp = "ef"
        size = "-300"

        [[class]]
        class = "aggregate"
        ports = 443
        protocol = 6

        [[class]]
        class = "pin"
        dscp = 8

        [[class]]
        name = "rest"
        class = "automatic"
    "#,
    );
    let classes = parse(&text).unwrap().classes;
    let lines: Vec<_> = classes.iter().map(|class| (class.name.as_deref(), class.class, class.conditions())).collect();
    let voice = "udp; ports 5060, 16384-32767; prefixes 10.98.0.0/24, fd98::/64; dscp ef; size -300";
    assert_eq!(
        lines,
        [
            (Some("voice"), FlowClass::Duplicate, voice.to_owned()),
            (None, FlowClass::Aggregate, "tcp; ports 443".to_owned()),
            (None, FlowClass::Pin, "dscp cs1".to_owned()),
            (Some("rest"), FlowClass::Automatic, "everything".to_owned()),
        ]
    );

    let rules = class_rules(&classes);
    assert_eq!(rules.iter().map(|rule| rule.rule).collect::<Vec<_>>(), [1, 1, 1, 1, 2, 3, 4]);
    assert_eq!(classes_of(&rules), classes);
    let words = |bytes: [u8; 16]| bytemuck::cast::<_, [u32; 4]>(bytes);
    let first = rules[0];
    assert_eq!((first.protocol, first.dscp, first.shortest, first.longest), (17, 46, 0, 300));
    assert_eq!((first.first_port, first.last_port), (5060, 5060));
    assert_eq!(first.prefix, words([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 98, 0, 0]));
    let mask = [255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0];
    assert_eq!(first.mask, words(mask));
    let rest = rules[6];
    assert_eq!((rest.protocol, rest.dscp, rest.mask), (ANY_PROTOCOL, ANY_DSCP, [0; 4]));
    assert_eq!((rest.first_port, rest.last_port, rest.shortest, rest.longest), (0, 65535, 0, u32::MAX));
}

#[test]
fn wrong_rules() {
    assert_eq!(
        error_in_rule("protocol = \"tcp\""),
        "mp0.toml:11:1: class.class: found nothing, expected \"automatic\" or \"pin\" or \"aggregate\" or \"duplicate\""
    );
    assert_eq!(
        error_in_rule("class = \"bulk\""),
        "mp0.toml:12:9: class.class: found \"bulk\", expected \"automatic\" or \"pin\" or \"aggregate\" or \"duplicate\""
    );
    let pinned = |keys: &str| error_in_rule(&format!("class = \"pin\"\n{keys}"));
    assert_eq!(
        pinned("port = \"443\""),
        "mp0.toml:13:1: class.port: found an unknown key, expected a known key (did you mean `ports`?)"
    );
    assert_eq!(
        pinned("protocol = \"quic\""),
        "mp0.toml:13:12: class.protocol: found \"quic\", expected a protocol: its name (tcp, udp, icmp, icmpv6, gre, esp, \
         ah, sctp) or its number from 0 to 255"
    );
    assert_eq!(
        pinned("ports = \"5100-5000\""),
        "mp0.toml:13:9: class.ports: found \"5100-5000\", expected ports from 1 to 65535 and ranges of them, for instance \
         \"443\" or \"443, 5000-5100\""
    );
    assert_eq!(
        pinned("ports = [443]"),
        "mp0.toml:13:9: class.ports: found a list, expected ports in quotes, for instance \"443, 5000-5100\""
    );
    assert_eq!(
        pinned("ports = 443\nprotocol = \"icmp\""),
        "mp0.toml:13:9: class.ports: found 443, expected no ports beside a protocol other than tcp and udp"
    );
    assert_eq!(
        pinned("prefixes = []"),
        "mp0.toml:13:12: class.prefixes: found an empty list, expected a list of inner prefixes, at least one: \
         [\"10.98.0.0/24\"]"
    );
    assert_eq!(
        pinned("prefixes = [\"::/0\"]"),
        "mp0.toml:13:13: class.prefixes: found \"::/0\", expected an IPv6 prefix that does not hold ::ffff:0:0/96, for \
         instance 2000::/3"
    );
    assert_eq!(
        pinned("prefixes = [\"10.0.0.0/8\", \"10.0.0.0/8\"]"),
        "mp0.toml:13:27: class.prefixes: found \"10.0.0.0/8\", expected a prefix of its own: this one stands in line 13 \
         already"
    );
    assert_eq!(
        pinned("dscp = 64"),
        "mp0.toml:13:8: class.dscp: found 64, expected a DSCP: its name (ef, va, le, df, cs0 to cs7, af11 to af43) or its \
         number from 0 to 63"
    );
    assert_eq!(
        pinned("size = 200"),
        "mp0.toml:13:8: class.size: found 200, expected a range of sizes in quotes, for instance \"-200\""
    );
    assert_eq!(
        pinned("name = \"a\"\n[[class]]\nname = \"a\"\nclass = \"pin\""),
        "mp0.toml:15:8: class.name: found \"a\", expected a name of its own: this one stands in line 13 already"
    );
    assert_eq!(
        error(&with_rules("[class]\nclass = \"pin\"\n")),
        "mp0.toml:11:1: class: found a table, expected a list of tables, each headed [[class]] in double brackets"
    );
}

#[test]
fn more_rules_than_there_is_room_for() {
    let text = |count: usize| with_rules(&"[[class]]\nclass = \"pin\"\n".repeat(count));
    assert_eq!(parse(&text(MAX_COUNTED_RULES - 1)).unwrap().classes.len(), 63);
    assert_eq!(
        error(&text(MAX_COUNTED_RULES)),
        "mp0.toml:137:1: class: found 64 rules, expected at most 63 rules [[class]]"
    );
}

#[test]
fn more_entries_than_there_is_room_for() {
    let rule = |ports: usize, prefixes: usize| {
        let ports: Vec<_> = (1..=ports).map(|port| (port * 2).to_string()).collect();
        let prefixes: Vec<_> = (0..prefixes).map(|net| format!("\"10.98.{net}.0/24\"")).collect();
        format!("[[class]]\nclass = \"pin\"\nports = \"{}\"\nprefixes = [{}]\n", ports.join(","), prefixes.join(","))
    };
    let config = parse(&with_rules(&[rule(8, 15), rule(2, 4)].concat())).unwrap();
    assert_eq!(class_rules(&config.classes).len(), MAX_CLASS_RULES);
    assert_eq!(
        error(&with_rules(&[rule(8, 15), rule(3, 3), rule(1, 1)].concat())),
        "mp0.toml:15:1: class: found 129 entries up to this rule, expected at most 128 for all rules: each takes one for \
         each of its ranges of ports times each of its prefixes, this one 3 x 3"
    );
}

#[test]
fn playout_delays() {
    let config = parse(&[TUNNEL, "playout_delay = \"120ms\"\n", UPLINK, HUB].concat()).unwrap();
    assert_eq!(config.tunnel.playout_delay, Some(Duration::from_millis(120)));
    assert_eq!(
        error_in("[tunnel]", "playout_delay = 120"),
        "mp0.toml:3:17: tunnel.playout_delay: found 120, expected a delay in quotes, for instance \"120ms\""
    );
    assert_eq!(
        error_in("[tunnel]", "playout_delay = \"1s\""),
        "mp0.toml:3:17: tunnel.playout_delay: found \"1s\", expected a delay from 0ms to 600ms with its unit (ms or s), for \
         instance 120ms"
    );
}

/// Any rule that a file can have.
fn any_class() -> impl Strategy<Value = Class> {
    use proptest::{collection::btree_set, option};
    let prefix = prop_oneof![
        (any::<u32>(), 0..=32_u8)
            .prop_map(|(bits, len)| { IpNet::from(ipnet::Ipv4Net::new(bits.into(), len).unwrap().trunc()) }),
        (any::<u128>(), 3..=128_u8).prop_map(|(bits, len)| {
            IpNet::from(ipnet::Ipv6Net::new((bits | 1 << 127).into(), len).unwrap().trunc())
        }),
    ];
    (
        option::of("[a-z]{1,15}"),
        proptest::sample::select(&FlowClass::ALL[..]),
        option::of(any::<u8>()),
        btree_set(1..=u16::MAX, 0..6),
        btree_set(prefix, 0..5),
        option::of(0..64_u8),
        (any::<u32>(), any::<u32>()),
    )
        .prop_map(|(name, class, protocol, ports, prefixes, dscp, (one, other))| Class {
            name,
            class,
            protocol,
            ports: ports.into_iter().map(|port| port..=port).collect(),
            prefixes: prefixes.into_iter().collect(),
            dscp,
            size: one.min(other)..=one.max(other),
        })
}

proptest! {
    #[test]
    fn entries_hold_all_of_a_rule(classes in proptest::collection::vec(any_class(), 0..5)) {
        let rules = class_rules(&classes);
        prop_assert_eq!(rules.len(), classes.iter().map(Class::entry_count).sum::<usize>());
        prop_assert_eq!(classes_of(&rules), classes);
    }
}
