//! Counters: what `status`, bpftool and the wire say about the same packets.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use multipath_tests::{
    Daemon, End, Family, LinkSpec, Process, Topology,
    config::LISTEN_PORT,
    gateway::READY,
    traffic::{Ping, UdpStream},
};
use serde_json::Value;

use crate::{PATIENCE, alone, close, passes, path, paths, status, topology, until, up};

/// Packets and bytes of all paths of a gateway in one direction, by path key.
type Counts = BTreeMap<u64, (u64, u64)>;

fn counts(gateway: &multipath_tests::Gateway, direction: &str) -> Result<Counts> {
    let number = |value: &Value| value.as_u64().context("no number");
    paths(gateway)?
        .iter()
        .map(|path| {
            let traffic = &path[direction];
            Ok((number(&path["key"])?, (number(&traffic["packets"])?, number(&traffic["bytes"])?)))
        })
        .collect()
}

/// The same from `bpftool --json map dump pinned .../path_stats`, by its field names, summed over CPUs.
fn counts_by_bpftool(gateway: &multipath_tests::Gateway, direction: &str) -> Result<Counts> {
    let map = format!("{}/path_stats", status(gateway)?["maps"].as_str().context("maps")?);
    let dump = gateway.namespace().output(&["bpftool", "--json", "map", "dump", "pinned", &map], PATIENCE)?;
    let dump: Value = serde_json::from_str(dump.success()?)?;
    let mut counts = Counts::new();
    for entry in dump.as_array().context("entries")? {
        let entry = &entry["formatted"];
        let key = entry["key"].as_u64().context("key")?;
        let mut sum = (0, 0);
        for cpu in entry["values"].as_array().context("values")? {
            let traffic = &cpu["value"][direction];
            sum.0 += traffic["packets"].as_u64().context("packets")?;
            sum.1 += traffic["bytes"].as_u64().context("bytes")?;
            ensure!(traffic["last_seen_ns"].is_u64(), "last_seen_ns is missing: {traffic}");
        }
        counts.insert(key, sum);
    }
    Ok(counts)
}

/// The neighbours of link `number` know each other for good: nothing but the tunnel's packets passes.
fn no_arp(topology: &Topology, number: usize) -> Result<()> {
    let link = topology.link(number)?;
    for end in [End::A, End::B] {
        let (near, far) = (link.interface(end), link.interface(end.other()));
        let (address, _) = far.v4.context("IPv4")?;
        let neighbour = format!("neigh replace {address} lladdr {} dev {} nud permanent", far.mac, near.name);
        link.namespace(end).ip(&neighbour)?;
    }
    Ok(())
}

/// Ends the daemons, and with them their probes; the kernel forwards on.
fn silence(daemons: [Daemon; 2]) -> Result<()> {
    for mut daemon in daemons {
        ensure!(daemon.terminate()?.success(), "{}", daemon.log());
    }
    Ok(())
}

#[test]
fn status_bpftool_and_the_wire_agree() -> Result<()> {
    let _alone = alone();
    let topology = topology(2)?;
    silence(up(&topology)?)?;
    for number in 0..2 {
        no_arp(&topology, number)?;
    }
    let wire = || -> Result<Vec<(u64, u64)>> {
        let of = |number| {
            let counters = topology.link(number)?.counters(End::A)?;
            Ok((counters.packets_in, counters.bytes_in))
        };
        (0..2).map(of).collect()
    };
    let since = |after: (u64, u64), before: (u64, u64)| (after.0 - before.0, after.1 - before.1);
    let (wire_before, sent_before, received_before) =
        (wire()?, counts(&topology.a, "egress")?, counts(&topology.b, "ingress")?);
    let size = 200;
    let stream = UdpStream { flows: 40, ..UdpStream::to(topology.b.host_v4(), 2000, size, Duration::from_millis(500)) };
    let report = stream.run(topology.ha(), topology.hb())?;
    assert_eq!(report.lost, 0);
    let (wire_after, sent_after, received_after) =
        (wire()?, counts(&topology.a, "egress")?, counts(&topology.b, "ingress")?);

    let mut total = 0;
    for number in 0..2 {
        let key = number as u64;
        let on_wire = since(wire_after[number], wire_before[number]);
        println!("up{number}: {on_wire:?} on the wire");
        assert_eq!(since(sent_after[&key], sent_before[&key]), on_wire, "sent by up{number}");
        assert_eq!(since(received_after[&key], received_before[&key]), on_wire, "received by up{number}");
        // Inner headers, and the tunnel's own: outer IPv4 and UDP, header and tag.
        assert_eq!(on_wire.1, on_wire.0 * (u64::from(size) + 28 + 64));
        total += on_wire.0;
    }
    assert_eq!(total, report.sent);

    for (gateway, direction) in [(&topology.a, "egress"), (&topology.b, "ingress")] {
        let by_bpftool = counts_by_bpftool(gateway, direction)?;
        for (key, sum) in counts(gateway, direction)? {
            assert_eq!(by_bpftool[&key], sum, "{direction} of path {key}");
        }
    }
    close(topology)
}

