//! The maps about how good the paths are. Their places in [`crate::maps`]' table:
//!
//! | map | kind | key | value | writer |
//! | --- | --- | --- | --- | --- |
//! | `arrivals` | array | [`path_slot`](crate::maps::path_slot) | [`Arrivals`] | programs |
//! | `path_clocks` | array | [`path_slot`](crate::maps::path_slot) | [`PathClock`] | programs |
//! | `probe_events` | ring buffer | | [`ProbeEvent`] | programs |
//! | `path_quality` | array | [`path_slot`](crate::maps::path_slot) | [`PathQuality`] | daemon |
//! | `path_log` | array | sequence modulo [`PATH_LOG_LEN`] | [`PathLogEntry`] | daemon |
//!
//! A transit time is the receiver's clock at arrival minus the sender's at departure, microseconds, wrapping: the one-way
//! delay plus an unknown that is the same for all paths between the same two gateways (and drifts with their clocks).

use crate::{
    control::REPLY_LEN,
    maps::{NAME_LEN, Shared, bpf_spin_lock, shared},
};

/// Entries of `path_log`.
pub const PATH_LOG_LEN: usize = 1024;
/// Bytes of the ring buffer of `probe_events`: some 2,700 answers.
pub const PROBE_EVENTS_LEN: usize = 262_144;
/// The three spans of time, seconds, over which losses are kept.
pub const LOSS_WINDOWS_S: [u64; 3] = [5, 30, 60];

