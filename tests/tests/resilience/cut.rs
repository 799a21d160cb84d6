//! Links that are cut in every way that the kernel tells about: how fast the path is left, and that it is used again.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use multipath_common::maps::PATH_UP;
use multipath_loader::dataplane::{Maps, Pins};
use multipath_tests::{
    End, Family, LinkSpec, Namespace, Topology,
    traffic::{Ping, UdpStream, stream::RunningStream},
};
use nix::{
    errno::Errno,
    libc,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
            sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
    time::{ClockId, clock_gettime},
};

use crate::{alone, close, flow_paths::Watch, path, paths, until, up, up_in_the_clear};

/// What the issue allows from the event to the last packet.
const LEFT_WITHIN: Duration = Duration::from_millis(10);
/// The median of so many cuts is held against it: the machine may be busy with something else.
const ROUNDS: usize = 3;
const FLOWS: u16 = 30;

const CUTS: [Cut; 5] = [Cut::Carrier, Cut::Address, Cut::Route, Cut::Down, Cut::Interface];

/// A way to cut the link of `up1` at gateway a.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Carrier,
    Address,
    Route,
    Interface,
    Down,
}

impl Cut {
    fn make(self, topology: &Topology) -> Result<()> {
        let a = topology.a.namespace();
        match self {
            Self::Carrier => topology.link(1)?.set_carrier(End::A, false),
            Self::Address => a.ip("addr del 10.101.0.1/24 dev up1"),
            Self::Route => a.ip("route del 10.101.0.0/24 dev up1"),
            Self::Interface => topology.link(1)?.remove_interface(End::A),
            Self::Down => a.ip("link set up1 down"),
        }
    }

    fn heal(self, topology: &Topology) -> Result<()> {
        let a = topology.a.namespace();
        match self {
            Self::Carrier => topology.link(1)?.set_carrier(End::A, true),
            Self::Address => a.ip("addr add 10.101.0.1/24 dev up1"),
            Self::Route => a.ip("route add 10.101.0.0/24 dev up1 proto kernel scope link src 10.101.0.1"),
            Self::Interface => topology.link(1)?.restore_interface(End::A),
            Self::Down => a.ip("link set up1 up"),
        }
    }
}

/// A routing socket that says when the kernel told of something.
struct Events {
    socket: OwnedFd,
}

impl Events {
    fn listen(namespace: &Namespace) -> Result<Self> {
        let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV4_ROUTE;
        let socket = namespace.run(|| -> Result<OwnedFd> {
            let flags = SockFlag::SOCK_CLOEXEC;
            let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups.cast_unsigned()))?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(2000))?;
            Ok(socket)
        })??;
        Ok(Self { socket })
    }

    /// Waits for the next event; nanoseconds of `CLOCK_REALTIME`.
    fn next(&self) -> Result<u64> {
        recv(self.socket.as_raw_fd(), &mut [0; 16_384], MsgFlags::empty()).context("the kernel told of nothing")?;
        now_ns()
    }

    /// Throws away what it has told so far.
    fn forget(&self) -> Result<()> {
        loop {
            match recv(self.socket.as_raw_fd(), &mut [0; 16_384], MsgFlags::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The clock of captures.
fn now_ns() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_REALTIME)?;
    Ok(Duration::from(now).as_nanos() as u64)
}

/// Looks at the map until the path of `up1` is no longer up; nanoseconds of `CLOCK_REALTIME`.
fn left_at(maps: &Maps, id: u8, stop: &AtomicBool) -> Result<u64> {
    // SAFETY: changes the calling thread's timer slack only.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64) };
    while maps.path(0, id)?.state == PATH_UP {
        ensure!(!stop.load(Ordering::Relaxed), "the path was not left");
        thread::sleep(Duration::from_micros(50));
    }
    now_ns()
}

/// When the path was left after an event; nanoseconds of `CLOCK_REALTIME`.
#[derive(Clone, Copy, Debug)]
struct Left {
    event: u64,
    in_map: u64,
    healed: u64,
}

/// Cuts the link, waits until the path is left, heals it, and waits until it is used again.
fn cut_and_heal(topology: &Topology, events: &Events, cut: Cut, stream: &RunningStream) -> Result<Left> {
    let maps = Maps::open(&Pins::new(topology.a.bpffs(), "mp0").current_maps()?)?;
    let id = path(&topology.a, "b/up1")?.id;
    events.forget()?;
    let stop = AtomicBool::new(false);
    let (event, in_map) = thread::scope(|scope| -> Result<(u64, u64)> {
        let event = scope.spawn(|| events.next());
        let left = scope.spawn(|| left_at(&maps, id, &stop));
        cut.make(topology).with_context(|| format!("{cut:?}"))?;
        let event = event.join().expect("the thread does not panic");
        thread::sleep(Duration::from_millis(100));
        stop.store(true, Ordering::Relaxed);
        Ok((event?, left.join().expect("the thread does not panic").with_context(|| format!("{cut:?}"))?))
    })?;
    let received = stream.received();
    until("the stream goes on by the other paths", || Ok(stream.received() > received + 100))?;
    let healed = now_ns()?;
    cut.heal(topology)?;
    until("the path is up again", || Ok(path(&topology.a, "b/up1")?.state == "up"))?;
    let sent = path(&topology.a, "b/up1")?.egress.packets;
    until("the path is used again", || Ok(path(&topology.a, "b/up1")?.egress.packets > sent + 10))?;
    thread::sleep(Duration::from_millis(50));
    Ok(Left { event, in_map, healed })
}

fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort();
    durations[durations.len() / 2]
}

