//! Traffic from one host to another that must arrive whole.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use multipath_tests::Namespace;
use multipath_tests::traffic::{Iperf, Ping, UdpStream};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use crate::scene::{Processors, run_on};
use multipath_tests::eventually;

const RECEIVE_BUFFER: usize = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(2);
/// Sizes that a sweep sends before it looks for them at the other end,
const BATCH: usize = 32;
/// and bytes: a few milliseconds of the links' rate, so that no flow is taken for bulk and led to several paths.
const BATCH_BYTES: usize = 24_000;
const UDP_HEADER: usize = 8;

/// Where from, where to.
#[derive(Clone, Copy)]
pub struct Journey<'a> {
    pub from: &'a Namespace,
    pub to: &'a Namespace,
    pub address: IpAddr,
}

impl<'a> Journey<'a> {
    pub fn new(from: &'a Namespace, to: &'a Namespace, address: impl Into<IpAddr>) -> Self {
        Self { from, to, address: address.into() }
    }

    /// Pings with IP packets of `size` bytes, Don't Fragment set: every one is answered.
    pub fn ping(&self, size: usize) -> Result<()> {
        let payload = size - self.ip_header() - 8;
        let ping = Ping {
            count: 2,
            interval: Duration::ZERO,
            size: payload as u16,
            dont_fragment: true,
            ..Ping::to(self.address)
        };
        let report = ping.run(self.from)?;
        ensure!(report.received == 2 && report.errors.is_empty(), "{self}: packets of {size} bytes: {report:?}");
        Ok(())
    }

    /// Pings with the smallest packets, usual ones and the largest ones.
    pub fn pings(&self, mtu: usize) -> Result<()> {
        let smallest = self.ip_header() + 8;
        [smallest, 84, mtu - 1, mtu].into_iter().try_for_each(|size| self.ping(size))
    }

