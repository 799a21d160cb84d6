//! The data plane of the tunnel: entry points of the eBPF programs.
//!
//! | program | hook | does |
//! | --- | --- | --- |
//! | `steer` | TC egress of `mp0` | chooses the processor that seals; drops what bears the marks of our own frames |
//! | `delivered` | TC ingress of `mp0` | counts what has left the tunnel |
//! | `egress` | TC ingress of `mp0-port` | inner packet, or the daemon's message, sealed, to uplink |
//! | `ingress_tc` | TC ingress of an uplink with Ethernet headers | outer packet, opened, to `mp0`, to the daemon, or answered |
//! | `ingress_tc_raw` | TC ingress of an uplink without link-layer header (PPP, TUN, raw-IP modems) | the same |
//! | `ingress_xdp` | XDP in an uplink's driver | the same for whole inner packets, the rest is left to TC |
//! | `ingress_xdp_generic` | XDP of an uplink in the kernel's stack | drops what must not come in, leaves the rest to TC |
//!
//! The object `aead` (`bench.rs`) has programs that seal and open as these do, for tests; the library is what both
//! share.
#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the macros of the entry points make functions without their docstrings")]
#![expect(clippy::needless_pass_by_value, reason = "the macros of the entry points pass the context by value")]
#![expect(
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "the kernel's helpers take and return lengths, offsets and verdicts as signed numbers; all are below 2^16"
)]

mod arrival;
mod classes;
mod control;
mod drops;
mod egress;
mod hold;
mod ingress_tc;
mod ingress_xdp;
mod join;
mod maps;
mod pacing;
mod path_choice;
mod steering;
mod striping;
mod underlay;

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use multipath_ebpf::{aead, intrinsics, packet, zero_tag};

use crate::drops::Account;

/// To the processor that seals.
#[classifier]
pub fn steer(ctx: TcContext) -> i32 {
    let steered = steering::steer(&ctx);
    drops::tc_verdict::<{ packet::ETHERNET_LEN }>(&ctx, steered, &Account::new(), 0)
}

/// On its way into the inner network: it is out of the tunnel.
#[classifier]
pub fn delivered(ctx: TcContext) -> i32 {
    steering::delivered(&ctx)
}

/// From the inner network to an uplink.
#[classifier]
#[inline(always)]
pub fn egress(ctx: TcContext) -> i32 {
    let mut account = Account::new();
    let forwarded = egress::forward(&ctx, &mut account);
    drops::tc_verdict::<{ packet::ETHERNET_LEN }>(&ctx, forwarded, &account, 0)
}

/// From an uplink with Ethernet headers to the inner network.
#[classifier]
pub fn ingress_tc(ctx: TcContext) -> i32 {
    let mut account = Account::new();
    let received = ingress_tc::receive::<{ packet::ETHERNET_LEN }>(&ctx, &mut account);
    steering::end(&ctx, received, &account);
    drops::tc_verdict::<{ packet::ETHERNET_LEN }>(&ctx, received, &account, steering::noted_uplink(&ctx))
}

/// From an uplink without link-layer header to the inner network.
#[classifier]
pub fn ingress_tc_raw(ctx: TcContext) -> i32 {
    let mut account = Account::new();
    let received = ingress_tc::receive::<0>(&ctx, &mut account);
    drops::tc_verdict::<0>(&ctx, received, &account, 0)
}

/// From an uplink to the inner network, before the kernel makes a socket buffer of the packet.
#[xdp]
pub fn ingress_xdp(ctx: XdpContext) -> u32 {
    let mut account = Account::new();
    let received = ingress_xdp::receive(&ctx, &mut account);
    drops::xdp_verdict(&ctx, received, &account)
}

/// From an uplink whose driver has no XDP: drops what must not come in, before TC delivers the rest.
#[xdp]
pub fn ingress_xdp_generic(ctx: XdpContext) -> u32 {
    let mut account = Account::new();
    let screened = ingress_xdp::screen(&ctx, &mut account);
    drops::xdp_verdict(&ctx, screened, &account)
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers that the programs call are for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
