//! The bond of a peer's paths: the maps by which aggregate flows are striped. Their places in [`crate::maps`]' table:
//!
//! | map | kind | key | value | writer |
//! | --- | --- | --- | --- | --- |
//! | `bonds` | array | peer number | [`Bond`] | daemon |
//! | `bond_members` | array | [`path_slot`](crate::maps::path_slot) | [`BondMember`] | daemon |
//! | `bond_clocks` | array | peer number | [`PathClock`](crate::quality::PathClock) | programs |

use crate::maps::{Shared, shared};

shared! {
    /// Which of a peer's paths aggregate flows use together.
    pub struct Bond {
        /// Bit n is set when path n is a member.
        pub members: u32,
        /// Bit n is set when path n has been measured, so that its delay below means something.
        pub measured: u32,
        /// 1 when it is worth while to send small control packets (DNS, SYN, pure acknowledgements) twice.
        pub is_lossy: u32,
        /// How much longer than by the nearest path fully held packets take, microseconds, as the peer has said last.
        pub spread_us: u32,
    }

    /// How a path takes part in its peer's bond.
    pub struct BondMember {
        /// Rate that packets are striped by, kbit/s of outer IP packets, where `path_operator` and `path_automatic` have none.
        pub rate_kbps: u32,
        /// The least hold that covers its delay, n/255 of D: a packet with a smaller one does not take it.
        pub hold: u32,
        /// How much later than others it is taken, microseconds: it loses packets, and others that lose fewer go first.
        pub penalty_us: u32,
        /// How much longer than by the nearest path packets take by it, microseconds.
        pub delay_us: u32,
        /// Packets that it loses, parts per million: what goes by it goes by another one as well while that is idle.
        pub loss_ppm: u32,
        /// Zero.
        pub reserved: u32,
    }
}
