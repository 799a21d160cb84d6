//! The figures as tables for people and as one line of JSON for programs.

use std::fmt;

use serde_json::{Map, Value, json};

use super::compare::Contestant;
use super::crypto::Crypto;
use super::peers::OURS;
use super::program_time::Times;
use super::sample::Sample;
use super::scale::Case;

/// All that was measured; parts that were not are empty.
#[derive(Default)]
pub(crate) struct Report {
    /// Share of idle processor time at the start.
    pub(crate) idle: f64,
    /// Times of the programs by length of the inner packets.
    pub(crate) programs: Vec<(u16, Times)>,
    /// The ways under comparison.
    pub(crate) contestants: Vec<Contestant>,
    /// The ciphers alone.
    pub(crate) crypto: Option<Crypto>,
    /// This tunnel and others by name; `None` what this machine does not have.
    pub(crate) peers: Vec<(&'static str, Option<Contestant>)>,
    /// Tunnels of several sizes.
    pub(crate) cases: Vec<Case>,
    /// Peers, and bytes of a gateway's maps.
    pub(crate) memory: Vec<(usize, u64)>,
}

/// Says on standard error what is being measured.
pub(crate) fn progress(repetition: u32, of: u32, what: &str) {
    eprintln!("  .. {repetition}/{of} {what}");
}

impl Times {
    /// Name and net time of each program, nanoseconds.
    fn net(&self) -> [(&'static str, Sample); 3] {
        let [xdp, tc] = [self.empty_xdp.median(), self.empty_tc.median()];
        [
            ("egress", self.egress.less(tc)),
            ("ingress_xdp", self.ingress_xdp.less(xdp)),
            ("ingress_tc", self.ingress_tc.less(tc)),
        ]
    }
}

impl Report {
    /// All figures as one object.
    pub(crate) fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("idle".into(), json!(self.idle));
        for (length, times) in &self.programs {
            let mut add = |name: &str, sample: &Sample| {
                let entry = object.entry(format!("{name}_ns")).or_insert_with(|| json!({}));
                entry[length.to_string()] = sample.json();
            };
            for (name, net) in times.net() {
                add(name, &net);
            }
            // What a veth uplink receives with by default.
            add("ingress", &times.net()[2].1);
            add("empty_xdp", &times.empty_xdp);
            add("empty_tc", &times.empty_tc);
        }
        for contestant in &self.contestants {
            let Contestant { name, tcp_mbps, pps, sent_pps, rtt_us, .. } = contestant;
            for (figure, sample) in [("tcp_mbps", tcp_mbps), ("pps", pps), ("sent_pps", sent_pps), ("rtt_us", rtt_us)] {
                object.entry(figure).or_insert_with(|| json!({}))[*name] = sample.json();
            }
        }
        self.add_crypto(&mut object);
        self.add_peers(&mut object);
        if !self.cases.is_empty() {
            let cases = self.cases.iter().map(|case| {
                json!({
                    "paths": case.paths,
                    "peers": case.peers,
                    "egress_ns": case.egress.json(),
                    "ingress_ns": case.ingress.json(),
                    "up_seconds": case.ready_after.as_secs_f64(),
                })
            });
            object.insert("scale".into(), cases.collect());
            let memory = self.memory.iter().map(|(peers, bytes)| (peers.to_string(), json!(bytes)));
            object.insert("memory_bytes".into(), Value::Object(memory.collect()));
        }
        object.into()
    }

    fn add_crypto(&self, object: &mut Map<String, Value>) {
        let Some(crypto) = &self.crypto else { return };
        for (prefix, lengths) in [("", &crypto.sealed), ("auth_", &crypto.authentic)] {
            for (length, samples) in lengths {
                for (name, sample) in ["seal", "open"].into_iter().zip(samples) {
                    let by_length = object.entry(format!("{prefix}{name}_ns_by_length")).or_insert_with(|| json!({}));
                    by_length[length.to_string()] = sample.json();
                    // The lengths ascend: the last one stays.
                    object.insert(format!("{prefix}{name}_ns"), sample.json());
                }
            }
        }
        object.insert("openssl_mbps".into(), crypto.openssl_mbps.known());
        let [seal, open] = crypto.verified;
        object.insert("verified_instructions".into(), json!({ "seal": seal, "open": open }));
    }

    fn add_peers(&self, object: &mut Map<String, Value>) {
        if self.peers.is_empty() {
            return;
        }
        let figures = |contestant: &Option<Contestant>| {
            let figures = contestant.as_ref()?;
            Some(json!({ "mbps": figures.tcp_mbps.json(), "pps": figures.pps.json(), "rtt_us": figures.rtt_us.json() }))
        };
        let peers = self.peers.iter().map(|(name, contestant)| ((*name).to_owned(), figures(contestant).into()));
        object.insert("peers".into(), Value::Object(peers.collect()));
        let [mbps, pps] = self.ratios();
        object.insert("ratios_to_best_peer".into(), json!({ "mbps": mbps, "pps": pps }));
    }

    /// Throughput and packet rate of this tunnel, each divided by that of the best other one.
    fn ratios(&self) -> [Option<f64>; 2] {
        let measured = || self.peers.iter().filter_map(|(name, contestant)| Some((*name, contestant.as_ref()?)));
        let figures: [fn(&Contestant) -> f64; 2] = [|each| each.tcp_mbps.median(), |each| each.pps.median()];
        figures.map(|figure| {
            let ours = measured().find(|(name, _)| *name == OURS).map(|(_, contestant)| figure(contestant))?;
            let best = measured().filter(|(name, _)| *name != OURS).map(|(_, contestant)| figure(contestant));
            Some((ours / best.reduce(f64::max)? * 100.0).round() / 100.0)
        })
    }

