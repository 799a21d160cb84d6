//! A stream of numbered UDP packets at a fixed pace: what arrived, when, in which order, and the largest gap.

use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::{TimeSpec, TimeValLike as _};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::percentile;
use crate::namespace::Namespace;

/// Smallest payload: magic, flow, number, time.
pub const SMALLEST: u16 = 24;
/// Length of the report's intervals in milliseconds.
pub const INTERVAL_MS: u64 = 100;

const MAGIC: u32 = 0x6d70_7374;
const RECEIVE_BUFFER: usize = 16 << 20;
const RECEIVE_POLL: Duration = Duration::from_millis(20);
/// The sender sleeps at least that long: above 5,000 packets a second it sends a few at once rather than wake for each.
const SHORTEST_SLEEP: Duration = Duration::from_micros(200);

/// A stream to be sent.
#[derive(Clone, Debug)]
pub struct UdpStream {
    /// Address of the receiver.
    pub to: IpAddr,
    /// UDP port of the receiver.
    pub port: u16,
    /// Packets per second, all flows together.
    pub pace: u32,
    /// UDP payload in bytes, at least [`SMALLEST`].
    pub size: u16,
    /// How long is sent.
    pub duration: Duration,
    /// Number of flows (source ports); packets go round.
    pub flows: u16,
    /// How long after the last packet sent the missing ones are waited for.
    pub linger: Duration,
}

/// What arrived. Times are milliseconds; delays are from just before the sender's system call to the kernel's receive timestamp.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StreamReport {
    /// When the first packet was sent, nanoseconds of `CLOCK_REALTIME`.
    pub start_ns: u64,
    /// Packets sent.
    pub sent: u64,
    /// Packets that the sender's kernel refused (no route, full queue); they count as sent.
    pub refused: u64,
    /// Different packets that arrived.
    pub received: u64,
    /// Packets that did not arrive.
    pub lost: u64,
    /// Further copies of packets that had arrived.
    pub duplicated: u64,
    /// Packets that arrived after a later one of their flow.
    pub reordered: u64,
    /// Packets that the receiver's socket dropped because its reader was too slow: a fault of the measurement. Among the lost.
    pub overflowed: u64,
    /// One-way delays.
    pub delay: Delay,
    /// The longest time without a packet, from the first one sent to the last one sent.
    pub largest_gap_ms: f64,
    /// When that began, since the first packet was sent.
    pub largest_gap_at_ms: f64,
    /// What arrived in each interval of [`INTERVAL_MS`] since the first packet was sent.
    pub received_per_interval: Vec<u32>,
    /// All one-way delays in the order of arrival.
    #[serde(skip)]
    pub delays_ms: Vec<f64>,
    /// When each packet arrived, since the first packet was sent; in the order of arrival.
    #[serde(skip)]
    pub arrivals_ms: Vec<f64>,
}

/// How one-way delays are distributed, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Delay {
    pub min: f64,
    pub median: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    pub mean: f64,
    pub standard_deviation: f64,
}

/// A stream that is being sent; stopped when dropped.
#[derive(Debug)]
pub struct RunningStream {
    shared: Arc<Shared>,
    sender: Option<JoinHandle<Result<Sent>>>,
    receiver: Option<JoinHandle<Result<Received>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    has_sent_all: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
}

#[derive(Debug)]
struct Sent {
    start_ns: u64,
    end_ns: u64,
    packets: u64,
    refused: u64,
}

#[derive(Debug, Default)]
struct Received {
    arrivals: Vec<Arrival>,
    overflowed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Arrival {
    number: u64,
    flow: u16,
    sent_ns: u64,
    at_ns: u64,
}

impl UdpStream {
    /// One flow of `pace` packets a second with `size` bytes of payload to port 7000.
    pub fn to(to: impl Into<IpAddr>, pace: u32, size: u16, duration: Duration) -> Self {
        Self { to: to.into(), port: 7000, pace, size, duration, flows: 1, linger: Duration::from_secs(1) }
    }

