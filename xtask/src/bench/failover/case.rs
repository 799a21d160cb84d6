//! What fails, when, and what is sent meanwhile.

use std::time::Duration;

use anyhow::Result;
use multipath_tests::{End, Family, Link, LinkSpec, Shape};

/// Number of the link that fails.
pub(super) const STRICKEN: usize = 0;
/// One-way delays of the link that fails and of the others, microseconds.
const FAST_US: u64 = 10_000;
const SLOW_US: u64 = 100_000;
/// A packet that took less came over the link that fails, milliseconds.
pub(super) const FAST_BELOW_MS: f64 = (FAST_US + SLOW_US) as f64 / 2e3;
/// Drop-tail queue of each link, bytes.
const QUEUE: u64 = 128 << 10;
/// Packets per second and payload of a call, and what is nearly 10 Mbit/s inside.
const CALL: Stream = Stream { pace: 200, size: 200, link_rate: 10_000_000 };
const TEN_MBIT: Stream = Stream { pace: 1000, size: 1222, link_rate: 20_000_000 };

/// How long the stream runs before something fails, how long that lasts, and how long the stream goes on.
const LEAD: Duration = Duration::from_millis(800);
const HOLE: Duration = Duration::from_millis(1200);
const REST: Duration = Duration::from_millis(1300);
/// How long after the failure an idle tunnel is used.
const IDLE: Duration = Duration::from_millis(350);

/// Which tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// This project's.
    Ours,
    /// `OpenVPN` over Multipath TCP.
    OpenVpnMptcp,
}

/// An experiment.
#[derive(Clone, Debug)]
pub(super) struct Case {
    /// Its name.
    pub(super) name: String,
    /// The tunnel.
    pub(super) kind: Kind,
    /// What fails.
    pub(super) failure: Failure,
    /// Links; number [`STRICKEN`] fails.
    pub(super) links: usize,
    /// Whether the stream is there already when it fails.
    pub(super) is_busy: bool,
    /// All processors are kept busy by others.
    pub(super) is_loaded: bool,
    /// Time with everything whole, time of the failure, and time after it.
    pub(super) phases: [Duration; 3],
    /// What is sent.
    pub(super) stream: Stream,
    /// Labs that may do this at the same time.
    pub(super) at_once: u32,
}

/// A stream of UDP packets, and links that it suits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    /// Packets per second.
    pub(super) pace: u32,
    /// Bytes of UDP payload.
    pub(super) size: u16,
    link_rate: u64,
}

/// What becomes of a link.
#[derive(Clone, Copy, Debug)]
pub(super) enum Failure {
    /// Nothing.
    None,
    /// Nothing passes any more, and nobody says so.
    BlackHole,
    /// The same in the direction that starts here only.
    OneWay(End),
    /// The sender's interface loses its carrier.
    Carrier,
    /// The sender's interface loses its address.
    Address,
    /// A share of the packets is lost, both ways.
    Loss(f64),
}

impl Failure {
    /// Makes it happen.
    pub(super) fn strike(self, link: &Link) -> Result<()> {
        self.set(link, true)
    }

    /// Undoes it.
    pub(super) fn heal(self, link: &Link) -> Result<()> {
        self.set(link, false)
    }

    fn set(self, link: &Link, is_on: bool) -> Result<()> {
        match self {
            Self::None => Ok(()),
            Self::BlackHole => link.set_black_hole(is_on),
            Self::OneWay(from) => link.set_shape(from, Shape { black_hole: is_on, ..link.shape(from)? }),
            Self::Carrier => link.set_carrier(End::A, !is_on),
            Self::Address if is_on => link.remove_addresses(End::A),
            Self::Address => link.restore_addresses(End::A),
            Self::Loss(share) => link.change(|shape| shape.loss = if is_on { share } else { 0.0 }),
        }
    }
}

