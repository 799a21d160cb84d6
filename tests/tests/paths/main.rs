//! What is known of paths, and what is made of it: measurements, failures, roles, rates, MTUs, changes at run time.
//!
//! Everything happens in the lab, with the real `mpvpn` and real packets. Limits are those that the project promises. Where
//! a limit leaves less room than a busy machine takes, a test may try again: [`scene::attempts`].

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "measurements: counts far below 2^52 become floating-point numbers and back"
)]

mod failover;
mod flows;
mod log;
mod losses;
mod mtu;
mod rate;
mod reload;
mod roles;
mod rtt;
mod scene;
mod start;
mod status;
mod steady;