    /// Sends it and waits for the end.
    pub fn run(&self, from: &Namespace, to: &Namespace) -> Result<StreamReport> {
        self.start(from, to)?.finish()
    }

    /// Starts to send; the receiver is ready before the first packet leaves.
    ///
    /// # Errors
    /// The port is taken, or the stream makes no sense.
    pub fn start(&self, from: &Namespace, to: &Namespace) -> Result<RunningStream> {
        ensure!(self.size >= SMALLEST, "a packet of the stream has at least {SMALLEST} bytes of payload");
        ensure!(self.pace > 0 && self.flows > 0, "a stream has packets and flows");
        let any: IpAddr = if self.to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = to
            .run(|| UdpSocket::bind((any, self.port)))?
            .with_context(|| format!("UDP port {} of {}", self.port, to.name()))?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        setsockopt(&socket, sockopt::RxqOvfl, &1)?;
        socket.set_read_timeout(Some(RECEIVE_POLL))?;
        let bind_all = || (0..self.flows).map(|_| UdpSocket::bind((any, 0))).collect::<std::io::Result<Vec<_>>>();
        let senders = from.run(bind_all)?.with_context(|| format!("UDP sockets of {}", from.name()))?;

        let shared = Arc::new(Shared::default());
        let (receiving, linger) = (shared.clone(), self.linger);
        let receiver = thread::Builder::new()
            .name("stream-receiver".into())
            .spawn(move || receive(&socket, linger, &receiving))?;
        let (sending, stream) = (shared.clone(), self.clone());
        let sender = thread::Builder::new().name("stream-sender".into()).spawn(move || {
            let sent = stream.send(&senders, &sending);
            sending.has_sent_all.store(true, Ordering::Release);
            sent
        })?;
        Ok(RunningStream { shared, sender: Some(sender), receiver: Some(receiver) })
    }

    fn send(&self, sockets: &[UdpSocket], shared: &Shared) -> Result<Sent> {
        // SAFETY: changes the calling thread's timer slack only.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64) };
        let destination = SocketAddr::new(self.to, self.port);
        let mut packet = vec![0; self.size.into()];
        let mut sent = Sent { start_ns: realtime_ns()?, end_ns: 0, packets: 0, refused: 0 };
        let start = Instant::now();
        while start.elapsed() < self.duration && !shared.stop.load(Ordering::Relaxed) {
            let due = (start.elapsed().as_secs_f64() * f64::from(self.pace)) as u64;
            while sent.packets <= due {
                let flow = (sent.packets % u64::from(self.flows)) as u16;
                Arrival { number: sent.packets, flow, sent_ns: realtime_ns()?, at_ns: 0 }.write(&mut packet);
                sent.packets += 1;
                sent.refused += u64::from(sockets[usize::from(flow)].send_to(&packet, destination).is_err());
                shared.sent.store(sent.packets, Ordering::Relaxed);
            }
            let next = Duration::from_secs_f64(sent.packets as f64 / f64::from(self.pace));
            thread::sleep(next.saturating_sub(start.elapsed()).max(SHORTEST_SLEEP));
        }
        sent.end_ns = realtime_ns()?;
        Ok(sent)
    }
}

impl RunningStream {
    /// Packets sent so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Packets that have arrived so far, duplicates included.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// Ends the stream before its time.
    pub fn stop(self) -> Result<StreamReport> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.finish()
    }

    /// Waits until everything is sent and has arrived or is given up.
    pub fn finish(mut self) -> Result<StreamReport> {
        let sent = join(self.sender.take()).context("the sender of a stream")?;
        let received = join(self.receiver.take()).context("the receiver of a stream")?;
        Ok(StreamReport::of(&sent, &received))
    }
}

impl Drop for RunningStream {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = self.sender.take().map(JoinHandle::join);
        let _ = self.receiver.take().map(JoinHandle::join);
    }
}

