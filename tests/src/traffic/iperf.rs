//! TCP and UDP throughput by iperf3, with its JSON as data.

use std::fs;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::namespace::Namespace;
use crate::process::Process;

const LISTEN_PATIENCE: Duration = Duration::from_secs(5);
const END_PATIENCE: Duration = Duration::from_secs(20);
/// State of a listening socket in `/proc/net/tcp` (`TCP_LISTEN`).
const LISTENING: &str = "0A";

/// One run of iperf3.
#[derive(Clone, Debug)]
pub struct Iperf {
    /// Address of the server's host.
    pub to: IpAddr,
    /// TCP port of the server, and UDP port in UDP mode.
    pub port: u16,
    /// Parallel flows.
    pub streams: u32,
    /// Length of the measurement in seconds, `omit` not included.
    pub seconds: u32,
    /// Seconds at the start that are not measured: slow start.
    pub omit: u32,
    /// TCP congestion control, given per socket: a machine's default may be another one.
    pub congestion: String,
    /// Seconds between samples.
    pub interval: f64,
    /// The server sends.
    pub is_reverse: bool,
    /// UDP instead of TCP.
    pub udp: Option<UdpLoad>,
    /// The processors of client and server; `None`: the scheduler's choice, which the packet rate then depends on.
    pub processors: Option<[u32; 2]>,
}

/// What iperf3 sends in UDP mode.
#[derive(Clone, Copy, Debug)]
pub struct UdpLoad {
    /// Bits of payload per second, all flows together; 0: as many as possible.
    pub rate: u64,
    /// Payload bytes per packet.
    pub length: u16,
}

/// What iperf3 measured. Rates are Mbit/s of payload.
#[derive(Clone, Debug, Serialize)]
pub struct IperfReport {
    /// Rate at the sender.
    pub sent_mbps: f64,
    /// Rate at the receiver: the goodput.
    pub received_mbps: f64,
    /// TCP segments sent again.
    pub retransmits: u64,
    /// Mean of the TCP flows' mean round-trip times in milliseconds.
    pub rtt_ms: f64,
    /// Smoothed round-trip time of the first TCP flow at the end of each interval, milliseconds.
    pub rtts_ms: Vec<f64>,
    /// Goodput of each flow.
    pub flows_mbps: Vec<f64>,
    /// Samples at the receiver.
    pub samples: Vec<Sample>,
    /// UDP only.
    pub udp: Option<UdpReport>,
}

/// The rate over one interval.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    /// Start in seconds since the start of the run.
    pub start: f64,
    /// End in seconds.
    pub end: f64,
    /// Payload.
    pub mbps: f64,
}

/// What the receiver of a UDP run counted.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct UdpReport {
    /// Packets sent.
    pub packets: u64,
    /// Packets that did not arrive.
    pub lost: u64,
    /// Packets that arrived after a later one.
    pub out_of_order: u64,
    /// Jitter in milliseconds as in RFC 3550.
    pub jitter_ms: f64,
}

/// A run that goes on in the background; killed when dropped.
#[derive(Debug)]
pub struct RunningIperf {
    run: Iperf,
    client: Process,
    server: Process,
}

impl Iperf {
    /// One TCP flow with CUBIC for `seconds`, sampled every 0.5 s.
    pub fn tcp(to: impl Into<IpAddr>, seconds: u32) -> Self {
        Self {
            to: to.into(),
            port: 5201,
            streams: 1,
            seconds,
            omit: 0,
            congestion: "cubic".to_owned(),
            interval: 0.5,
            is_reverse: false,
            udp: None,
            processors: None,
        }
    }

    /// One UDP flow with that many bits of payload per second, in packets of 1200 bytes.
    pub fn udp(to: impl Into<IpAddr>, seconds: u32, rate: u64) -> Self {
        Self { udp: Some(UdpLoad { rate, length: 1200 }), ..Self::tcp(to, seconds) }
    }

    /// Runs server and client to the end.
    pub fn run(&self, client: &Namespace, server: &Namespace) -> Result<IperfReport> {
        self.start(client, server)?.finish()
    }

    /// Starts server and client.
    ///
    /// # Errors
    /// iperf3 is missing, or its port is taken.
    pub fn start(&self, client: &Namespace, server: &Namespace) -> Result<RunningIperf> {
        let port = self.port.to_string();
        let mut serving = server.spawn(&[
            "iperf3",
            "--server",
            "--one-off",
            "--json",
            "--port",
            &port,
            "--interval",
            &self.interval.to_string(),
        ])?;
        wait_until_listening(server, self.port, &mut serving)?;
        let mut command = client.command("iperf3");
        command.args([
            "--json",
            "--port",
            &port,
            "--client",
            &self.to.to_string(),
            "--parallel",
            &self.streams.to_string(),
        ]);
        command.args([
            "--time",
            &self.seconds.to_string(),
            "--omit",
            &self.omit.to_string(),
            "--interval",
            &self.interval.to_string(),
        ]);
        if self.is_reverse {
            command.arg("--reverse");
        }
        if let Some([own, server]) = self.processors {
            command.args(["--affinity", &format!("{own},{server}")]);
        }
        match self.udp {
            Some(load) => {
                // iperf3 counts the rate per flow.
                let rate = load.rate / u64::from(self.streams.max(1));
                command.args(["--udp", "--bitrate", &rate.to_string(), "--length", &load.length.to_string()]);
            }
            None => {
                command.args(["--congestion", &self.congestion]);
            }
        }
        Ok(RunningIperf { run: self.clone(), client: Process::spawn(command)?, server: serving })
    }
}

