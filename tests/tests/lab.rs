//! The lab itself: the emulator does what it says, and nothing is left behind.
//!
//! What is measured is measured by medians and sums over many packets, so that a busy machine does not matter.

#![expect(clippy::cast_precision_loss, reason = "counts far below 2^52 are compared with floating-point expectations")]

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use multipath_tests::traffic::{Capture, Iperf, PacketSocket, Ping, UdpStream};
use multipath_tests::{Connection, End, Family, Gateway, Kind, Lab, Leftovers, LinkSpec, Profile, Shape, Topology};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// IPv4 and UDP headers.
const UDP_HEADERS: u64 = 28;

/// Tests of timing must not disturb each other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One link, IPv4 only: multicast listener reports of IPv6 would be counted among the packets of a measurement.
fn topology(shape: Shape) -> Result<Topology> {
    Topology::new(&[LinkSpec::PERFECT.shaped(shape).family(Family::V4)])
}

fn far(topology: &Topology) -> Result<std::net::Ipv4Addr> {
    topology.connections[0].ends[1].v4.context("the link has IPv4")
}

/// A stream over link 0 from gateway a to gateway b; the neighbours know each other before.
fn stream(topology: &Topology, pace: u32, size: u16, millis: u64) -> Result<multipath_tests::traffic::StreamReport> {
    let (from, to) = (topology.a.namespace(), topology.b.namespace());
    meet(topology)?;
    UdpStream::to(far(topology)?, pace, size, Duration::from_millis(millis)).run(from, to)
}

