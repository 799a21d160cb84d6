//! From an uplink to the inner network, before there is a socket buffer: takes whole data packets, leaves the rest to
//! TC.

use core::mem::MaybeUninit;

use aya_ebpf::{
    helpers::{bpf_redirect, bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use multipath_common::{
    drops::DropReason,
    wire::{DataHeader, PacketType, Part, TAG_LEN},
};

use crate::{
    arrival::inspect,
    drops::{Account, Exit},
    ingress_tc::{check_inner, check_source, finish},
    maps::TUNNEL,
    packet::{ETHERNET_LEN, Packet},
};

/// Receives a packet; returns the verdict.
#[inline(always)]
pub fn receive(ctx: &XdpContext, account: &mut Account) -> Result<u32, Exit> {
    let packet = Packet::new(ctx.data(), ctx.data_end());
    let mut place = MaybeUninit::uninit();
    let ifindex = ctx.ingress_ifindex() as u32;
    let arrival = inspect::<ETHERNET_LEN>(packet, packet.len(), ifindex, &mut place, account)?;
    let tunnel = TUNNEL.get(0).ok_or(Exit::Pass)?;
    // Joining needs a store, holding needs a socket buffer, and a redirect drops what is longer than the device's MTU
    // (drivers/net/veth.c, `veth_xdp_xmit`).
    let DataHeader { packet_type, flags, .. } = arrival.header;
    if packet_type != PacketType::Data
        || flags.part != Part::Whole
        || flags.class.is_aggregate()
        || arrival.payload_len > tunnel.mtu
    {
        return Err(Exit::Pass);
    }
    arrival.open::<ETHERNET_LEN>(packet)?;
    let inner = check_inner::<ETHERNET_LEN>(packet, arrival)?;
    arrival.accept()?;
    check_source(arrival, &inner)?;
    arrival.report(ctx);
    let failed = || Exit::Drop(DropReason::DeliveryFailed);
    // SAFETY: the context is valid while the program runs.
    let stripped = unsafe {
        bpf_xdp_adjust_head(ctx.ctx, arrival.payload_offset() as i32) == 0
            && bpf_xdp_adjust_tail(ctx.ctx, -(TAG_LEN as i32)) == 0
    };
    if !stripped {
        return Err(failed());
    }
    finish(Packet::new(ctx.data(), ctx.data_end()), arrival, &inner, tunnel.device_mac).ok_or_else(failed)?;
    // SAFETY: the redirect happens after the program.
    Ok(unsafe { bpf_redirect(tunnel.port_ifindex, 0) } as u32)
}

/// Checks a packet and leaves it to TC, which delivers it.
///
/// Generic XDP must not shorten a packet: the kernel then puts the end of the socket buffer's data as many bytes too
/// far as its link-layer header has (net/core/dev.c, `bpf_prog_run_generic_xdp`), and what TCP appends there later is
/// garbled.
#[inline(always)]
pub fn screen(ctx: &XdpContext, account: &mut Account) -> Result<u32, Exit> {
    let packet = Packet::new(ctx.data(), ctx.data_end());
    let mut place = MaybeUninit::uninit();
    let ifindex = ctx.ingress_ifindex() as u32;
    inspect::<ETHERNET_LEN>(packet, packet.len(), ifindex, &mut place, account)?;
    Err(Exit::Pass)
}
