//! Decisions, sans-IO: what was configured and measured comes in, what to write into the maps comes out.

pub mod bond;
pub mod clock_offset;
pub mod damping;
pub mod delivery;
pub mod demand;
pub mod health;
pub mod lead;
pub mod losses;
pub mod monitor;
pub mod mtu;
pub mod numbering;
pub mod path_mtu;
pub mod playout_delay;
pub mod probes;
pub mod quota;
pub mod rate;
pub mod resolve;
pub mod round_trip;
pub mod selection;
pub mod train;
pub mod transit_floor;
pub mod weights;