/// Resolves the neighbours, so that no packet of a measurement waits for that.
fn meet(topology: &Topology) -> Result<()> {
    let ping = Ping { count: 2, ..Ping::to(far(topology)?) };
    ensure!(ping.run(topology.a.namespace())?.received > 0, "the ends of the link do not reach each other");
    Ok(())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

#[track_caller]
fn assert_near(what: &str, value: f64, expected: f64, tolerance: f64) {
    println!("{what}: {value:.3}, expected {expected:.3} +- {tolerance:.3}");
    assert!((value - expected).abs() <= tolerance, "{what}: {value}, expected {expected} +- {tolerance}");
}

#[test]
fn a_lab_is_up_in_well_under_a_second_and_leaves_nothing() -> Result<()> {
    let _alone = alone();
    let start = Instant::now();
    let topology = Topology::from_profile(&Profile::named("ref_wifi_3g_ethernet")?)?;
    println!("up in {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(1));

    let sleeper = topology.ha().spawn(&["sleep", "1000"])?;
    let there = topology.lab.leftovers()?;
    assert_eq!(
        (there.namespaces.len(), there.processes.len(), there.mounts.len(), there.directories.len()),
        (4, 1, 2, 1),
        "{there:?}"
    );
    let left = topology.lab.close()?;
    assert!(left.is_empty(), "{left:?}");
    drop(sleeper);
    Ok(())
}

#[test]
fn delay_is_exact() -> Result<()> {
    let _alone = alone();
    let topology = topology(Shape::PERFECT)?;
    for delay in [0_u32, 2, 25, 100] {
        topology.link(0)?.change(|shape| shape.delay_us = u64::from(delay) * 1000)?;
        let report = stream(&topology, 500, 200, 600)?;
        assert_eq!((report.lost, report.reordered), (0, 0));
        assert_near("delay, ms", report.delay.median, delay.into(), 0.3);
    }
    Ok(())
}

#[test]
fn rate_counts_ip_bytes_and_the_full_queue_stands() -> Result<()> {
    let _alone = alone();
    let (rate, queue, size) = (10_000_000, 65_536, 1000_u16);
    let topology = topology(Shape { rate, queue, delay_us: 5_000, ..Shape::PERFECT })?;
    // Half as much again as the link carries.
    let bytes = u64::from(size) + UDP_HEADERS;
    let report = stream(&topology, (rate * 3 / 2 / 8 / bytes) as u32, size, 2_000)?;
    let counters = topology.link(0)?.counters(End::A)?;
    assert_eq!(counters.dropped_queue, report.lost, "what is lost was dropped by the queue");

    let per_second = &report.received_per_interval[5..18];
    let mbps = f64::from(per_second.iter().sum::<u32>()) * bytes as f64 * 8.0 / (per_second.len() as f64 * 0.1) / 1e6;
    assert_near("rate, Mbit/s", mbps, 10.0, 0.2);
    let standing = median(&report.delays_ms[report.delays_ms.len() / 2..]) - 5.0;
    let packet_ms = bytes as f64 * 8.0 / rate as f64 * 1e3;
    let full_ms = queue as f64 * 8.0 / rate as f64 * 1e3;
    // The last packet that fits finds the queue full up to less than one packet: half a packet less on average.
    assert_near("standing delay, ms", standing, full_ms - packet_ms / 2.0, packet_ms / 2.0 + 0.3);
    Ok(())
}

#[test]
fn tcp_fills_a_fast_link() -> Result<()> {
    let _alone = alone();
    let topology = topology(Shape { rate: 200_000_000, queue: 1 << 20, delay_us: 2_000, ..Shape::PERFECT })?;
    let run = Iperf { omit: 1, ..Iperf::tcp(far(&topology)?, 2) };
    let report = run.run(topology.a.namespace(), topology.b.namespace())?;
    // 1448 of a packet's 1500 bytes are payload.
    assert_near("TCP, Mbit/s", report.received_mbps, 200.0 * 1448.0 / 1500.0, 4.0);
    assert!(report.samples.len() >= 4 && report.udp.is_none());
    Ok(())
}

#[test]
fn loss_is_the_share_that_was_set() -> Result<()> {
    let _alone = alone();
    let (loss, packets) = (0.05, 10_000.0_f64);
    let topology = topology(Shape::PERFECT)?;
    meet(&topology)?;
    let link = topology.link(0)?;
    link.set_shape(End::A, Shape { loss, ..Shape::PERFECT })?;
    let stream = UdpStream {
        linger: Duration::from_millis(100),
        ..UdpStream::to(far(&topology)?, 10_000, 100, Duration::from_secs(1))
    };
    let report = stream.run(topology.a.namespace(), topology.b.namespace())?;
    assert_near("packets sent", report.sent as f64, packets, packets / 100.0);
    assert_eq!((report.lost, report.overflowed), (link.counters(End::A)?.dropped_loss, 0));
    let deviation = (loss * (1.0 - loss) / packets).sqrt();
    assert_near("loss", report.loss(), loss, 4.0 * deviation);
    Ok(())
}

#[test]
fn jitter_is_normal_and_reorders() -> Result<()> {
    let _alone = alone();
    let topology = topology(Shape { delay_us: 40_000, jitter_us: 8_000, ..Shape::PERFECT })?;
    let report = stream(&topology, 2_000, 100, 1_500)?;
    assert_eq!(report.lost, 0);
    assert_near("mean delay, ms", report.delay.mean, 40.0, 0.8);
    assert_near("standard deviation, ms", report.delay.standard_deviation, 8.0, 0.5);
    // 1.2816 standard deviations above the mean lie 10 % of a normal distribution.
    assert_near("90th percentile, ms", report.delay.p90, 40.0 + 1.2816 * 8.0, 1.0);
    assert!(report.reordered > report.sent / 4, "{} of {} reordered", report.reordered, report.sent);
    Ok(())
}

#[test]
fn a_running_link_changes_at_once() -> Result<()> {
    let _alone = alone();
    let topology = topology(Shape { delay_us: 5_000, ..Shape::PERFECT })?;
    meet(&topology)?;
    let stream = UdpStream::to(far(&topology)?, 1_000, 200, Duration::from_millis(1_200));
    let running = stream.start(topology.a.namespace(), topology.b.namespace())?;
    let link = topology.link(0)?;
    thread::sleep(Duration::from_millis(400));
    link.change(|shape| shape.delay_us = 30_000)?;
    thread::sleep(Duration::from_millis(400));
    let hole = Instant::now();
    link.set_black_hole(true)?;
    thread::sleep(Duration::from_millis(200));
    link.set_black_hole(false)?;
    let hole_ms = hole.elapsed().as_secs_f64() * 1e3;
    let report = running.finish()?;
    let delays = &report.delays_ms;
    assert_near("delay before, ms", median(&delays[..300]), 5.0, 0.3);
    assert_near("delay after, ms", median(&delays[delays.len() - 100..]), 30.0, 0.3);
    assert_eq!(link.counters(End::A)?.dropped_black_hole, report.lost);
    // While the hole was open nothing came out; when it closed, what came in next was 30 ms away.
    assert_near("gap, ms", report.largest_gap_ms, hole_ms + 30.0, 5.0);
    Ok(())
}

#[test]
fn carrier_and_interface_go_and_come_back() -> Result<()> {
    let _alone = alone();
    let topology = topology(Shape::PERFECT)?;
    let link = topology.link(0)?;
    let a = topology.a.namespace();
    let ping = Ping { count: 3, ..Ping::to(far(&topology)?) };
    let state =
        || -> Result<String> { Ok(a.output(&["ip", "link", "show", "dev", "up0"], Duration::from_secs(5))?.stdout) };
    assert_eq!(ping.run(a)?.received, 3);

    link.set_carrier(End::A, false)?;
    assert!(state()?.contains("NO-CARRIER"), "{}", state()?);
    link.set_carrier(End::A, true)?;
    assert!(!state()?.contains("NO-CARRIER"), "{}", state()?);
    assert_eq!(ping.run(a)?.received, 3);

    let before = state()?;
    link.remove_interface(End::A)?;
    assert_eq!(state()?, "");
    link.restore_interface(End::A)?;
    let mac = |text: &str| text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).map(str::to_owned);
    assert_eq!(mac(&state()?), mac(&before));
    assert_eq!(ping.run(a)?.received, 3);
    Ok(())
}

#[test]
fn addresses_go_and_come_back() -> Result<()> {
    let _alone = alone();
    let topology = Topology::new(&[LinkSpec::PERFECT])?;
    let link = topology.link(0)?;
    let a = topology.a.namespace();
    let addresses = |family: &str| -> Result<String> {
        let words = ["ip", family, "-o", "addr", "show", "dev", "up0", "scope", "global"];
        Ok(a.output(&words, Duration::from_secs(5))?.stdout)
    };
    link.remove_addresses(End::A)?;
    assert_eq!((addresses("-4")?, addresses("-6")?), (String::new(), String::new()));
    link.restore_addresses(End::A)?;
    for address in topology.connections[0].ends[1].public_addresses() {
        assert_eq!(Ping { count: 3, ..Ping::to(address) }.run(a)?.received, 3, "{address}");
    }
    Ok(())
}

#[test]
fn packets_that_are_too_large_for_a_direction_vanish() -> Result<()> {
    let _alone = alone();
    let topology = topology(Shape::PERFECT)?;
    let (link, a) = (topology.link(0)?, topology.a.namespace());
    meet(&topology)?;
    link.set_shape(End::A, Shape { largest: 1280, ..Shape::PERFECT })?;
    let answers = |size| -> Result<_> {
        let report = Ping { size, dont_fragment: true, count: 1, ..Ping::to(far(&topology)?) }.run(a)?;
        Ok((report.received, report.errors.is_empty()))
    };
    // 28 bytes of IPv4 and ICMP headers.
    assert_eq!((answers(1252)?, answers(1253)?.0), ((1, true), 0));
    let [out, back] = [link.counters(End::A)?, link.counters(End::B)?];
    assert_eq!((out.dropped_large, back.dropped_large), (1, 0));
    Ok(())
}

#[test]
fn raw_ip_and_single_family_links_carry_what_they_should() -> Result<()> {
    let _alone = alone();
    let delay = LinkSpec::PERFECT.shaped(Shape { delay_us: 3_000, ..Shape::PERFECT });
    let topology =
        Topology::new(&[delay.kind(Kind::RawIp), delay.family(Family::V4), delay.family(Family::V6), LinkSpec::VETH])?;
    let a = topology.a.namespace();
    for connection in &topology.connections {
        for address in connection.ends[1].public_addresses() {
            let report = Ping::to(address).run(a)?;
            let expected = if connection.spec.shapes.is_some() { 6.0 } else { 0.0 };
            assert_eq!(report.received, report.sent, "{address}");
            assert_near(&format!("round trip to {address}, ms"), report.median_ms(), expected, 1.0);
        }
    }
    let addresses = a.output(&["ip", "-br", "addr", "show", "dev", "up1"], Duration::from_secs(5))?.stdout;
    assert!(!addresses.contains("fe80") && !addresses.contains("fd00"), "IPv4 only: {addresses}");
    assert!(a.output(&["ip", "link", "show", "dev", "up0"], Duration::from_secs(5))?.stdout.contains("link/none"));

    let too_large = Ping { size: 1473, dont_fragment: true, count: 1, ..Ping::to(far(&topology)?) }.run(a)?;
    assert_eq!((too_large.received, too_large.errors.is_empty()), (0, false), "{too_large:?}");
    assert_eq!(Ping { size: 1472, dont_fragment: true, count: 1, ..Ping::to(far(&topology)?) }.run(a)?.received, 1);
    Ok(())
}

#[test]
fn nat_hides_the_gateway_and_rebinds() -> Result<()> {
    let _alone = alone();
    let topology = Topology::new(&[LinkSpec::PERFECT.kind(Kind::RawIp).natted()])?;
    let connection = &topology.connections[0];
    let nat = connection.nat.as_ref().context("the link has NAT")?;
    let (a, b) = (topology.a.namespace(), topology.b.namespace());
    let server = b.run(|| std::net::UdpSocket::bind("0.0.0.0:5182"))??;
    let client = a.run(|| std::net::UdpSocket::bind("0.0.0.0:5182"))??;
    server.set_read_timeout(Some(Duration::from_secs(2)))?;
    client.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut buffer = [0; 16];
    let mut sources = Vec::new();
    for _ in 0..2 {
        client.send_to(b"hello", "10.100.0.2:5182")?;
        let source = server.recv_from(&mut buffer)?.1;
        let (first, last) = nat.ports();
        assert_eq!(source.ip().to_string(), "10.100.0.1");
        assert!((first..=last).contains(&source.port()), "{source}");
        server.send_to(b"answer", source)?;
        assert_eq!(client.recv_from(&mut buffer)?.0, 6);
        sources.push(source);
        nat.rebind()?;
    }
    assert_ne!(sources[0], sources[1]);
    // The old mapping is gone: nobody outside gets in by it.
    client.set_read_timeout(Some(Duration::from_millis(100)))?;
    server.send_to(b"late", sources[0])?;
    assert!(client.recv_from(&mut buffer).is_err());
    assert_eq!(connection.ends[0].public_addresses().count(), 0);
    assert!(topology.tunnel_configs(0)[1].peers[0].endpoints.is_empty(), "a gateway behind NAT is learned");
    Ok(())
}

#[test]
fn frames_are_injected_and_captured() -> Result<()> {
    let _alone = alone();
    let topology = Topology::new(&[LinkSpec::PERFECT, LinkSpec::PERFECT.kind(Kind::RawIp)])?;
    // EtherType 0x88b5 is for local experiments: the stacks have nothing to say to it. An IPv4 header without meaning for the other.
    let ethernet: Vec<u8> = [[0xff; 6].as_slice(), &[2, 0, 0, 0, 0, 9], &[0x88, 0xb5], &[7; 50]].concat();
    let raw_ip: Vec<u8> = [[0x45, 0, 0, 60].as_slice(), &[9; 56]].concat();
    for (interface, frame) in [("up0", ethernet), ("up1", raw_ip)] {
        let number = usize::from(interface == "up1");
        let capture = Capture::start(topology.b.namespace(), interface)?;
        PacketSocket::sender(topology.a.namespace(), interface)?.send(&frame)?;
        topology.link(number)?.inject(End::B, &frame)?;
        thread::sleep(Duration::from_millis(50));
        let frames = capture.stop()?;
        let seen =
            frames.iter().filter(|captured| captured.bytes == frame && !captured.is_outgoing && captured.at_ns > 0);
        assert_eq!(seen.count(), 2, "{interface}: once over the link, once from its wire: {frames:?}");
    }
    Ok(())
}

#[test]
fn a_stream_of_20_kpps_is_sent_and_received_whole() -> Result<()> {
    let _alone = alone();
    let topology = Topology::new(&[LinkSpec::VETH])?;
    meet(&topology)?;
    let stream = UdpStream { flows: 16, ..UdpStream::to(far(&topology)?, 20_000, 64, Duration::from_secs(1)) };
    let report = stream.run(topology.a.namespace(), topology.b.namespace())?;
    assert_near("packets sent", report.sent as f64, 20_000.0, 200.0);
    assert_eq!((report.lost, report.duplicated, report.reordered), (0, 0, 0));
    Ok(())
}

#[test]
fn udp_iperf_reports_what_the_receiver_saw() -> Result<()> {
    let _alone = alone();
    let topology = topology(Shape { delay_us: 5_000, jitter_us: 2_000, loss: 0.02, ..Shape::PERFECT })?;
    meet(&topology)?;
    let report = Iperf::udp(far(&topology)?, 2, 20_000_000).run(topology.a.namespace(), topology.b.namespace())?;
    let udp = report.udp.context("a UDP run")?;
    assert_near("UDP sent, Mbit/s", report.sent_mbps, 20.0, 0.5);
    assert!(udp.out_of_order > 0 && udp.lost > 0 && udp.jitter_ms > 0.0, "{udp:?}");
    Ok(())
}

#[test]
fn three_gateways_form_a_mesh() -> Result<()> {
    let _alone = alone();
    let lab = Lab::new()?;
    let gateways = [Gateway::new(&lab, "a", 1)?, Gateway::new(&lab, "b", 2)?, Gateway::new(&lab, "c", 3)?];
    let [a, b, c] = gateways.each_ref();
    let connections = [
        Connection::new(&lab, 0, [a, b], LinkSpec::PERFECT)?,
        Connection::new(&lab, 1, [a, c], LinkSpec::PERFECT.family(Family::V4))?,
        Connection::new(&lab, 2, [b, c], LinkSpec::VETH.family(Family::V6))?,
    ];
    let [of_a, _, of_c] = &multipath_tests::TunnelConfig::mesh(0, &[a, b, c], &connections)[..] else {
        panic!("three of them")
    };
    assert_eq!(of_a.uplinks.iter().map(|uplink| uplink.interface.as_str()).collect::<Vec<_>>(), ["up0", "up1"]);
    let endpoints: Vec<String> =
        of_c.peers.iter().flat_map(|peer| &peer.endpoints).map(|entry| entry.address.to_string()).collect();
    assert_eq!(endpoints, ["10.101.0.1:5182", "[fd00:2::1]:5182"]);
    assert_eq!(Ping::to(c.host_v4()).run(c.namespace())?.received, 10);
    Ok(())
}

#[test]
fn nothing_is_left_after_a_panic() -> Result<()> {
    let _alone = alone();
    let number = Mutex::new(None);
    let outcome = std::panic::catch_unwind(|| {
        let topology = topology(Shape::PERFECT).unwrap();
        let _sleeper = topology.ha().spawn(&["sleep", "1000"]).unwrap();
        *number.lock().unwrap() = Some(topology.lab.id());
        panic!("this panic is part of the test");
    });
    assert!(outcome.is_err());
    let left = Leftovers::of_process(std::process::id())?;
    assert!(number.lock().unwrap().is_some() && left.is_empty(), "{left:?}");
    Ok(())
}

/// Not a test of its own: what the two tests below run as another process, and end by a signal.
#[test]
#[ignore = "run by the tests of interrupts and of the sweep"]
fn child_with_a_lab() -> Result<()> {
    let topology = topology(Shape::PERFECT)?;
    let _sleeper = topology.ha().spawn(&["sleep", "1000"])?;
    std::fs::write(topology.lab.directory().join("is-up"), "")?;
    thread::sleep(Duration::from_mins(1));
    Ok(())
}

/// Starts a process with a lab, ends it by `signal` and says which process it was.
fn end_a_lab_by(signal: Signal) -> Result<u32> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "child_with_a_lab", "--ignored", "--test-threads=1"])
        .stdout(Stdio::null())
        .spawn()?;
    let mark = std::path::PathBuf::from(format!("{}/{}-0/is-up", multipath_tests::lab::ROOT, child.id()));
    let start = Instant::now();
    while !mark.exists() {
        ensure!(start.elapsed() < Duration::from_secs(10), "the child's lab does not come up");
        thread::sleep(Duration::from_millis(10));
    }
    assert!(!Leftovers::of_process(child.id())?.is_empty());
    kill(Pid::from_raw(child.id().cast_signed()), signal)?;
    assert_eq!(child.wait()?.signal(), Some(signal as i32));
    Ok(child.id())
}

#[test]
fn an_interrupted_lab_removes_itself() -> Result<()> {
    let _alone = alone();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let left = Leftovers::of_process(end_a_lab_by(signal)?)?;
        assert!(left.is_empty(), "{signal}: {left:?}");
    }
    Ok(())
}

#[test]
fn the_next_lab_sweeps_what_a_killed_one_left() -> Result<()> {
    let _alone = alone();
    let alive = Lab::new()?;
    alive.namespace("alive")?;
    let dead = end_a_lab_by(Signal::SIGKILL)?;
    let left = Leftovers::of_process(dead)?;
    assert_eq!((left.namespaces.len(), left.processes.len(), left.mounts.len()), (4, 1, 2), "{left:?}");
    drop(Lab::new()?);
    let left = Leftovers::of_process(dead)?;
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(alive.leftovers()?.namespaces.len(), 1, "a lab that lives is not swept");
    Ok(())
}
