//! The status of a path as data.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use multipath_common::{
    health::{Health, Reason, Role},
    maps::{PATH_DOUBTED, PATH_STANDBY, PATH_UP, Traffic, address_from},
    quality::{Arrivals, PathClock, PathQuality},
};
use serde::Serialize;

use super::{
    bond::{BondRecord, PathBondStatus},
    interface_name,
};
use crate::{
    config::path_name,
    dataplane::{Maps, PathRecord, name_text},
};

/// A path.
#[derive(Debug, Clone, Serialize)]
pub struct PathStatus {
    /// PEER/UPLINK, as [`path_name`] says.
    pub name: String,
    /// Name of the uplink.
    pub uplink: String,
    /// Name of the uplink's interface now; absent while there is no way to the endpoint.
    pub interface: Option<String>,
    /// Path id on the wire.
    pub id: u8,
    /// Key of the path in the maps.
    pub key: u32,
    /// What the programs do with it: `up` (it carries data), `doubted` (it does, and another path carries the same),
    /// `standby` (probes alone) or `down`.
    pub state: &'static str,
    /// How it is: a [`Health`].
    pub health: &'static str,
    /// The [`Reason`] of its health.
    pub reason: &'static str,
    /// Seconds since its health has changed; absent when nothing is known of it.
    pub since_seconds: Option<f64>,
    /// Whether it carries data now.
    pub used: bool,
    /// The role in force, the stricter one of both gateways': `active`, `backup`, `metered` or `down`.
    pub role: &'static str,
    /// The role that was set by hand; absent while it is automatic.
    pub operator_role: Option<&'static str>,
    /// The role that the peer wants; absent when it has said nothing.
    pub peer_role: Option<&'static str>,
    /// The weight in force.
    pub weight: u32,
    /// The operator's weight; absent while it is automatic.
    pub operator_weight: Option<u32>,
    /// This path's part of the weights of the peer's paths that carry data, from 0 to 1.
    pub share: f64,
    /// The rate in force, kbit/s; absent when it is not limited.
    pub rate_kbps: Option<u32>,
    /// The operator's rate, kbit/s; absent while it is automatic.
    pub operator_rate_kbps: Option<u32>,
    /// Source address and port; absent while there is no way to the endpoint.
    pub local: Option<SocketAddr>,
    /// The peer's endpoint.
    pub remote: SocketAddr,
    /// Which of the uplink's source ports it sends from, from 0.
    pub flow: u32,
    /// Whether the endpoint was learned from the peer's packets.
    pub learned: bool,
    /// Largest inner packet that travels whole, bytes; absent while there is no way to the endpoint.
    pub inner_mtu: Option<u32>,
    /// What was measured.
    pub quality: QualityStatus,
    /// From the inner network to the uplink.
    pub egress: TrafficStatus,
    /// From the uplink to the inner network.
    pub ingress: TrafficStatus,
    /// Packets of `egress` that another path carried as well.
    pub doubled_packets: u64,
    /// What its rate did to packets.
    pub pacing: PacingStatus,
    /// What came by it.
    pub arrivals: ArrivalsStatus,
    /// How it takes part in the bond of the peer's paths.
    pub bond: PathBondStatus,
}

/// What was measured of a path. Parts per million are of packets.
#[derive(Debug, Clone, Serialize)]
pub struct QualityStatus {
    /// Smoothed round trip, microseconds; this and the next three are absent before the first one.
    pub rtt_us: Option<u32>,
    /// Smallest one of the last ten minutes, microseconds.
    pub rtt_min_us: Option<u32>,
    /// Mean deviation, microseconds.
    pub rtt_deviation_us: Option<u32>,
    /// The last one, microseconds.
    pub rtt_last_us: Option<u32>,
    /// Seconds since the last probe was answered; absent when none was.
    pub answered_seconds: Option<f64>,
    /// Probes sent.
    pub probes: u64,
    /// Probes without an answer.
    pub unanswered: u64,
    /// Time between probes, microseconds.
    pub interval_us: u32,
    /// Within what time a failure is left while the path is idle, microseconds.
    pub failover_us: u32,
    /// Bytes of probes and answers in a day at the present interval, both directions together.
    pub probe_bytes_per_day: u64,
    /// Bytes counted against the quota in the present period; absent without a quota.
    pub quota_used_bytes: Option<u64>,
    /// The quota, bytes; absent without one.
    pub quota_bytes: Option<u64>,
    /// What it carries out, kbit/s; absent while no limit was met.
    pub capacity_out_kbps: Option<u32>,
    /// How long packets wait before its bottleneck, microseconds.
    pub queue_out_us: u32,
    /// Largest outer packet that is sent by it, as probes have shown it to pass, bytes, 1280 before they have; absent when
    /// nothing is.
    pub mtu_bytes: Option<u32>,
    /// How often it went down, or became lossy, in the last ten minutes.
    pub flaps_10min: u32,
    /// From here to the peer.
    pub out: DirectionStatus,
    /// From the peer to here.
    #[serde(rename = "in")]
    pub inward: DirectionStatus,
}

