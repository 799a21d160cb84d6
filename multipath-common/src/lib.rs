//! What the eBPF programs and the loader must agree on, and the pure core of the data plane.
//!
//! Everything here is a function over plain values, without I/O, allocation or clock, and is compiled from the
//! same source for BPF and for the host, where it is tested against naive references.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(
    clippy::inline_always,
    reason = "the verifier and the 512 bytes of stack decide what may be a call of its own in a BPF program"
)]

pub mod bond;
pub mod classes;
pub mod classify;
pub mod control;
pub mod crypto;
pub mod drops;
pub mod ecn;
pub mod health;
pub mod inner;
pub mod maps;
pub mod mss;
pub mod outer;
pub mod pacing;
pub mod parts;
pub mod playout;
pub mod quality;
pub mod schedule;
pub mod steering;
pub mod stripe;
pub mod transit;
pub mod window;
pub mod wire;