fn join<T>(thread: Option<JoinHandle<Result<T>>>) -> Result<T> {
    let thread = thread.context("has ended before")?;
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn receive(socket: &UdpSocket, linger: Duration, shared: &Shared) -> Result<Received> {
    let mut received = Received::default();
    let mut packet = vec![0; 65_536];
    let mut control = nix::cmsg_space!(TimeSpec, u32);
    let mut end = None;
    loop {
        if shared.has_sent_all.load(Ordering::Acquire) {
            let end = *end.get_or_insert_with(|| Instant::now() + linger);
            let is_complete = received.arrivals.len() as u64 >= shared.sent.load(Ordering::Relaxed);
            if is_complete || Instant::now() > end {
                return Ok(received);
            }
        }
        let mut parts = [IoSliceMut::new(&mut packet)];
        let message = match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty()) {
            Ok(message) => message,
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(error) => return Err(error).context("cannot receive"),
        };
        let mut at_ns = 0;
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::ScmTimestampns(time) => at_ns = time.num_nanoseconds().cast_unsigned(),
                ControlMessageOwned::RxqOvfl(dropped) => received.overflowed = dropped.into(),
                _ => {}
            }
        }
        let length = message.bytes;
        if let Some(arrival) = Arrival::read(&packet[..length], at_ns) {
            received.arrivals.push(arrival);
            shared.received.store(received.arrivals.len() as u64, Ordering::Relaxed);
        }
    }
}

impl Arrival {
    fn write(&self, packet: &mut [u8]) {
        packet[..4].copy_from_slice(&MAGIC.to_be_bytes());
        packet[4..6].copy_from_slice(&self.flow.to_be_bytes());
        packet[8..16].copy_from_slice(&self.number.to_be_bytes());
        packet[16..24].copy_from_slice(&self.sent_ns.to_be_bytes());
    }

    fn read(packet: &[u8], at_ns: u64) -> Option<Self> {
        let number = |at: usize| Some(u64::from_be_bytes(packet.get(at..at + 8)?.try_into().ok()?));
        let flow = u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?);
        let arrival = Self { number: number(8)?, flow, sent_ns: number(16)?, at_ns };
        packet.starts_with(&MAGIC.to_be_bytes()).then_some(arrival)
    }
}

impl StreamReport {
    /// Share of packets that did not arrive, 0 to 1.
    pub fn loss(&self) -> f64 {
        self.lost as f64 / self.sent.max(1) as f64
    }

    /// The longest time without a packet that lies at least partly in `window` (milliseconds since the first packet was sent).
    pub fn largest_gap_within(&self, window: Range<f64>) -> f64 {
        let times = [0.0].into_iter().chain(self.arrivals_ms.iter().copied()).chain([window.end]);
        let times = times.collect::<Vec<_>>();
        let gaps = times.windows(2).filter(|pair| pair[1] > window.start && pair[0] < window.end);
        gaps.map(|pair| pair[1] - pair[0]).fold(0.0, f64::max)
    }

    fn of(sent: &Sent, received: &Received) -> Self {
        let arrivals = &received.arrivals;
        let mut seen = vec![false; sent.packets as usize];
        let mut newest = vec![None; arrivals.iter().map(|arrival| usize::from(arrival.flow) + 1).max().unwrap_or(0)];
        let (mut duplicated, mut reordered) = (0, 0);
        for arrival in arrivals {
            let Some(seen) = seen.get_mut(arrival.number as usize) else { continue };
            if std::mem::replace(seen, true) {
                duplicated += 1;
                continue;
            }
            let newest = &mut newest[usize::from(arrival.flow)];
            reordered += u64::from(*newest > Some(arrival.number));
            *newest = (*newest).max(Some(arrival.number));
        }
        let unique = seen.iter().filter(|seen| **seen).count() as u64;
        let ms_since_start = |at_ns: u64| at_ns.saturating_sub(sent.start_ns) as f64 / 1e6;
        let (largest_gap_ms, largest_gap_at_ms) = largest_gap(arrivals, sent);
        let delays_ms: Vec<f64> = arrivals
            .iter()
            .map(|arrival| arrival.at_ns.cast_signed().wrapping_sub(arrival.sent_ns.cast_signed()) as f64 / 1e6)
            .collect();
        let mut received_per_interval = Vec::new();
        for arrival in arrivals {
            let index = ms_since_start(arrival.at_ns) as usize / INTERVAL_MS as usize;
            received_per_interval.resize(received_per_interval.len().max(index + 1), 0);
            received_per_interval[index] += 1;
        }
        Self {
            start_ns: sent.start_ns,
            sent: sent.packets,
            refused: sent.refused,
            received: unique,
            lost: sent.packets - unique,
            duplicated,
            reordered,
            overflowed: received.overflowed,
            delay: Delay::of(&delays_ms),
            largest_gap_ms,
            largest_gap_at_ms,
            received_per_interval,
            delays_ms,
            arrivals_ms: arrivals.iter().map(|arrival| ms_since_start(arrival.at_ns)).collect(),
        }
    }
}

