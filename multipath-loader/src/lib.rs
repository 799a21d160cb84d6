//! The daemon and command `mpvpn`: configuration, netlink, maps, control.

pub mod cli;
pub mod commands;
pub mod config;
pub mod underlay;