    /// Sends one UDP packet of every size (bytes of the IP packet, Don't Fragment set) in each of several flows: all arrive, in
    /// order, with their bytes as they were.
    pub fn sweep(&self, sizes: RangeInclusive<usize>, flows: usize) -> Result<()> {
        let any: IpAddr =
            if self.address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let receiver = self.to.run(|| UdpSocket::bind((any, 0)))??;
        setsockopt(&receiver, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
        receiver.set_read_timeout(Some(PATIENCE))?;
        let there = SocketAddr::new(self.address, receiver.local_addr()?.port());
        let open = || -> Result<UdpSocket> {
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(there)?;
            forbid_fragments(&socket)?;
            Ok(socket)
        };
        let senders = self.from.run(|| (0..flows).map(|_| open()).collect::<Result<Vec<_>>>())??;
        let mut expected = HashMap::new();
        for sender in &senders {
            expected.insert(sender.local_addr()?.port(), VecDeque::new());
        }
        let sizes: Vec<usize> = sizes.collect();
        let largest = sizes.iter().copied().max().unwrap_or(1);
        for batch in sizes.chunks((BATCH_BYTES / (largest * flows)).clamp(1, BATCH)) {
            for &size in batch {
                for sender in &senders {
                    let port = sender.local_addr()?.port();
                    let payload = pattern(size - self.ip_header() - UDP_HEADER, port);
                    sender.send(&payload).with_context(|| format!("{self}: a packet of {size} bytes is refused"))?;
                    expected.entry(port).or_default().push_back(payload);
                }
            }
            self.receive_batch(&receiver, &mut expected)?;
        }
        Ok(())
    }

    fn receive_batch(&self, receiver: &UdpSocket, expected: &mut HashMap<u16, VecDeque<Vec<u8>>>) -> Result<()> {
        let mut buffer = vec![0; 65_536];
        while expected.values().any(|packets| !packets.is_empty()) {
            let missing = || {
                let lengths = expected.values().flatten().map(|packet| packet.len() + self.ip_header() + UDP_HEADER);
                format!("{self}: packets of these sizes are missing: {:?}", lengths.collect::<Vec<_>>())
            };
            let (length, source) = receiver.recv_from(&mut buffer).with_context(missing)?;
            let size = length + self.ip_header() + UDP_HEADER;
            let next = expected.get_mut(&source.port()).and_then(VecDeque::pop_front);
            let next = next.with_context(|| format!("{self}: a packet of {size} bytes that nobody has sent"))?;
            ensure!(
                next.len() == length,
                "{self}: a packet of {size} bytes came where one of {} was due",
                next.len() + self.ip_header() + UDP_HEADER
            );
            ensure!(next == buffer[..length], "{self}: a packet of {size} bytes was changed on its way");
        }
        Ok(())
    }

    /// A stream of four UDP flows: nothing is lost, duplicated or reordered.
    pub fn stream(&self) -> Result<()> {
        self.stream_of(200)
    }

    /// The same with `size` bytes of UDP payload.
    pub fn stream_of(&self, size: u16) -> Result<()> {
        let pace = if size < 2000 { 1000 } else { 400 };
        let stream = UdpStream { flows: 4, ..UdpStream::to(self.address, pace, size, Duration::from_millis(250)) };
        let report = stream.run(self.from, self.to)?;
        let faults = (report.refused, report.lost, report.duplicated, report.reordered);
        ensure!(
            report.received > 50 && faults == (0, 0, 0, 0),
            "{self}: {} of {} packets of {size} bytes; refused, lost, duplicated, reordered: {faults:?}",
            report.received,
            report.sent
        );
        Ok(())
    }

    /// Two TCP flows for a second: they do not stall.
    pub fn tcp(&self) -> Result<()> {
        let run = Iperf { streams: 2, port: 5201 + u16::from(self.address.is_ipv6()), ..Iperf::tcp(self.address, 1) };
        run_on(Processors::All)?;
        let report = run.run(self.from, self.to);
        run_on(Processors::One)?;
        let report = report?;
        ensure!(report.received_mbps > 1.0, "{self}: TCP carried only {:.2} Mbit/s: {report:?}", report.received_mbps);
        Ok(())
    }

    /// The same for several journeys at once.
    pub fn tcp_all(journeys: &[Self]) -> Result<()> {
        thread::scope(|scope| {
            let running: Vec<_> = journeys.iter().map(|journey| scope.spawn(|| journey.tcp())).collect();
            running
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    /// Sends one UDP packet that nobody waits for.
    pub fn send_one(&self) -> Result<()> {
        let any = if self.address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        self.from.run(|| UdpSocket::bind(any))??.send_to(b"one", (self.address, 9))?;
        Ok(())
    }

    /// Sends until an answer comes: the first ones are lost while the other side learns where this one is.
    pub fn meet(&self) -> Result<()> {
        let ping = Ping { count: 1, ..Ping::to(self.address) };
        eventually("an answer comes", || Ok(ping.run(self.from)?.received), |received| *received == 1)?;
        Ok(())
    }

    /// Bytes of the IP header.
    pub fn ip_header(&self) -> usize {
        if self.address.is_ipv4() { 20 } else { 40 }
    }
}

impl std::fmt::Display for Journey<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "from {} to {}", self.from.role(), self.address)
    }
}

/// Bytes that depend on position, length and flow.
fn pattern(length: usize, flow: u16) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + length * 13 + usize::from(flow)) as u8).collect()
}

/// Sets Don't Fragment, so that what is too long is refused and not cut (ip(7), `IP_MTU_DISCOVER`).
fn forbid_fragments(socket: &UdpSocket) -> Result<()> {
    let (level, option, value) = if socket.local_addr()?.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)
    };
    // SAFETY: the socket is open and the kernel reads one int from the pointer.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size_of_val(&value) as u32)
    };
    Errno::result(result)?;
    Ok(())
}
