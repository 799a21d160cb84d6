//! The data plane of the tunnel: entry points of the eBPF programs.
//!
//! | program | hook | does |
//! | --- | --- | --- |
//! | `egress` | TC ingress of `mp0-port` | inner packet to uplink |
//! | `ingress_tc` | TC ingress of an uplink with Ethernet headers | outer packet to `mp0` |
//! | `ingress_tc_raw` | TC ingress of an uplink without link-layer header (PPP, TUN, raw-IP modems) | the same |
//! | `ingress_xdp` | XDP in an uplink's driver | the same for whole packets, the rest is left to TC |
//! | `ingress_xdp_generic` | XDP of an uplink in the kernel's stack | drops what must not come in, the rest is left to TC |
#![no_std]
#![no_main]
#![expect(internal_features, reason = "a fetching atomic add is only to be had as an intrinsic on this target")]
#![expect(missing_docs, reason = "the macros of the entry points make functions without their docstrings")]
#![expect(clippy::needless_pass_by_value, reason = "the macros of the entry points pass the context by value")]
#![expect(
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "the kernel's helpers take and return lengths, offsets and verdicts as signed numbers; all are below 2^16"
)]
#![feature(asm_experimental_arch, core_intrinsics)]

mod arrival;
mod drops;
mod egress;
mod ingress_tc;
mod ingress_xdp;
mod intrinsics;
mod join;
mod maps;
mod packet;
mod path_choice;
mod underlay;

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

use crate::drops::Account;

/// From the inner network to an uplink.
#[classifier]
pub fn egress(ctx: TcContext) -> i32 {
    let mut account = Account::new();
    let forwarded = egress::forward(&ctx, &mut account);
    drops::tc_verdict::<{ packet::ETHERNET_LEN }>(&ctx, forwarded, &account)
}

/// From an uplink with Ethernet headers to the inner network.
#[classifier]
pub fn ingress_tc(ctx: TcContext) -> i32 {
    let mut account = Account::new();
    let received = ingress_tc::receive::<{ packet::ETHERNET_LEN }>(&ctx, &mut account);
    drops::tc_verdict::<{ packet::ETHERNET_LEN }>(&ctx, received, &account)
}

/// From an uplink without link-layer header to the inner network.
#[classifier]
pub fn ingress_tc_raw(ctx: TcContext) -> i32 {
    let mut account = Account::new();
    let received = ingress_tc::receive::<0>(&ctx, &mut account);
    drops::tc_verdict::<0>(&ctx, received, &account)
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