shared! {
    /// What came over a path from the peer, of the packets that tell how it is ([`tells`](crate::transit::tells)). Counters
    /// are added to atomically; the rest is written by one processor after another, and where two write at the same
    /// time, one of them is lost.
    pub struct Arrivals {
        /// Packets.
        pub packets: u64,
        /// Bytes of outer IP packets.
        pub bytes: u64,
        /// Packets that were sent before one that had come already.
        pub reordered: u64,
        /// Packets that came late: [`crate::transit`] says what that is.
        pub late: u64,
        /// Counter of the last packet.
        pub counter: u64,
        /// Packets that the peer had sent on the path when it sent its last probe.
        pub peer_sent: u64,
        /// `packets` when that probe came.
        pub received_then: u64,
        /// Probes of the peer that were answered: so many of the packets sent are answers.
        pub probes: u64,
        /// Probes of ours that left by the path and whose reply may still come
        /// ([`MAX_AWAITED`](crate::control::MAX_AWAITED)). A reply is taken for one of them alone.
        pub awaited: u64,
        /// Packets to be delivered by time that came; those that went twice not among them.
        pub striped: u64,
        /// Those among them that came after they were due.
        pub overdue: u64,
        /// Those among them that were delivered at once because nothing could hold them.
        pub unheld: u64,
        /// Sender timestamp of the newest packet, microseconds of the peer's clock.
        pub timestamp: u32,
        /// Transit time of the last packet.
        pub transit_us: u32,
        /// Smoothed transit time.
        pub smoothed_us: u32,
        /// Interarrival jitter (RFC 3550 section 6.4.1), microseconds times 16.
        pub jitter_scaled_us: u32,
        /// [`Role`](crate::health::Role) that the peer wants this path to have, by its last probe.
        pub peer_role: u32,
        /// 1 when the peer stripes packets over this path, or is about to, by its last probe.
        pub peer_is_member: u32,
        /// Transit time that about 995 of 1,000 packets that were delivered by time have not exceeded
        /// ([`crate::playout`]); means something once `striped` is not 0.
        pub high_us: u32,
        /// Transit time of the last of those.
        pub striped_us: u32,
        /// Their interarrival jitter, as `jitter_scaled_us`.
        pub striped_jitter_scaled_us: u32,
        /// 1 once a packet has come that is not delivered by time: the fields from `timestamp` to `jitter_scaled_us` mean
        /// something.
        pub is_begun: u32,
    }

    /// The virtual transmit clock of a path, and what it refused: see [`crate::pacing`].
    pub struct PathClock {
        /// When everything that was sent on the path so far will have left it at its rate, nanoseconds of
        /// `CLOCK_BOOTTIME`.
        pub next_free_ns: u64,
        /// When it was last idle, nanoseconds.
        pub busy_since_ns: u64,
        /// Since when the queue has been above its target, nanoseconds; 0: it is not.
        pub above_since_ns: u64,
        /// When the next packet is dropped or marked while the queue stands, nanoseconds; after a warning, until when none is.
        pub drop_next_ns: u64,
        /// Packets that found the queue above its target: the path has more to do than its rate allows.
        pub pressed: u64,
        /// Packets dropped.
        pub dropped: u64,
        /// Packets marked (RFC 3168).
        pub marked: u64,
        /// Drops or marks since the queue began to stand, and those before that it began with.
        pub count: u32,
        /// What `count` was when the queue began to stand.
        pub last_count: u32,
        /// 1 while the queue stands: it has been above its target for an interval, and packets are dropped or marked. 2: it
        /// grows so fast that one packet was, before that.
        pub is_dropping: u32,
        /// Guards all of it.
        pub lock: bpf_spin_lock,
    }

    /// The answer to a probe.
    pub struct ProbeEvent {
        /// Number of the peer.
        pub peer: u32,
        /// [`path_slot`](crate::maps::path_slot) of our path that it came by.
        pub slot: u32,
        /// When the peer sent it, microseconds of its clock, wrapping.
        pub timestamp: u32,
        /// Bytes of the outer IP packet.
        pub len: u32,
        /// When it came, nanoseconds of `CLOCK_BOOTTIME`.
        pub received_ns: u64,
        /// The message: a [`Reply`](crate::control::Reply).
        pub reply: [u8; REPLY_LEN],
    }

    /// What is known of a path. Directions are out (from here to the peer) and in. Parts per million are of packets.
    /// Spans are those of [`LOSS_WINDOWS_S`].
    pub struct PathQuality {
        /// Since when it has its health, nanoseconds of `CLOCK_BOOTTIME`.
        pub since_ns: u64,
        /// When the last answer came, nanoseconds of `CLOCK_BOOTTIME`; 0: never.
        pub answered_ns: u64,
        /// Probes sent.
        pub probes: u64,
        /// Probes without an answer.
        pub unanswered: u64,
        /// Bytes that probes and answers take in a day at the present interval, both directions together.
        pub probe_bytes_per_day: u64,
        /// Bytes counted against the quota of the uplink in the present period.
        pub quota_used_bytes: u64,
        /// The quota, bytes; 0: none.
        pub quota_bytes: u64,
        /// A [`Health`](crate::health::Health).
        pub health: u32,
        /// The [`Reason`](crate::health::Reason) of its last change.
        pub reason: u32,
        /// The [`Role`](crate::health::Role) in force.
        pub role: u32,
        /// 1 when the path carries data now.
        pub is_used: u32,
        /// Probe interval, microseconds.
        pub interval_us: u32,
        /// Within what time a failure is left while the path is idle, microseconds.
        pub failover_us: u32,
        /// Smallest round trip of the last ten minutes, microseconds; 0: none was measured yet.
        pub rtt_min_us: u32,
        /// Smoothed round trip, microseconds (RFC 6298).
        pub rtt_us: u32,
        /// Its mean deviation, microseconds.
        pub rtt_deviation_us: u32,
        /// The last round trip, microseconds.
        pub rtt_last_us: u32,
        /// Relative one-way delay out, microseconds: comparable among the paths of a peer. The sum of both is the round trip.
        pub delay_out_us: i32,
        /// The same in.
        pub delay_in_us: i32,
        /// Jitter out (RFC 3550), microseconds.
        pub jitter_out_us: u32,
        /// Jitter in, microseconds.
        pub jitter_in_us: u32,
        /// Packets lost out.
        pub loss_out_ppm: [u32; 3],
        /// Packets lost in; from what the peer says that it has sent.
        pub loss_in_ppm: [u32; 3],
        /// Packets that came too late out.
        pub late_out_ppm: [u32; 3],
        /// Packets that came too late in.
        pub late_in_ppm: [u32; 3],
        /// Packets out of order out, over the last of the spans.
        pub reordered_out_ppm: u32,
        /// Packets out of order in, over the last of the spans.
        pub reordered_in_ppm: u32,
        /// Delivery rate out of the last second, kbit/s.
        pub delivered_out_kbps: u32,
        /// Delivery rate in of the last second, kbit/s.
        pub delivered_in_kbps: u32,
        /// What the path carries out as far as is known, kbit/s; 0: no limit was met yet.
        pub capacity_out_kbps: u32,
        /// Delay that packets sent here make for one another, microseconds: the queue before the path's bottleneck.
        pub queue_out_us: u32,
        /// Largest outer IP packet that is sent by it, as probes have shown it to pass, bytes; 1280 before they have.
        pub mtu: u32,
        /// How often it went down, or became lossy, in the last ten minutes.
        pub flaps: u32,
    }

    /// A change of a path.
    pub struct PathLogEntry {
        /// Number of the entry, from 1; 0: there is none.
        pub sequence: u64,
        /// When, nanoseconds of `CLOCK_REALTIME`.
        pub at_ns: u64,
        /// [`path_slot`](crate::maps::path_slot) of the path.
        pub slot: u32,
        /// [`Health`](crate::health::Health) before.
        pub from: u32,
        /// [`Health`](crate::health::Health) after.
        pub to: u32,
        /// Its [`Reason`](crate::health::Reason).
        pub reason: u32,
        /// What belongs to the reason: an MTU, bytes; a loss, parts per million; else 0.
        pub detail: u32,
        /// Which endpoint of the peer on the uplink.
        pub endpoint: u32,
        /// Which of the uplink's ports.
        pub flow: u32,
        /// Zero.
        pub reserved: u32,
        /// Name of the uplink.
        pub uplink: [u8; NAME_LEN],
        /// Name of the peer.
        pub peer: [u8; NAME_LEN],
    }
}
