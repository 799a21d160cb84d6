//! One flow over all links: striping, delivery by time, classes, and what happens to flows when links or daemons fail.
//!
//! Everything happens in the lab, with the real `mpvpn` and real packets. How fast it is, `cargo xtask bench aggregate`
//! measures; here it is only told apart whether a thing works. Where a limit leaves less room than a busy machine takes, a
//! test may try again: [`scene::attempts`].

#![expect(clippy::cast_precision_loss, reason = "measurements: counts far below 2^52 become floating-point numbers")]

mod added;
mod classes;
mod daemons;
mod failover;
mod faster;
mod order;
mod scene;
mod sharing;
mod slow;
