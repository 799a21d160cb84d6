//! Link profiles: what the links of an experiment are like, read from `tests/profiles.toml` or a file like it.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::shape::Shape;

/// Drop-tail queue of links that are given without one, KiB.
pub const QUEUE: f64 = 1500.0;

const PROFILES: &str = include_str!("../profiles.toml");

/// A named set of links.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Name, unique in its file.
    pub name: String,
    /// The links, in the order of the gateways' uplinks.
    pub links: Vec<LinkProfile>,
    /// Goodput in Mbit/s that was published for the better single link.
    pub published_single: Option<f64>,
    /// Goodput in Mbit/s that was published for an aggregating scheduler.
    pub published_wlb: Option<f64>,
    /// Goodput in Mbit/s that was published for a minimum-RTT scheduler.
    pub published_minrtt: Option<f64>,
}

/// One link, the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkProfile {
    /// Mbit/s of IP packets.
    pub rate: f64,
    /// One-way delay in milliseconds.
    pub delay: f64,
    /// Standard deviation of the delay in milliseconds.
    #[serde(default)]
    pub jitter: f64,
    /// Percent of packets lost.
    #[serde(default)]
    pub loss: f64,
    /// Drop-tail queue in KiB.
    pub queue: f64,
}

#[derive(Deserialize)]
struct ProfileFile {
    profile: Vec<Profile>,
}

impl Profile {
    /// All profiles that the project has.
    pub fn all() -> Result<Vec<Self>> {
        Self::parse(PROFILES).context("tests/profiles.toml")
    }

    /// The project's profile with that name.
    ///
    /// # Errors
    /// There is none; the error lists those there are.
    pub fn named(name: &str) -> Result<Self> {
        Self::find(Self::all()?, name)
    }

    /// The profile with that name in a file of the same format.
    pub fn from_file(path: &Path, name: &str) -> Result<Self> {
        Self::all_in(path).and_then(|profiles| Self::find(profiles, name)).with_context(|| path.display().to_string())
    }

    /// All profiles of a file of the same format.
    pub fn all_in(path: &Path) -> Result<Vec<Self>> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// A profile called `text`, of links separated by commas. Each is `RATE/DELAY[/JITTER[/LOSS]]` in Mbit/s, milliseconds one
    /// way, milliseconds and percent, with a drop-tail queue of [`QUEUE`] KiB: `10/10,10/100/5/0.1`.
    ///
    /// # Errors
    /// A link has another form, or a number makes no sense.
    pub fn from_links(text: &str) -> Result<Self> {
        let links = text.split(',').map(|link| LinkProfile::parse(link).with_context(|| format!("link `{link}`")));
        let links = links.collect::<Result<_>>()?;
        Ok(Self { name: text.to_owned(), links, published_single: None, published_wlb: None, published_minrtt: None })
    }

    /// The sum of the links' rates in Mbit/s.
    pub fn sum_mbps(&self) -> f64 {
        self.links.iter().map(|link| link.rate).sum()
    }

    fn parse(text: &str) -> Result<Vec<Self>> {
        Ok(toml::from_str::<ProfileFile>(text)?.profile)
    }

    fn find(profiles: Vec<Self>, name: &str) -> Result<Self> {
        let names = profiles.iter().map(|profile| profile.name.as_str()).collect::<Vec<_>>().join(", ");
        profiles
            .into_iter()
            .find(|profile| profile.name == name)
            .with_context(|| format!("there is no profile {name}, only {names}"))
    }
}

impl LinkProfile {
    fn parse(text: &str) -> Result<Self> {
        let numbers: Vec<f64> = text.split('/').map(|number| number.trim().parse()).collect::<Result<_, _>>()?;
        let (rate, delay, jitter, loss) = match numbers[..] {
            [rate, delay] => (rate, delay, 0.0, 0.0),
            [rate, delay, jitter] => (rate, delay, jitter, 0.0),
            [rate, delay, jitter, loss] => (rate, delay, jitter, loss),
            _ => bail!("a link is RATE/DELAY[/JITTER[/LOSS]]"),
        };
        let is_time = |ms: f64| (0.0..=10_000.0).contains(&ms);
        ensure!((0.01..=100_000.0).contains(&rate), "a rate is 0.01 to 100000 Mbit/s");
        ensure!(is_time(delay) && is_time(jitter), "delay and jitter are 0 to 10000 ms");
        ensure!((0.0..100.0).contains(&loss), "loss is 0 to less than 100 percent");
        Ok(Self { rate, delay, jitter, loss, queue: QUEUE })
    }

    /// One direction of the link for the emulator.
    pub fn shape(&self) -> Shape {
        Shape {
            rate: (self.rate * 1e6) as u64,
            delay_us: (self.delay * 1e3) as u64,
            jitter_us: (self.jitter * 1e3) as u64,
            loss: self.loss / 100.0,
            queue: (self.queue * 1024.0) as u64,
            ..Shape::PERFECT
        }
    }

    /// Mbit/s of TCP payload that the link carries at most through a tunnel over it.
    ///
    /// A full inner packet has `inner_mtu` bytes, of which `inner_headers` are IP and TCP headers (IPv4 with timestamps:
    /// 20 + 20 + 12 = 52). On the link it is `overhead` bytes longer (outer IP + UDP + header + tag: 64 over IPv4, 84 over IPv6), and the link
    /// counts IP bytes. So the payload is `rate * (inner_mtu - inner_headers) / (inner_mtu + overhead)`, and what is lost is
    /// sent again: times `1 - loss`. Without a tunnel the overhead is 0 and the inner MTU is the link's.
    pub fn payload_mbps(&self, inner_mtu: u32, inner_headers: u32, overhead: u32) -> f64 {
        let payload = f64::from(inner_mtu.saturating_sub(inner_headers));
        self.rate * payload / f64::from(inner_mtu + overhead) * (1.0 - self.loss / 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_read_with_their_defaults() {
        let profile = Profile::named("ref_wifi_3g_ethernet").unwrap();
        assert_eq!(profile.links[0], LinkProfile { rate: 8.0, delay: 5.0, jitter: 3.0, loss: 0.2, queue: 128.0 });
        assert_eq!((profile.links[2].jitter, profile.links[2].loss), (0.0, 0.0));
        assert!((profile.sum_mbps() - 21.0).abs() < 1e-9);
    }

    #[test]
    fn an_unknown_profile_is_answered_with_the_known_ones() {
        let error = Profile::named("nope").unwrap_err().to_string();
        assert!(error.contains("baseline"), "{error}");
    }

    #[test]
    fn links_are_read_from_one_line() {
        let profile = Profile::from_links("10/10,8/5.5/3/0.2").unwrap();
        let link = LinkProfile { rate: 8.0, delay: 5.5, jitter: 3.0, loss: 0.2, queue: QUEUE };
        assert_eq!((profile.links[0].delay, profile.links[1]), (10.0, link));
        for wrong in ["", "10", "10/a", "0/1", "1/-1", "1/1/1/100", "1/1/1/1/1", "NaN/1", "1/1,"] {
            assert!(Profile::from_links(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn payload_is_what_headers_and_loss_leave() {
        let link = LinkProfile { rate: 10.0, delay: 1.0, jitter: 0.0, loss: 0.0, queue: 64.0 };
        assert!((link.payload_mbps(1436, 52, 64) - 10.0 * 1384.0 / 1500.0).abs() < 1e-9);
    }
}
