//! The one flow that is measured, and what its receiver saw.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use multipath_tests::traffic::iperf::RunningIperf;
use multipath_tests::traffic::quic::RunningQuic;
use multipath_tests::traffic::stream::{INTERVAL_MS, RunningStream};
use multipath_tests::traffic::{Iperf, IperfReport, QuicFlow, QuicReport, StreamReport, UdpStream};
use multipath_tests::{LinkProfile, Namespace, Topology};

use super::series::Series;
use crate::demo::meter::OVERHEAD;

/// Bytes of IPv4 and UDP headers.
const UDP_HEADERS: u32 = 28;
/// Part of the payload that the links can carry which the UDP stream wants.
const UDP_LOAD: f64 = 0.95;

/// What is sent from the host behind gateway a to the host behind b.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Flow {
    /// TCP with CUBIC, by iperf3
    TcpCubic,
    /// TCP with BBR, by iperf3
    TcpBbr,
    /// QUIC with CUBIC and packet threshold 3, by quinn
    Quic,
    /// Numbered packets of the tunnel's size, paced at 95 % of what the links can carry
    Udp,
}

/// A flow that is being sent.
pub(super) enum Running {
    Tcp(Box<RunningTcp>),
    Quic(RunningQuic),
    Udp(RunningStream, u16),
}

/// A TCP flow that is being sent.
pub(super) struct RunningTcp {
    iperf: RunningIperf,
    /// Sender's and receiver's.
    hosts: [Namespace; 2],
    before: [TcpCounters; 2],
}

/// What became of a flow.
pub(super) struct FlowReport {
    /// Payload that the receiving application got.
    pub(super) received: Series,
    /// Round-trip times as the sender's transport smooths them, of UDP the delays one way; with their times, seconds and
    /// milliseconds.
    pub(super) rtts: Vec<(f64, f64)>,
    /// Packets that arrived after a later one. TCP: segments that had to wait for an earlier one.
    pub(super) reordered: u64,
    /// Segments or packets that were sent again; of QUIC those held for lost.
    pub(super) retransmits: u64,
    /// How often the sender's TCP gave up waiting (RTO).
    pub(super) timeouts: u64,
    /// Part of the packets that never arrived; UDP only.
    pub(super) lost_share: Option<f64>,
    /// Part of the packets that arrived after a later one; UDP only.
    pub(super) late_share: Option<f64>,
}

/// Counters of a host's TCP.
#[derive(Clone, Copy)]
pub(super) struct TcpCounters {
    out_of_order: u64,
    timeouts: u64,
}

impl Flow {
    /// Name on the command line and in the figures.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::TcpCubic => "tcp-cubic",
            Self::TcpBbr => "tcp-bbr",
            Self::Quic => "quic",
            Self::Udp => "udp",
        }
    }

    /// Starts it, to this port, over links like these.
    pub(super) fn start(
        self,
        topology: &Topology,
        links: &[LinkProfile],
        (mtu, port): (u32, u16),
        duration: Duration,
    ) -> Result<Running> {
        let (from, to, address) = (topology.ha(), topology.hb(), topology.b.host_v4());
        let tcp = |congestion: &str| {
            let congestion = congestion.to_owned();
            let interval = Duration::from_millis(INTERVAL_MS).as_secs_f64();
            let run = Iperf { port, congestion, interval, ..Iperf::tcp(address, duration.as_secs() as u32) };
            let before = [TcpCounters::read(from)?, TcpCounters::read(to)?];
            let hosts = [from.clone(), to.clone()];
            Ok(Running::Tcp(Box::new(RunningTcp { iperf: run.start(from, to)?, hosts, before })))
        };
        match self {
            Self::TcpCubic => tcp("cubic"),
            Self::TcpBbr => tcp("bbr"),
            Self::Quic => Ok(Running::Quic(QuicFlow { port, ..QuicFlow::to(address, duration) }.start(from, to)?)),
            Self::Udp => {
                let capacity: f64 = links.iter().map(|link| link.payload_mbps(mtu, UDP_HEADERS, OVERHEAD)).sum();
                let size = (mtu - UDP_HEADERS) as u16;
                let pace = (capacity * UDP_LOAD * 1e6 / 8.0 / f64::from(size)) as u32;
                let stream = UdpStream { port, ..UdpStream::to(address, pace.max(1), size, duration) };
                Ok(Running::Udp(stream.start(from, to)?, size))
            }
        }
    }
}