impl RunningIperf {
    /// The client is still sending.
    pub fn is_running(&mut self) -> bool {
        self.client.is_running()
    }

    /// Waits for the end of the run.
    ///
    /// # Errors
    /// iperf3's own words, or it does not end in time.
    pub fn finish(self) -> Result<IperfReport> {
        let time = Duration::from_secs((self.run.seconds + self.run.omit).into());
        let client = self.client.finish(time + END_PATIENCE)?;
        let client = parse(&client.stdout).with_context(|| format!("`{}`: {}", client.command, client.stderr))?;
        let server = self.server.finish(END_PATIENCE)?;
        let server = parse(&server.stdout).with_context(|| format!("`{}`: {}", server.command, server.stderr))?;
        Ok(IperfReport::of(&self.run, &client, &server))
    }
}

/// The parts of iperf3's JSON that we read; both sides have the same form.
#[derive(Deserialize)]
struct Json {
    intervals: Vec<Interval>,
    end: Ending,
}

#[derive(Deserialize)]
struct Interval {
    sum: Sum,
    #[serde(default)]
    streams: Vec<FlowInterval>,
}

#[derive(Deserialize)]
struct FlowInterval {
    /// Microseconds.
    #[serde(default)]
    rtt: f64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Sum {
    start: f64,
    end: f64,
    seconds: f64,
    bytes: u64,
    bits_per_second: f64,
    omitted: bool,
    retransmits: u64,
    packets: u64,
    lost_packets: u64,
    out_of_order: u64,
    jitter_ms: f64,
    mean_rtt: f64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Ending {
    streams: Vec<Flow>,
    sum: Sum,
    sum_sent: Sum,
    sum_received: Sum,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Flow {
    sender: Sum,
    receiver: Sum,
    udp: Sum,
}

fn parse(text: &str) -> Result<Json> {
    let value: Value = serde_json::from_str(text).with_context(|| format!("this is not iperf3's JSON: {text}"))?;
    if let Some(error) = value.get("error") {
        bail!("iperf3 says {error}");
    }
    Ok(serde_json::from_value(value)?)
}

impl IperfReport {
    fn of(run: &Iperf, client: &Json, server: &Json) -> Self {
        let mbps = |sum: &Sum| sum.bits_per_second / 1e6;
        let receiver = if run.is_reverse { client } else { server };
        let samples = receiver.intervals.iter().map(|interval| &interval.sum).filter(|sum| !sum.omitted);
        let samples = samples.map(|sum| Sample { start: sum.start, end: sum.end, mbps: mbps(sum) }).collect();
        let flows = &client.end.streams;
        let flow_count = flows.len().max(1) as f64;
        let sender = if run.is_reverse { server } else { client };
        let first_flows = sender.intervals.iter().filter_map(|interval| interval.streams.first());
        let mut report = Self {
            sent_mbps: mbps(&client.end.sum_sent),
            received_mbps: mbps(&client.end.sum_received),
            retransmits: client.end.sum_sent.retransmits,
            rtt_ms: flows.iter().map(|flow| flow.sender.mean_rtt).sum::<f64>() / flow_count / 1e3,
            rtts_ms: first_flows.map(|flow| flow.rtt / 1e3).collect(),
            flows_mbps: flows.iter().map(|flow| mbps(&flow.receiver)).collect(),
            samples,
            udp: None,
        };
        if run.udp.is_some() {
            // The client's `sum` of a UDP run has its bytes and the server's losses; what was out of order, only the receiver's flows say.
            let sum = &client.end.sum;
            let arrived = 1.0 - sum.lost_packets as f64 / sum.packets.max(1) as f64;
            report.sent_mbps = sum.bytes as f64 * 8e-6 / sum.seconds.max(f64::MIN_POSITIVE);
            report.received_mbps = report.sent_mbps * arrived;
            report.flows_mbps = flows.iter().map(|flow| mbps(&flow.udp)).collect();
            report.udp = Some(UdpReport {
                packets: sum.packets,
                lost: sum.lost_packets,
                out_of_order: receiver.end.streams.iter().map(|flow| flow.udp.out_of_order).sum(),
                jitter_ms: sum.jitter_ms,
            });
        }
        report
    }
}

fn wait_until_listening(server: &Namespace, port: u16, process: &mut Process) -> Result<()> {
    let start = Instant::now();
    let suffix = format!(":{port:04X}");
    let is_listening = || {
        ["tcp", "tcp6"]
            .iter()
            .filter_map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok())
            .any(|table| {
                let mut lines = table.lines().map(|line| line.split_whitespace());
                lines.any(|mut words| {
                    words.nth(1).is_some_and(|local| local.ends_with(&suffix)) && words.nth(1) == Some(LISTENING)
                })
            })
    };
    while !server.run(is_listening)? {
        if !process.is_running() || start.elapsed() > LISTEN_PATIENCE {
            bail!(
                "iperf3 does not listen on port {port} of {}: {}{}",
                server.name(),
                process.stdout(),
                process.stderr()
            );
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