    fn write_peers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nBeside other tunnels, over veth pairs with offloads: median (smallest to largest)")?;
        write_header(f)?;
        for (name, contestant) in &self.peers {
            match contestant {
                Some(contestant) => write_contestant(f, contestant)?,
                None => writeln!(f, "{name:36} not on this machine")?,
            }
        }
        if let [Some(mbps), Some(pps)] = self.ratios() {
            writeln!(f, "ours beside the best of the others: TCP {mbps:.2}, packets {pps:.2}")?;
        }
        Ok(())
    }

    fn write_programs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nTime of a run, ns, less an empty program: median (smallest to largest)")?;
        writeln!(
            f,
            "{:12} {:>24} {:>24} {:>24} {:>14}",
            "inner bytes", "egress", "ingress XDP", "ingress TC", "empty XDP, TC"
        )?;
        for (length, times) in &self.programs {
            write!(f, "{length:<12}")?;
            for (_, net) in times.net() {
                write!(f, " {net:>24.0}")?;
            }
            writeln!(f, " {:>9.0}, {:>3.0}", times.empty_xdp.median(), times.empty_tc.median())?;
        }
        Ok(())
    }

    fn write_contestants(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nMedian (smallest to largest); offloads off where not named")?;
        write_header(f)?;
        for contestant in &self.contestants {
            write_contestant(f, contestant)?;
        }
        let named = |name| self.contestants.iter().find(|contestant| contestant.name == name);
        if let (Some(vxlan), Some(tunnel)) = (named("vxlan"), named("tunnel")) {
            writeln!(
                f,
                "tunnel beside VXLAN: TCP {:.2}, packets {:.2} ({:.2} sent), RTT {:+.1} us",
                tunnel.tcp_mbps.median() / vxlan.tcp_mbps.median(),
                tunnel.pps.median() / vxlan.pps.median(),
                tunnel.sent_pps.median() / vxlan.sent_pps.median(),
                tunnel.rtt_us.median() - vxlan.rtt_us.median(),
            )?;
        }
        Ok(())
    }

    fn write_cases(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nTime of a run, ns, with the taking of it; packets of 64 bytes, 16 flows")?;
        writeln!(f, "{:>6} {:>7} {:>24} {:>24} {:>10}", "paths", "peers", "egress", "ingress", "up after")?;
        for case in &self.cases {
            let Case { paths, peers, egress, ingress, ready_after, .. } = case;
            writeln!(f, "{paths:>6} {peers:>7} {egress:>24.0} {ingress:>24.0} {:>8.2} s", ready_after.as_secs_f64())?;
        }
        writeln!(f, "\nKernel memory of a gateway's maps")?;
        for (peers, bytes) in &self.memory {
            writeln!(f, "{peers:>6} peers {:>8.1} MiB", *bytes as f64 / f64::from(1 << 20))?;
        }
        if let ([(few, low), .., (many, high)], true) = (self.memory.as_slice(), self.memory.len() > 1) {
            let each = (high.saturating_sub(*low)) as f64 / (many - few) as f64;
            writeln!(f, "{each:.0} bytes more for each peer")?;
        }
        Ok(())
    }
}

fn write_crypto(f: &mut fmt::Formatter<'_>, crypto: &Crypto) -> fmt::Result {
    writeln!(f, "\nThe ciphers alone, ns a packet: median (smallest to largest)")?;
    writeln!(f, "{:12} {:>24} {:>24} {:>24} {:>24}", "bytes", "seal", "open", "seal, auth", "open, auth")?;
    for ((length, [seal, open]), (_, [sign, check])) in crypto.sealed.iter().zip(&crypto.authentic) {
        writeln!(f, "{length:<12} {seal:>24.0} {open:>24.0} {sign:>24.0} {check:>24.0}")?;
    }
    if let Some((length, [seal, open])) = crypto.sealed.last() {
        let [seal, open] = [seal, open].map(|sample| f64::from(*length) * 8e3 / sample.median());
        let openssl = crypto.openssl_mbps.median();
        writeln!(f, "one processor at {length} bytes, Mbit/s: seal {seal:.0}, open {open:.0}, OpenSSL {openssl:.0}")?;
    }
    Ok(())
}

fn write_header(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "{:36} {:>24} {:>28} {:>9} {:>20}", "", "TCP Mbit/s", "64-byte packets/s", "sent", "RTT us")
}

fn write_contestant(f: &mut fmt::Formatter<'_>, contestant: &Contestant) -> fmt::Result {
    let Contestant { what, tcp_mbps, pps, sent_pps, rtt_us, .. } = contestant;
    writeln!(f, "{what:36} {tcp_mbps:>24.0} {pps:>28.0} {:>9.0} {rtt_us:>20.1}", sent_pps.median())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:.0} % of the processors idle before the first run", self.idle * 100.0)?;
        if !self.programs.is_empty() {
            self.write_programs(f)?;
        }
        if !self.contestants.is_empty() {
            self.write_contestants(f)?;
        }
        if let Some(crypto) = &self.crypto {
            write_crypto(f, crypto)?;
        }
        if !self.peers.is_empty() {
            self.write_peers(f)?;
        }
        if !self.cases.is_empty() {
            self.write_cases(f)?;
        }
        Ok(())
    }
}