#[test]
fn last_seen_advances() -> Result<()> {
    let _alone = alone();
    let topology = topology(1)?;
    silence(up(&topology)?)?;
    let seen = || path(&topology.a, "b/up0")?["egress"]["last_seen_seconds"].as_f64().context("last seen");
    std::thread::sleep(Duration::from_millis(300));
    let idle = seen()?;
    Ping { count: 1, ..Ping::to(topology.b.host_v4()) }.run(topology.ha())?;
    let fresh = seen()?;
    println!("{idle} s ago, after a ping {fresh} s ago");
    assert!(idle > 0.29 && fresh < idle, "{idle} {fresh}");
    close(topology)
}

#[test]
fn dropped_packets_are_counted_by_reason() -> Result<()> {
    let _alone = alone();
    let topology = topology(1)?;
    silence(up(&topology)?)?;
    no_arp(&topology, 0)?;
    let link = topology.link(0)?;
    let (from, to) = (link.interface(End::B), link.interface(End::A));
    let (source, destination) = (from.v4.context("IPv4")?.0.octets(), to.v4.context("IPv4")?.0.octets());
    let frame = |payload: &[u8]| -> Result<Vec<u8>> {
        let builder =
            PacketBuilder::ethernet2(from.mac.0, to.mac.0).ipv4(source, destination, 64).udp(LISTEN_PORT, LISTEN_PORT);
        let mut frame = Vec::new();
        builder.write(&mut frame, payload)?;
        Ok(frame)
    };
    let mut data = vec![0; 20 + 40 + 16];
    data[0] = 4;
    data[4..8].copy_from_slice(&[1, 2, 3, 4]);
    let unknown_session = frame(&data)?;
    data[0] = 99;
    let unknown_version = frame(&data)?;
    let truncated = frame(&[4, 0, 0, 0])?;
    let drops = || -> Result<BTreeMap<String, (u64, u64)>> {
        let status = status(&topology.a)?;
        let drops = status["drops"].as_array().context("drops")?.iter().filter(|drop| drop["interface"] == "up0");
        let count = |drop: &Value| {
            let number = |key: &str| drop[key].as_u64().context("no number");
            Ok((drop["reason"].as_str().context("reason")?.to_owned(), (number("packets")?, number("bytes")?)))
        };
        drops.map(count).collect()
    };
    // What came while the tunnel came up is not of this test.
    let before = drops()?;
    let of_test = |reason: &str| -> Result<(u64, u64)> {
        let [now, then] = [&drops()?, &before].map(|drops| drops.get(reason).copied().unwrap_or_default());
        Ok((now.0 - then.0, now.1 - then.1))
    };
    for (frame, count) in [(&unknown_session, 7), (&unknown_version, 5), (&truncated, 3)] {
        for _ in 0..count {
            link.inject(End::A, frame)?;
        }
    }
    let delivered = path(&topology.a, "b/up0")?["ingress"]["packets"].clone();
    let bytes = |frame: &[u8], count: u64| (count, count * frame.len() as u64);
    for (reason, frame, count) in [
        ("unknown_session", &unknown_session, 7),
        ("unknown_version", &unknown_version, 5),
        ("truncated", &truncated, 3),
    ] {
        until(reason, || Ok(of_test(reason)? == bytes(frame, count)))?;
    }
    assert_eq!(path(&topology.a, "b/up0")?["ingress"]["packets"], delivered);
    passes(&topology)?;
    close(topology)
}

#[test]
fn the_programs_log_reaches_the_daemon() -> Result<()> {
    let _alone = alone();
    let topology = Topology::new(&[LinkSpec::PERFECT.family(Family::V4).natted()])?;
    let [a, b] = topology.tunnel_configs(0);
    let file = topology.b.write_config(&b)?;
    let command = topology.b.mpvpn_command(&["-v".as_ref(), "up".as_ref(), file.as_os_str()])?;
    let mut daemon = Process::spawn(command)?;
    until("it is ready", || {
        ensure!(daemon.is_running(), "it ended: {}", daemon.stderr());
        Ok(daemon.stdout().contains(READY))
    })?;
    let _a = topology.a.up(&a)?;
    Ping { count: 3, ..Ping::to(topology.b.host_v4()) }.run(topology.ha())?;
    until("the line is there", || Ok(daemon.stderr().contains("path 0 now comes by interface")))?;
    let line = daemon.stderr().lines().find(|line| line.contains("now comes by")).map(str::to_owned);
    println!("{line:?}");
    passes(&topology)?;
    assert!(path(&topology.b, "a/up0")?["learned"].as_bool().context("learned")?);
    fs::remove_file(file)?;
    close(topology)
}
