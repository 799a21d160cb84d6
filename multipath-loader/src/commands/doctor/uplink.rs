//! What a tunnel needs of each uplink: the link itself, its driver, offloads, MTU and reverse-path filter.

use super::check::Check;
use crate::{
    config::{MTU_MIN, Uplink, Xdp},
    control::mtu::inner_mtu,
    underlay::{Feature, Link, LinkLayer},
};

/// Drivers with native XDP, for kernels before 6.3, which do not say it themselves.
const NATIVE_XDP_DRIVERS: [&str; 28] = [
    "am65-cpsw-nuss",
    "atlantic",
    "bnxt_en",
    "bonding",
    "dpaa2-eth",
    "ena",
    "fec",
    "gve",
    "hv_netvsc",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "ixgbevf",
    "mana",
    "mlx4_en",
    "mlx5_core",
    "mtk_soc_eth",
    "mvneta",
    "mvpp2",
    "nfp",
    "qede",
    "sfc",
    "st_gmac",
    "veth",
    "virtio_net",
    "vmxnet3",
];

/// Offloads that merge our packets before the programs see them, and why that hurts.
const HARMFUL: [(&str, &str); 3] = [
    ("rx-udp-gro-forwarding", "merges the tunnel's UDP packets before the program sees them"),
    ("rx-gro-list", "chains the tunnel's UDP packets before the program sees them"),
    ("rx-lro", "merges packets beyond recognition, which a gateway must not forward, and keeps XDP away"),
];

/// What was read about an uplink's interface that exists.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) link: Link,
    /// Name of the driver, if it says.
    pub(super) driver: Option<String>,
    /// Whether the driver has native XDP; `None` if the kernel does not say.
    pub(super) native_xdp: Option<bool>,
    pub(super) features: Vec<Feature>,
    /// `net.ipv4.conf.{all,IF}.rp_filter`, of which the kernel takes the larger.
    pub(super) rp_filter: Option<u8>,
}

/// Judges an uplink; `facts` is `None` if its interface does not exist. `mtu` is the tunnel's, if it is pinned.
pub(super) fn judge(uplink: &Uplink, facts: Option<&Facts>, mtu: Option<u32>) -> Vec<Check> {
    let name = format!("uplink {}", uplink.name);
    let Some(facts) = facts else {
        let found = format!("there is no interface {}", uplink.interface);
        return vec![Check::fail(name, found, "correct its name in the file, or bring it into being")];
    };
    let mut checks = vec![state(&name, &facts.link), xdp(&name, uplink.xdp, facts), room(&name, &facts.link, mtu)];
    checks.extend(offloads(&name, facts));
    checks.push(reverse_path(&name, &facts.link.name, facts.rp_filter));
    checks
}

fn state(name: &str, link: &Link) -> Check {
    let interface = &link.name;
    match (link.up, link.carrier) {
        (true, true) => Check::ok(name, format!("{interface} is up")),
        (true, false) => {
            Check::warn(name, format!("{interface} has no carrier"), "connect it; it is used as soon as it is")
        }
        (false, _) => Check::fail(name, format!("{interface} is down"), format!("ip link set {interface} up")),
    }
}

fn xdp(name: &str, wanted: Xdp, facts: &Facts) -> Check {
    let name = format!("{name}: XDP");
    let driver = facts.driver.as_deref().unwrap_or("unknown");
    let listed = || facts.driver.as_deref().is_some_and(|driver| NATIVE_XDP_DRIVERS.contains(&driver));
    let native = facts.link.layer == LinkLayer::Ethernet && facts.native_xdp.unwrap_or_else(listed);
    let reason = match (facts.link.layer, facts.native_xdp) {
        (LinkLayer::None, _) => "packets of this link have no Ethernet header".to_owned(),
        (_, Some(true)) => format!("the driver {driver} has it"),
        (_, Some(false)) => format!("the driver {driver} has none"),
        (_, None) if native => format!("the driver {driver} is known to have it"),
        (_, None) => format!("the driver {driver} is not known to have it"),
    };
    match wanted {
        Xdp::Auto | Xdp::Native if native => Check::ok(name, format!("native: {reason}")),
        Xdp::Auto => Check::ok(name, format!("none, TC does all: {reason}")),
        Xdp::Native => Check::fail(name, format!("xdp = \"native\", but {reason}"), "write xdp = \"auto\""),
        Xdp::Generic if facts.link.layer == LinkLayer::None => {
            Check::fail(name, format!("xdp = \"generic\", but {reason}"), "write xdp = \"auto\"")
        }
        Xdp::Generic => Check::warn(
            name,
            "generic, as the file says: slower than TC",
            "write xdp = \"auto\", unless this is a test",
        ),
        Xdp::Off => Check::ok(name, "off, as the file says: TC does all"),
    }
}

fn room(name: &str, link: &Link, tunnel: Option<u32>) -> Check {
    let name = format!("{name}: MTU");
    let (ipv4, ipv6) = (inner_mtu(link.mtu, true), inner_mtu(link.mtu, false));
    let found = format!("{} bytes carry inner packets of {ipv4} over IPv4, {ipv6} over IPv6", link.mtu);
    let wanted = tunnel.unwrap_or(MTU_MIN);
    if ipv6 >= wanted {
        return Check::ok(name, found);
    }
    let advice = match tunnel {
        Some(mtu) => format!("larger ones (the tunnel's MTU is {mtu}) go in two parts: lower the tunnel's mtu"),
        None => format!("inner packets up to {MTU_MIN} must pass: over IPv6 they go in two parts here"),
    };
    Check::warn(name, found, advice)
}