/// What was measured of one direction of a path, over the last 5, 30 and 60 seconds.
#[derive(Debug, Clone, Serialize)]
pub struct DirectionStatus {
    /// One-way delay, microseconds, comparable among the peer's paths: without a common clock, only the sum of both
    /// directions is absolute. Absent before the first round trip.
    pub delay_us: Option<i32>,
    /// Interarrival jitter (RFC 3550), microseconds.
    pub jitter_us: u32,
    /// Packets lost.
    pub loss_5s_ppm: u32,
    /// Packets lost.
    pub loss_30s_ppm: u32,
    /// Packets lost.
    pub loss_60s_ppm: u32,
    /// Packets that came too late.
    pub late_5s_ppm: u32,
    /// Packets that came too late.
    pub late_30s_ppm: u32,
    /// Packets that came too late.
    pub late_60s_ppm: u32,
    /// Packets that came out of order.
    pub reordered_60s_ppm: u32,
    /// What arrived in the last second, kbit/s.
    pub delivered_kbps: u32,
}

/// One direction of a path.
#[derive(Debug, Clone, Serialize)]
pub struct TrafficStatus {
    /// Packets.
    pub packets: u64,
    /// Bytes of outer IP packets.
    pub bytes: u64,
    /// Seconds since the last packet; absent when there was none.
    pub last_seen_seconds: Option<f64>,
}

/// What a path's rate did to packets.
#[derive(Debug, Clone, Serialize)]
pub struct PacingStatus {
    /// Packets that found the queue above its target.
    pub pressed_packets: u64,
    /// Packets dropped.
    pub dropped_packets: u64,
    /// Packets marked (RFC 3168).
    pub marked_packets: u64,
}

/// What came by a path: data that was sent on it alone, and probes. The last three are of packets that are delivered by
/// time.
#[derive(Debug, Clone, Serialize)]
pub struct ArrivalsStatus {
    /// Packets.
    pub packets: u64,
    /// Bytes of outer IP packets.
    pub bytes: u64,
    /// Packets out of order.
    pub reordered: u64,
    /// Packets that came late.
    pub late: u64,
    /// Packets.
    pub striped: u64,
    /// Packets that came after they were due, and were delivered at once.
    pub overdue: u64,
    /// Packets that were delivered at once because nothing could hold them.
    pub unheld: u64,
}

/// What the statuses of a peer's paths have in common.
struct Common<'a> {
    maps: &'a Maps,
    peer: &'a str,
    bond: &'a BondRecord,
    /// Weights of all paths that carry data.
    weights: u64,
    /// Striped packets that came by all paths.
    striped: u64,
    now_ns: u64,
}

/// The paths to the peer of that number, name and bond.
pub(super) fn paths_of(
    maps: &Maps,
    number: u32,
    peer: &str,
    bond: &BondRecord,
    now_ns: u64,
) -> Result<Vec<PathStatus>> {
    let records = maps.paths_of(number)?;
    let arrivals: Vec<Arrivals> = records.iter().map(|record| maps.arrivals(record.slot())).collect::<Result<_>>()?;
    let weights = records.iter().filter(|record| carries_data(record)).map(|record| u64::from(record.weight())).sum();
    let striped = arrivals.iter().map(|arrivals| arrivals.striped).sum();
    let common = Common { maps, peer, bond, weights, striped, now_ns };
    records.iter().zip(&arrivals).map(|(record, arrivals)| path_status(&common, record, arrivals)).collect()
}

/// Whether the programs send data by the path.
fn carries_data(record: &PathRecord) -> bool {
    matches!(record.path.state, PATH_UP | PATH_DOUBTED) && record.operator.role != Role::Down as u32
}

#[expect(clippy::cast_precision_loss, reason = "16 weights of 32 bits stay far below 2^52")]
fn path_status(common: &Common, record: &PathRecord, arrivals: &Arrivals) -> Result<PathStatus> {
    let &Common { maps, peer, bond, weights, striped, now_ns } = common;
    let (path, slot) = (&record.path, record.slot());
    let quality = maps.quality(slot)?;
    let is_used = carries_data(record);
    let state = match path.state {
        PATH_UP => "up",
        PATH_STANDBY => "standby",
        PATH_DOUBTED => "doubted",
        _ => "down",
    };
    let is_resolved = state != "down";
    let uplink = name_text(path.uplink);
    let said = |role: u32| Role::from_number(role).filter(|role| *role != Role::Automatic);
    let own = said(record.operator.role).or(said(record.automatic.role)).unwrap_or(Role::Active);
    let role = said(arrivals.peer_role).filter(|peers| *peers as u32 > own as u32).unwrap_or(own);
    Ok(PathStatus {
        name: path_name(peer, &uplink, path.endpoint, path.flow),
        uplink,
        interface: is_resolved.then(|| interface_name(path.ifindex)),
        id: record.id,
        key: slot,
        state,
        health: Health::from_number(quality.health).unwrap_or(Health::Unknown).name(),
        reason: Reason::from_number(quality.reason).unwrap_or(Reason::None).name(),
        since_seconds: seconds_since(quality.since_ns, now_ns),
        used: is_used,
        role: role.name(),
        operator_role: said(record.operator.role).map(Role::name),
        peer_role: said(arrivals.peer_role).map(Role::name),
        weight: record.weight(),
        operator_weight: known(record.operator.weight),
        share: if is_used && weights != 0 { f64::from(record.weight()) / weights as f64 } else { 0.0 },
        rate_kbps: known(record.rate_kbps()),
        operator_rate_kbps: known(record.operator.rate_kbps),
        local: is_resolved.then(|| SocketAddr::new(address_from(path.local), path.local_port)),
        remote: SocketAddr::new(address_from(path.remote), path.remote_port),
        flow: path.flow,
        learned: path.learned != 0,
        inner_mtu: is_resolved.then_some(path.inner_mtu),
        quality: quality_status(&quality, now_ns),
        egress: traffic_status(&record.stats.egress, now_ns),
        ingress: traffic_status(&record.stats.ingress, now_ns),
        doubled_packets: record.stats.doubled,
        pacing: pacing_status(&maps.path_clock(slot)?),
        arrivals: arrivals_status(arrivals),
        bond: bond.path_status(record.id, arrivals, striped),
    })
}