impl Running {
    /// Waits for its end.
    pub(super) fn finish(self) -> Result<FlowReport> {
        match self {
            Self::Tcp(running) => {
                let RunningTcp { iperf, hosts: [from, to], before } = *running;
                let report = iperf.finish()?;
                Ok(FlowReport::of_tcp(&report, before, [TcpCounters::read(&from)?, TcpCounters::read(&to)?]))
            }
            Self::Quic(running) => running.finish().map(|report| FlowReport::of_quic(&report)),
            Self::Udp(running, size) => {
                let report = running.finish()?;
                ensure!(report.overflowed == 0, "the receiver was too slow: {} packets", report.overflowed);
                Ok(FlowReport::of_udp(&report, size))
            }
        }
    }
}

impl FlowReport {
    fn of_tcp(report: &IperfReport, before: [TcpCounters; 2], after: [TcpCounters; 2]) -> Self {
        let mut received = Series::default();
        for sample in &report.samples {
            received.spread(sample.start, sample.end, sample.mbps * 1e6 / 8.0 * (sample.end - sample.start));
        }
        let [sender, server] = [0, 1].map(|end| after[end].since(before[end]));
        Self {
            received,
            rtts: with_times(&report.rtts_ms),
            reordered: server.out_of_order,
            retransmits: report.retransmits,
            timeouts: sender.timeouts,
            lost_share: None,
            late_share: None,
        }
    }

    fn of_quic(report: &QuicReport) -> Self {
        Self {
            received: report.received_per_interval.iter().map(|bytes| *bytes as f64).collect(),
            rtts: with_times(&report.rtts_ms),
            reordered: report.reordered,
            retransmits: report.lost_packets,
            timeouts: 0,
            lost_share: None,
            late_share: None,
        }
    }

    fn of_udp(report: &StreamReport, size: u16) -> Self {
        let received = report.received_per_interval.iter().map(|packets| f64::from(*packets) * f64::from(size));
        let times = report.arrivals_ms.iter().map(|ms| ms / 1e3);
        Self {
            received: received.collect(),
            rtts: times.zip(report.delays_ms.iter().copied()).collect(),
            reordered: report.reordered,
            retransmits: 0,
            timeouts: 0,
            lost_share: Some(report.loss()),
            late_share: Some(report.reordered as f64 / report.received.max(1) as f64),
        }
    }
}

/// Values at the ends of the intervals, with their times.
fn with_times(values: &[f64]) -> Vec<(f64, f64)> {
    let ends = (1..).map(|number: u64| (number * INTERVAL_MS) as f64 / 1e3);
    ends.zip(values.iter().copied()).collect()
}

impl TcpCounters {
    /// Reads the kernel's (man 8 nstat): a line of names and a line of numbers.
    fn read(host: &Namespace) -> Result<Self> {
        let path = "/proc/thread-self/net/netstat";
        let text = host.run(|| std::fs::read_to_string(path))?.with_context(|| format!("cannot read {path}"))?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:")).map(str::split_whitespace);
        let pairs: Vec<(&str, &str)> =
            lines.next().into_iter().flatten().zip(lines.next().into_iter().flatten()).collect();
        let count = |name: &str| -> Result<u64> {
            let (_, count) =
                pairs.iter().find(|(own, _)| *own == name).with_context(|| format!("{path} has no {name}"))?;
            count.parse().with_context(|| format!("{name} is a number"))
        };
        Ok(Self { out_of_order: count("TCPOFOQueue")?, timeouts: count("TCPTimeouts")? })
    }

    fn since(self, before: Self) -> Self {
        Self { out_of_order: self.out_of_order - before.out_of_order, timeouts: self.timeouts - before.timeouts }
    }
}
