//! The daemon and command `mpvpn`: configuration, netlink, maps, control.
//!
//! Imports point one way: `commands` and `daemon` use everything; `control` and `protocol` are sans-IO and use nothing
//! but `multipath-common`, `config` and `calendar`; only `dataplane` touches aya, only `underlay` touches netlink. The daemon
//! has its loop and, where the kernel has no fq, a second thread: the stage of `playout`.

pub mod calendar;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod observe;
pub mod playout;
pub mod privileges;
pub mod protocol;
pub mod underlay;