impl Case {
    /// All of them.
    pub(super) fn all() -> Vec<Self> {
        let mut cases = Self::with_links(2);
        let two = |name: &str, failure| Self::new(name, 2, failure);
        let phases = [LEAD, Duration::from_secs(20), REST];
        cases.push(Self { phases, ..two("no_failure_load", Failure::None).loaded() });
        cases.push(Self { stream: TEN_MBIT, ..two("failover_10mbit", Failure::BlackHole) });
        cases.extend(Self::with_links(4));
        cases.extend(Self::of_peers());
        cases
    }

    /// The one in which others were measured: 3200 packets, and 5 s without the better link.
    fn of_peers() -> Vec<Self> {
        let phases = [4, 5, 7].map(Duration::from_secs);
        let ours = Self { phases, ..Self::new("peer_case", 2, Failure::BlackHole) };
        let theirs = Self { kind: Kind::OpenVpnMptcp, name: "peer_case_openvpn_mptcp".to_owned(), ..ours.clone() };
        vec![ours, theirs]
    }

    fn with_links(links: usize) -> Vec<Self> {
        let case = |name: &str, failure| {
            let name = if links == 2 { name.to_owned() } else { format!("{name}_{links}_paths") };
            Self::new(&name, links, failure)
        };
        let black_hole = |name| case(name, Failure::BlackHole);
        let long_loss = [LEAD, HOLE, Duration::from_millis(4500)];
        let long_hole = [LEAD, Duration::from_secs(3), REST];
        vec![
            black_hole("black_hole_busy"),
            Self { is_busy: false, ..black_hole("black_hole_idle") },
            // The kernel tells of one carrier a second on the whole machine (net/core/link_watch.c).
            Self { at_once: 1, ..case("carrier_loss", Failure::Carrier) },
            case("address_loss", Failure::Address),
            case("one_direction_out", Failure::OneWay(End::A)),
            case("one_direction_back", Failure::OneWay(End::B)),
            Self { phases: long_loss, ..case("loss_onset", Failure::Loss(0.3)) },
            Self { phases: long_hole, ..black_hole("come_back") },
            black_hole("case_load_black_hole_busy").loaded(),
            Self { is_busy: false, ..black_hole("case_load_black_hole_idle").loaded() },
        ]
    }

    fn new(name: &str, links: usize, failure: Failure) -> Self {
        Self {
            name: name.to_owned(),
            kind: Kind::Ours,
            failure,
            links,
            is_busy: true,
            is_loaded: false,
            phases: [LEAD, HOLE, REST],
            stream: CALL,
            at_once: 5,
        }
    }

    /// The same while others want all processors.
    fn loaded(self) -> Self {
        Self { is_loaded: true, ..self }
    }

    /// The links: IPv4 only, so that each is one path.
    pub(super) fn specs(&self) -> Vec<LinkSpec> {
        let spec = |number| {
            let delay_us = if number == STRICKEN { FAST_US } else { SLOW_US };
            let shape = Shape { rate: self.stream.link_rate, delay_us, queue: QUEUE, ..Shape::PERFECT };
            LinkSpec::PERFECT.shaped(shape).family(Family::V4)
        };
        (0..self.links).map(spec).collect()
    }

    /// Whether both need the same lab.
    pub(super) fn shares_lab(&self, other: &Self) -> bool {
        let lab = |case: &Self| (case.kind, case.links, case.stream.link_rate);
        lab(self) == lab(other)
    }

    /// The course of it.
    pub(super) fn times(&self) -> Times {
        let [whole, broken, after] = self.phases;
        let (fails, heals) = (whole, whole + broken);
        let begins = if self.is_busy { Duration::ZERO } else { fails + IDLE };
        Times { fails, heals, begins, lasts: (heals + after).saturating_sub(begins) }
    }
}

/// The course of an experiment: times since its beginning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// The link fails.
    pub(super) fails: Duration,
    /// It is healed.
    pub(super) heals: Duration,
    /// The stream begins.
    pub(super) begins: Duration,
    /// And lasts so long.
    pub(super) lasts: Duration,
}
