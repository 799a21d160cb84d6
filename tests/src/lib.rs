//! The lab: gateways, hosts and links in network namespaces of one machine, with real packets.
//!
//! A [`Lab`] owns everything that an experiment makes and removes it again: when it is dropped, when the test panics, when the
//! process is interrupted, and, after a `SIGKILL`, when the next lab starts. [`Topology`] sets up what most experiments need:
//! two gateways, a host behind each and the links of a [`Profile`] between them. [`Link`] is the emulator of one such link,
//! [`traffic`] makes and measures the packets.
//!
//! Needs root. Nothing is made outside the lab's own namespaces, but for its directory below [`lab::ROOT`].

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "measurements: counts far below 2^52 and times that are never negative become floating-point statistics and back"
)]

pub mod config;
pub mod device;
pub mod gateway;
pub mod interrupt;
pub mod lab;
pub mod link;
pub mod namespace;
pub mod nat;
pub mod patience;
pub mod process;
pub mod profile;
pub mod remains;
pub mod shape;
pub mod topology;
pub mod traffic;

pub use config::TunnelConfig;
pub use device::Kind;
pub use gateway::{Daemon, Gateway};
pub use lab::Lab;
pub use link::{End, Link};
pub use namespace::Namespace;
pub use nat::Nat;
pub use patience::{PATIENCE, eventually};
pub use process::{Output, Process};
pub use profile::{LinkProfile, Profile};
pub use remains::Leftovers;
pub use shape::{Counters, Shape};
pub use topology::{Connection, Family, LinkSpec, Topology};
