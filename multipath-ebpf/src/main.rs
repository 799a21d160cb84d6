//! The data plane of the tunnel: entry points of the eBPF programs.
//!
//! | program | hook | does |
//! | --- | --- | --- |
//! | `egress` | TC ingress of `mp0-port` | inner packet to uplink |
//! | `ingress_tc` | TC ingress of an uplink with Ethernet headers | outer packet to `mp0` |
//! | `ingress_tc_raw` | TC ingress of an uplink without link-layer header (PPP, TUN, raw-IP modems) | the same |
//! | `ingress_xdp` | XDP of an uplink | the same for whole packets, the rest is left to TC |
#![no_std]
#![no_main]
#![expect(internal_features, reason = "a fetching atomic add is only to be had as an intrinsic on this target")]
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

use crate::{arrival::Arrival, drops::Account};

/// From the inner network to an uplink.
#[classifier]
pub fn egress(ctx: TcContext) -> i32 {
    let mut account = Account::new();
    let forwarded = egress::forward(&ctx, &mut account);
    drops::tc_verdict(&ctx, forwarded, &account)
}

/// From an uplink with Ethernet headers to the inner network.
#[classifier]
pub fn ingress_tc(ctx: TcContext) -> i32 {
    let mut arrival = Arrival::new();
    let received = ingress_tc::receive::<{ packet::ETHERNET_LEN }>(&ctx, &mut arrival);
    drops::tc_verdict(&ctx, received, &arrival.account)
}

/// From an uplink without link-layer header to the inner network.
#[classifier]
pub fn ingress_tc_raw(ctx: TcContext) -> i32 {
    let mut arrival = Arrival::new();
    let received = ingress_tc::receive::<0>(&ctx, &mut arrival);
    drops::tc_verdict(&ctx, received, &arrival.account)
}

/// From an uplink to the inner network, before the kernel makes a socket buffer of the packet.
#[xdp]
pub fn ingress_xdp(ctx: XdpContext) -> u32 {
    let mut arrival = Arrival::new();
    let received = ingress_xdp::receive(&ctx, &mut arrival);
    drops::xdp_verdict(&ctx, received, &arrival.account)
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