fn quality_status(quality: &PathQuality, now_ns: u64) -> QualityStatus {
    let has_rtt = quality.rtt_min_us != 0;
    QualityStatus {
        rtt_us: has_rtt.then_some(quality.rtt_us),
        rtt_min_us: has_rtt.then_some(quality.rtt_min_us),
        rtt_deviation_us: has_rtt.then_some(quality.rtt_deviation_us),
        rtt_last_us: has_rtt.then_some(quality.rtt_last_us),
        answered_seconds: seconds_since(quality.answered_ns, now_ns),
        probes: quality.probes,
        unanswered: quality.unanswered,
        interval_us: quality.interval_us,
        failover_us: quality.failover_us,
        probe_bytes_per_day: quality.probe_bytes_per_day,
        quota_used_bytes: (quality.quota_bytes != 0).then_some(quality.quota_used_bytes),
        quota_bytes: Some(quality.quota_bytes).filter(|bytes| *bytes != 0),
        capacity_out_kbps: known(quality.capacity_out_kbps),
        queue_out_us: quality.queue_out_us,
        mtu_bytes: known(quality.mtu),
        flaps_10min: quality.flaps,
        out: DirectionStatus {
            delay_us: has_rtt.then_some(quality.delay_out_us),
            jitter_us: quality.jitter_out_us,
            loss_5s_ppm: quality.loss_out_ppm[0],
            loss_30s_ppm: quality.loss_out_ppm[1],
            loss_60s_ppm: quality.loss_out_ppm[2],
            late_5s_ppm: quality.late_out_ppm[0],
            late_30s_ppm: quality.late_out_ppm[1],
            late_60s_ppm: quality.late_out_ppm[2],
            reordered_60s_ppm: quality.reordered_out_ppm,
            delivered_kbps: quality.delivered_out_kbps,
        },
        inward: DirectionStatus {
            delay_us: has_rtt.then_some(quality.delay_in_us),
            jitter_us: quality.jitter_in_us,
            loss_5s_ppm: quality.loss_in_ppm[0],
            loss_30s_ppm: quality.loss_in_ppm[1],
            loss_60s_ppm: quality.loss_in_ppm[2],
            late_5s_ppm: quality.late_in_ppm[0],
            late_30s_ppm: quality.late_in_ppm[1],
            late_60s_ppm: quality.late_in_ppm[2],
            reordered_60s_ppm: quality.reordered_in_ppm,
            delivered_kbps: quality.delivered_in_kbps,
        },
    }
}

fn traffic_status(traffic: &Traffic, now_ns: u64) -> TrafficStatus {
    TrafficStatus {
        packets: traffic.packets,
        bytes: traffic.bytes,
        last_seen_seconds: seconds_since(traffic.last_seen_ns, now_ns),
    }
}

fn pacing_status(clock: &PathClock) -> PacingStatus {
    PacingStatus { pressed_packets: clock.pressed, dropped_packets: clock.dropped, marked_packets: clock.marked }
}

fn arrivals_status(arrivals: &Arrivals) -> ArrivalsStatus {
    ArrivalsStatus {
        packets: arrivals.packets,
        bytes: arrivals.bytes,
        reordered: arrivals.reordered,
        late: arrivals.late,
        striped: arrivals.striped,
        overdue: arrivals.overdue,
        unheld: arrivals.unheld,
    }
}

/// Seconds since a moment of the programs' clock; `None` for 0, which is never.
fn seconds_since(then_ns: u64, now_ns: u64) -> Option<f64> {
    (then_ns != 0).then(|| Duration::from_nanos(now_ns.saturating_sub(then_ns)).as_secs_f64())
}

/// A value of the maps of which 0 says that there is none.
fn known(value: u32) -> Option<u32> {
    Some(value).filter(|value| *value != 0)
}
