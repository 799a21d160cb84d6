//! ICMP echo, with the round-trip times as data.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

use super::percentile;
use crate::namespace::Namespace;

/// How long the last reply is waited for when there was none before, in seconds.
const LINGER: u32 = 2;
/// The same after other replies, in seconds: then ping waits for two round trips, or its interval if that is longer
/// (iputils, `ping_common.c`, `schedule_exit`), and where processors are shared a reply may be later than that.
const LINGER_AFTER_REPLIES: f64 = 0.5;

/// A series of echo requests.
#[derive(Clone, Debug)]
pub struct Ping {
    /// Who is asked.
    pub to: IpAddr,
    /// Number of requests.
    pub count: u32,
    /// Time between requests; zero: all are sent at once.
    pub interval: Duration,
    /// ICMP payload in bytes; the IP packet is 28 (IPv4) or 48 (IPv6) bytes longer.
    pub size: u16,
    /// Neither this host nor a router may fragment the request.
    pub dont_fragment: bool,
}

/// What came back.
#[derive(Clone, Debug, Serialize)]
pub struct PingReport {
    /// Requests sent.
    pub sent: u32,
    /// Replies, without duplicates.
    pub received: u32,
    /// Round-trip times in milliseconds, in the order of the replies.
    pub rtts_ms: Vec<f64>,
    /// Lines that report an error, such as `Frag needed and DF set (mtu = 1400)`.
    pub errors: Vec<String>,
}

impl Ping {
    /// Ten requests of 56 bytes, 20 ms apart.
    pub fn to(to: impl Into<IpAddr>) -> Self {
        Self { to: to.into(), count: 10, interval: Duration::from_millis(20), size: 56, dont_fragment: false }
    }

    /// Sends them from the namespace and waits for the replies. No reply at all is not an error.
    ///
    /// # Errors
    /// `ping` cannot run or does not understand.
    pub fn run(&self, from: &Namespace) -> Result<PingReport> {
        let mut command = from.command("ping");
        let count = self.count.to_string();
        command.args(["-n", "-O", "-c", &count]);
        if self.interval.is_zero() {
            command.args(["-l", &count, "-i", &LINGER_AFTER_REPLIES.to_string()]);
        } else {
            command.args(["-i", &self.interval.as_secs_f64().to_string()]);
        }
        command.args(["-s", &self.size.to_string(), "-W", &LINGER.to_string()]);
        command.args(["-M", if self.dont_fragment { "do" } else { "dont" }, &self.to.to_string()]);
        let patience = self.interval * self.count + Duration::from_secs(u64::from(LINGER) + 10);
        let output = crate::process::output(command, patience)?;
        // ping ends with 1 where replies are missing, and with 2 for all other faults; but also for a local "message too long".
        let report = PingReport::parse(&output.stdout, &output.stderr);
        if report.sent == 0 {
            bail!("`{}` failed ({}): {}", output.command, output.status, output.stderr);
        }
        Ok(report)
    }
}

impl PingReport {
    /// Share of requests without a reply, 0 to 1.
    pub fn loss(&self) -> f64 {
        1.0 - f64::from(self.received) / f64::from(self.sent)
    }

    /// Median round-trip time in milliseconds; 0 where nothing came back.
    pub fn median_ms(&self) -> f64 {
        let mut sorted = self.rtts_ms.clone();
        sorted.sort_by(f64::total_cmp);
        percentile(&sorted, 0.5)
    }

    fn parse(stdout: &str, stderr: &str) -> Self {
        let number_before = |text: &str| {
            let line = stdout.lines().find(|line| line.contains(" packets transmitted"))?;
            line[..line.find(text)?].split_whitespace().last()?.trim_start_matches('+').parse().ok()
        };
        let rtt_of = |line: &str| line.split_once("time=")?.1.split_whitespace().next()?.parse().ok();
        let is_error = |line: &&str| {
            ["Frag needed", "too big", "too long", "nreachable", "exceeded", "prohibited"]
                .iter()
                .any(|sign| line.contains(sign))
        };
        Self {
            sent: number_before(" packets transmitted").unwrap_or(0),
            received: number_before(" received").unwrap_or(0),
            rtts_ms: stdout.lines().filter(|line| !line.contains("DUP!")).filter_map(rtt_of).collect(),
            errors: stdout.lines().chain(stderr.lines()).filter(is_error).map(str::to_owned).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_errors_and_duplicates_are_told_apart() {
        let text = "64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=22.2 ms\n\
                    64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=23.2 ms (DUP!)\n\
                    From 10.0.0.1 icmp_seq=2 Frag needed and DF set (mtu = 1400)\n\
                    3 packets transmitted, 1 received, +1 duplicates, +1 errors, 66% packet loss, time 2ms\n";
        let report = PingReport::parse(text, "");
        assert_eq!((report.sent, report.received, report.rtts_ms.len(), report.errors.len()), (3, 1, 1, 1));
        assert!((report.median_ms() - 22.2).abs() < 1e-9);
    }
}