fn offloads(name: &str, facts: &Facts) -> Vec<Check> {
    let name = format!("{name}: offloads");
    let interface = &facts.link.name;
    let harmful = |(feature, reason): &(&str, &str)| {
        let on = facts.features.iter().any(|found| found.on && found.name == *feature);
        on.then(|| {
            let advice = format!("ethtool -K {interface} {feature} off");
            Check::warn(&name, format!("{feature} is on: {reason}"), advice)
        })
    };
    let found: Vec<_> = HARMFUL.iter().filter_map(harmful).collect();
    if found.is_empty() { vec![Check::ok(name, "none that hurts")] } else { found }
}

fn reverse_path(name: &str, interface: &str, rp_filter: Option<u8>) -> Check {
    let name = format!("{name}: rp_filter");
    match rp_filter {
        Some(1) => Check::warn(
            name,
            "strict: what the programs leave to the stack (handshakes, and ICMP errors of routers on the way) is dropped \
             unless the best route back leads through this uplink",
            format!(
                "sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.{}.rp_filter=2",
                interface.replace('.', "/")
            ),
        ),
        Some(0) => Check::ok(name, "off"),
        Some(_) => Check::ok(name, "loose"),
        None => Check::ok(name, "not there"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::check::Verdict, *};

    fn facts() -> Facts {
        Facts {
            link: Link {
                index: 7,
                name: "eth0".to_owned(),
                up: true,
                carrier: true,
                mtu: 1500,
                mac: Some([2, 0, 0, 0, 0, 1]),
                kind: None,
                layer: LinkLayer::Ethernet,
                lower: None,
            },
            driver: Some("ixgbe".to_owned()),
            native_xdp: Some(true),
            features: vec![Feature { name: "rx-gro".to_owned(), on: true, changeable: true }],
            rp_filter: Some(0),
        }
    }

    fn uplink(xdp: Xdp) -> Uplink {
        Uplink {
            name: "dsl".to_owned(),
            interface: "eth0".to_owned(),
            weight: None,
            rate: None,
            xdp,
            role: multipath_common::health::Role::Active,
            quota: None,
            flows: 1,
        }
    }

    #[test]
    fn all_is_well() {
        let checks = judge(&uplink(Xdp::Auto), Some(&facts()), None);
        assert!(checks.iter().all(|check| check.verdict() == Verdict::Ok), "{checks:?}");
    }

    #[test]
    fn no_interface() {
        let checks = judge(&uplink(Xdp::Auto), None, None);
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].verdict(), Verdict::Fail);
    }

    #[test]
    fn states() {
        let mut link = facts().link;
        link.carrier = false;
        assert_eq!(state("", &link).verdict(), Verdict::Warn);
        link.up = false;
        assert_eq!(state("", &link).verdict(), Verdict::Fail);
    }

    #[test]
    fn xdp_by_what_the_driver_says_and_else_by_its_name() {
        let judge = |wanted, driver: &str, native_xdp, layer| {
            let mut facts = Facts { driver: Some(driver.to_owned()), native_xdp, ..facts() };
            facts.link.layer = layer;
            xdp("", wanted, &facts).verdict()
        };
        let ethernet = LinkLayer::Ethernet;
        assert_eq!(judge(Xdp::Native, "ixgbe", None, ethernet), Verdict::Ok);
        assert_eq!(judge(Xdp::Native, "r8169", None, ethernet), Verdict::Fail);
        assert_eq!(judge(Xdp::Native, "r8169", Some(true), ethernet), Verdict::Ok);
        assert_eq!(judge(Xdp::Native, "ixgbe", Some(false), ethernet), Verdict::Fail);
        assert_eq!(judge(Xdp::Native, "ppp", Some(true), LinkLayer::None), Verdict::Fail);
        assert_eq!(judge(Xdp::Generic, "ppp", None, LinkLayer::None), Verdict::Fail);
        assert_eq!(judge(Xdp::Generic, "r8169", None, ethernet), Verdict::Warn);
        assert_eq!(judge(Xdp::Auto, "ppp", None, LinkLayer::None), Verdict::Ok);
        assert_eq!(judge(Xdp::Off, "r8169", None, ethernet), Verdict::Ok);
    }

    #[test]
    fn room_for_inner_packets() {
        let judge = |mtu, tunnel| room("", &Link { mtu, ..facts().link }, tunnel).verdict();
        assert_eq!(judge(1500, None), Verdict::Ok);
        assert_eq!(judge(1280 + 84, None), Verdict::Ok);
        assert_eq!(judge(1280 + 83, None), Verdict::Warn);
        assert_eq!(judge(1500, Some(1416)), Verdict::Ok);
        assert_eq!(judge(1500, Some(1417)), Verdict::Warn);
        assert_eq!(judge(0, None), Verdict::Warn);
    }

    #[test]
    fn harmful_offloads() {
        let mut facts = facts();
        for (name, on) in [("rx-udp-gro-forwarding", true), ("rx-lro", false)] {
            facts.features.push(Feature { name: name.to_owned(), on, changeable: true });
        }
        let checks = offloads("uplink dsl", &facts);
        assert_eq!(
            checks,
            [Check::warn(
                "uplink dsl: offloads",
                "rx-udp-gro-forwarding is on: merges the tunnel's UDP packets before the program sees them",
                "ethtool -K eth0 rx-udp-gro-forwarding off"
            )]
        );
    }

    #[test]
    fn only_a_strict_filter_is_warned_about() {
        let verdicts = [None, Some(0), Some(1), Some(2)].map(|value| reverse_path("", "eth0", value).verdict());
        assert_eq!(verdicts, [Verdict::Ok, Verdict::Ok, Verdict::Warn, Verdict::Ok]);
    }
}