/// Length and start in milliseconds.
fn largest_gap(arrivals: &[Arrival], sent: &Sent) -> (f64, f64) {
    let mut times: Vec<u64> = arrivals.iter().map(|arrival| arrival.at_ns).collect();
    // The first packet is expected when it is sent plus its delay: what comes before is no gap.
    let first_delay = arrivals.first().map_or(0, |first| first.at_ns.saturating_sub(first.sent_ns));
    times.push(sent.start_ns + first_delay);
    times.push(sent.end_ns);
    times.sort_unstable();
    let gaps = times.windows(2).map(|pair| (pair[1] - pair[0], pair[0]));
    let (length, start) = gaps.max().unwrap_or((0, sent.start_ns));
    (length as f64 / 1e6, start.saturating_sub(sent.start_ns) as f64 / 1e6)
}

impl Delay {
    fn of(delays: &[f64]) -> Self {
        let mut sorted = delays.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len().max(1) as f64;
        let mean = sorted.iter().sum::<f64>() / count;
        let variance = sorted.iter().map(|delay| (delay - mean).powi(2)).sum::<f64>() / count;
        let share = |share| percentile(&sorted, share);
        Self {
            min: share(0.0),
            median: share(0.5),
            p90: share(0.9),
            p99: share(0.99),
            p999: share(0.999),
            max: share(1.0),
            mean,
            standard_deviation: variance.sqrt(),
        }
    }
}

/// The clock of the kernel's receive timestamps.
fn realtime_ns() -> Result<u64> {
    Ok(clock_gettime(ClockId::CLOCK_REALTIME)?.num_nanoseconds().cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn report(numbers_and_times: &[(u64, u64)]) -> StreamReport {
        let arrival =
            |&(number, at_ms): &(u64, u64)| Arrival { number, flow: 0, sent_ns: number * MS, at_ns: at_ms * MS };
        let received = Received { arrivals: numbers_and_times.iter().map(arrival).collect(), overflowed: 0 };
        StreamReport::of(&Sent { start_ns: 0, end_ns: 10 * MS, packets: 10, refused: 0 }, &received)
    }

    #[test]
    fn losses_copies_and_disorder_are_counted() {
        let report = report(&[(0, 5), (2, 7), (1, 8), (2, 8), (5, 10), (9, 14)]);
        assert_eq!((report.received, report.lost, report.duplicated, report.reordered), (5, 5, 1, 1));
        assert_eq!((report.largest_gap_ms, report.largest_gap_at_ms), (4.0, 10.0));
        assert!((report.delay.median - 5.0).abs() < 1e-9);
    }

    #[test]
    fn a_gap_counts_where_it_is_in_the_window() {
        let report = report(&[(0, 1), (1, 2), (2, 8), (3, 9), (4, 12)]);
        let gap = |window| report.largest_gap_within(window);
        assert_eq!((gap(5.0..20.0), gap(8.5..11.0), gap(0.0..1.5)), (8.0, 3.0, 1.0));
    }

    #[test]
    fn a_stream_that_breaks_off_has_a_gap_to_its_end() {
        assert_eq!((report(&[(0, 1), (1, 2)]).largest_gap_ms, report(&[]).largest_gap_ms), (8.0, 10.0));
    }
}
