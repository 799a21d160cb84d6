//! Decisions, sans-IO: what was configured and measured comes in, what to write into the maps comes out.

pub mod keepalive;
pub mod mtu;
pub mod numbering;
pub mod resolve;
pub mod weights;
