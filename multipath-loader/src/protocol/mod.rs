//! What two gateways must agree on beyond the wire format, sans-IO: time, keys and packets come in as arguments.
//!
//! [`Handshakes`] makes the sessions. Its parts: [`message`] is the layout, `noise` the key exchange (over snow, with
//! the `primitives`), `cookie` and `rate_limit` keep strangers cheap, `sessions` is what a peer's four slots hold,
//! `peer` what is known of a peer.

mod action;
mod answered;
mod cookie;
mod handshakes;
pub mod message;
mod noise;
mod peer;
mod primitives;
mod rate_limit;
mod sessions;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod timers;

pub use self::{
    action::{Action, Adopted, HandshakeStatus, Identity, NewSession, Random, Trouble},
    handshakes::Handshakes,
    timers::Timers,
};