/// Each way of cutting has paths of its own: one that was cut a few times is used again only after a while.
#[test]
fn a_cut_link_is_left_at_once_and_used_again() -> Result<()> {
    let _alone = alone();
    CUTS.into_iter().try_for_each(|cut| cut_and_heal_often(cut).with_context(|| format!("{cut:?}")))
}

fn cut_and_heal_often(cut: Cut) -> Result<()> {
    let topology = Topology::new(&[LinkSpec::PERFECT.family(Family::V4); 3])?;
    let [mut a, mut b] = up_in_the_clear(&topology)?;
    let events = Events::listen(topology.a.namespace())?;
    let watch = Watch::start(&topology.a, 3)?;
    let stream = UdpStream { flows: FLOWS, ..UdpStream::to(topology.b.host_v4(), 2000, 64, Duration::from_mins(1)) };
    let stream = stream.start(topology.ha(), topology.hb())?;
    thread::sleep(Duration::from_millis(100));

    let left: Vec<Left> = (0..ROUNDS).map(|_| cut_and_heal(&topology, &events, cut, &stream)).collect::<Result<_>>()?;
    thread::sleep(Duration::from_millis(200));
    let report = stream.stop()?;
    println!("of {} packets {} were lost, {} refused", report.sent, report.lost, report.refused);
    assert!(a.is_running() && b.is_running(), "{}\n{}", a.log(), b.log());
    let flows = watch.stop()?;

    let mut departures: Vec<u64> = flows
        .flows()
        .flat_map(|(_, departures)| departures.iter().filter(|departure| departure.uplink == 1))
        .map(|departure| departure.at_ns)
        .collect();
    departures.sort_unstable();
    let in_map: Vec<_> = left.iter().map(|left| Duration::from_nanos(left.in_map.saturating_sub(left.event))).collect();
    // Where the interface takes no packets any more, none is seen after the event anyway.
    let last_packet: Vec<_> = left
        .iter()
        .map(|left| {
            let before_healing = departures.partition_point(|at_ns| *at_ns < left.healed);
            let last = before_healing.checked_sub(1).map_or(0, |index| departures[index]);
            Duration::from_nanos(last.saturating_sub(left.event))
        })
        .collect();
    println!("{cut:?}: left in the map after {in_map:.2?}, last packet after {last_packet:.2?}");
    assert!(median(in_map) < LEFT_WITHIN, "{cut:?}");
    assert!(median(last_packet) < LEFT_WITHIN, "{cut:?}");

    // Flows of the cut path moved and came back, all others stayed where they were.
    assert_eq!(flows.flows().count(), usize::from(FLOWS));
    for (port, departures) in flows.flows() {
        let mut stays: Vec<usize> = departures.iter().map(|departure| departure.uplink).collect();
        stays.dedup();
        if stays[0] == 1 {
            assert!(stays.len() > 1, "flow {port} did not leave");
            // The capture ends with the interface that it was started on.
            let is_watched = !matches!(cut, Cut::Interface);
            assert!(!is_watched || stays[1..].contains(&1), "flow {port} did not come back: {stays:?}");
        } else {
            assert_eq!(stays.len(), 1, "flow {port} left its path: {stays:?}");
        }
    }
    close(topology)
}

#[test]
fn an_uplink_that_comes_back_with_another_address_and_index_is_used_again() -> Result<()> {
    let _alone = alone();
    let topology = Topology::new(&[LinkSpec::PERFECT.family(Family::V4); 2])?;
    let [mut a, mut b] = up(&topology)?;
    let namespace = topology.a.namespace();

    // As by DHCP after a modem was plugged in again.
    topology.link(1)?.remove_interface(End::A)?;
    until("the path is down", || Ok(path(&topology.a, "b/up1")?.state == "down"))?;
    topology.link(1)?.restore_interface(End::A)?;
    namespace.ip("addr flush dev up1\naddr add 10.101.0.77/24 dev up1")?;
    let local = "10.101.0.77:5182".parse()?;
    until("the path has the new address", || Ok(path(&topology.a, "b/up1")?.local == Some(local)))?;
    // Only this path is left: everything comes from the new address, and b learns it.
    namespace.ip("link set up0 down")?;
    let ping = Ping { count: 20, ..Ping::to(topology.b.host_v4()) };
    ping.run(topology.ha())?;
    let is_learned = || Ok(paths(&topology.b)?.iter().any(|path| path.learned && path.remote == local));
    until("the other gateway has learned the address", is_learned)?;

    // And back: what was learned is not true any more.
    namespace.ip("addr flush dev up1\naddr add 10.101.0.1/24 dev up1\nlink set up0 up")?;
    until("all paths are up", || Ok(paths(&topology.a)?.iter().all(|path| path.state == "up")))?;
    let stream = UdpStream { flows: 40, ..UdpStream::to(topology.b.host_v4(), 500, 64, Duration::from_millis(200)) };
    stream.run(topology.ha(), topology.hb())?;
    until("the other gateway has forgotten the address", || Ok(paths(&topology.b)?.len() == 2))?;
    assert!(a.is_running() && b.is_running(), "{}\n{}", a.log(), b.log());
    let back = UdpStream { flows: 40, ..UdpStream::to(topology.a.host_v4(), 500, 64, Duration::from_millis(200)) };
    assert_eq!(back.run(topology.hb(), topology.ha())?.lost, 0, "the other gateway sends to where a is");
    close(topology)
}
