//! Which flows take which path.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use multipath_tests::{Family, LinkSpec, Topology, traffic::UdpStream};

use crate::{alone, clear, close, flow_paths::Watch, up_in_the_clear, up_with};

const FLOWS: u16 = 1000;

/// Sends every flow twice, and says by which uplink each left.
fn uplinks_of_flows(topology: &Topology) -> Result<BTreeMap<u16, usize>> {
    let watch = Watch::start(&topology.a, topology.connections.len())?;
    let stream = UdpStream {
        flows: FLOWS,
        linger: Duration::from_millis(200),
        ..UdpStream::to(topology.b.host_v4(), 5000, 64, Duration::from_millis(400))
    };
    let report = stream.run(topology.ha(), topology.hb())?;
    assert_eq!((report.lost, report.duplicated, report.reordered), (0, 0, 0), "{report:?}");
    watch.stop()?.only_uplinks()
}

#[test]
fn a_thousand_flows_follow_the_weights_and_only_those_move_that_must() -> Result<()> {
    let _alone = alone();
    let topology = Topology::new(&[LinkSpec::VETH.family(Family::V4); 3])?;
    // As many ports as flows: every run has the same flows.
    topology.ha().sysctl("net/ipv4/ip_local_port_range", "20000 20999")?;
    let mut configs = topology.tunnel_configs(0);
    let weights = [8, 3, 10];
    for (uplink, weight) in configs[0].uplinks.iter_mut().zip(weights) {
        uplink.weight = Some(weight);
    }
    clear(&mut configs);
    let _daemons = up_with(&topology, &configs)?;

    let before = uplinks_of_flows(&topology)?;
    assert_eq!(before.len(), usize::from(FLOWS));
    for (number, weight) in weights.into_iter().enumerate() {
        let flows = before.values().filter(|uplink| **uplink == number).count() as u32;
        let share = f64::from(flows) / f64::from(FLOWS);
        let expected = f64::from(weight) / 21.0;
        println!("up{number}: {:.1} %, weight {:.1} %", share * 100.0, expected * 100.0);
        assert!((share - expected).abs() < 0.05, "up{number}: {share}, expected {expected}");
    }

    topology.a.mpvpn(&["path", "set", "b/up1", "weight", "30"])?.success()?;
    let gained = uplinks_of_flows(&topology)?;
    let moved = |from: &BTreeMap<u16, usize>, to: &BTreeMap<u16, usize>| -> Vec<(usize, usize)> {
        from.iter().filter(|(port, uplink)| to[port] != **uplink).map(|(port, uplink)| (*uplink, to[port])).collect()
    };
    let to_it = moved(&before, &gained);
    println!("up1 gains weight: {} flows move", to_it.len());
    assert!(to_it.len() > 300 && to_it.iter().all(|(_, to)| *to == 1), "{to_it:?}");

    topology.a.mpvpn(&["path", "set", "b/up1", "weight", "1"])?.success()?;
    let from_it = moved(&gained, &uplinks_of_flows(&topology)?);
    println!("up1 loses weight: {} flows move", from_it.len());
    assert!(from_it.len() > 300 && from_it.iter().all(|(from, _)| *from == 1), "{from_it:?}");

    topology.a.mpvpn(&["path", "set", "b/up1", "weight", "auto"])?.success()?;
    assert_eq!(uplinks_of_flows(&topology)?, before, "the old weights give the old paths");
    close(topology)
}

#[test]
fn equal_weights_without_a_word_in_the_configuration() -> Result<()> {
    let _alone = alone();
    let topology = Topology::new(&[LinkSpec::VETH.family(Family::V4); 2])?;
    topology.ha().sysctl("net/ipv4/ip_local_port_range", "20000 20999")?;
    let _daemons = up_in_the_clear(&topology)?;
    let first = uplinks_of_flows(&topology)?.values().filter(|uplink| **uplink == 0).count();
    assert!((450..550).contains(&first), "{first} of {FLOWS} flows by up0");
    close(topology)
}
