//! Real packets through the real `mpvpn`, over every kind of uplink.
//!
//! Needs root, and the object and `mpvpn` as `cargo xtask build` makes them. Links are perfect, so every packet that is lost,
//! duplicated or changed is the tunnel's fault.

mod doubling;
mod ecn;
mod families;
mod foreign;
mod hostile;
mod journey;
mod mtu;
mod nat;
mod nested;
mod packet;
mod parts;
mod peers;
mod probes;
mod raw_ip;
mod scene;
mod status;
mod tunnels;
mod wire;
