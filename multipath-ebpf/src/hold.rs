//! Packets that are delivered by time, on their way to what holds them until then.

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, TC_ACT_SHOT},
    helpers::{
        bpf_ktime_get_boot_ns, bpf_ktime_get_ns, bpf_redirect, bpf_ringbuf_output, bpf_skb_load_bytes,
        bpf_skb_set_tstamp,
    },
    programs::TcContext,
};
use multipath_common::playout::{HeldHeader, LATE_US, MAX_HELD_LEN, MAX_WAIT_US, STAGE_FQ, STAGE_LOADER};

use crate::{
    arrival::Arrival,
    intrinsics::{fetch_add, opaque},
    maps::{ARRIVALS, HELD, HELD_SCRATCH, PLAYOUT_STAGE, PLAYOUTS, TUNNEL},
    packet::ETHERNET_LEN,
    steering,
};

/// Type of a time at which a packet leaves, of `CLOCK_MONOTONIC` (linux/bpf.h, `BPF_SKB_TSTAMP_DELIVERY_MONO`).
const DELIVERY_MONO: u32 = 1;

/// What [`hold`] returns when a packet is not held.
pub const AT_ONCE: i32 = -1;

/// Has an inner packet held until it is due, that follows an Ethernet header to `mp0`. Returns the verdict, or
/// [`AT_ONCE`]: it is late, or nothing can hold it.
#[inline(never)]
pub fn hold(ctx: &TcContext, arrival: &Arrival) -> i32 {
    let (Some(playout), Some(stage), Some(tunnel)) = (PLAYOUTS.get(arrival.peer), PLAYOUT_STAGE.get(0), TUNNEL.get(0))
    else {
        return AT_ONCE;
    };
    let now_us = arrival.now / 1000;
    let wait_us = playout.wait_us(arrival.header.timestamp, u32::from(arrival.header.flags.hold), now_us as u32);
    let is_known = playout.spread_us != 0 && wait_us <= MAX_WAIT_US;
    let is_overdue = is_known && wait_us <= -LATE_US;
    let is_alive = stage.alive_until_ns > arrival.now;
    // `mp0-port` takes nothing longer than that (net/core/dev.c, `__is_skb_forwardable`).
    let fits = ctx.len() - ETHERNET_LEN as u32 <= tunnel.mtu;
    if is_known && !is_overdue && is_alive && fits {
        let held = match stage.kind {
            STAGE_LOADER => to_loader(ctx, arrival, stage.is_asleep != 0),
            STAGE_FQ => {
                to_fq(ctx, arrival.slot, tunnel.port_ifindex, now_us.wrapping_add_signed(i64::from(wait_us)) * 1000)
            }
            _ => AT_ONCE,
        };
        if held != AT_ONCE {
            return held;
        }
    }
    if !arrival.header.flags.class.is_doubled()
        && arrival.is_attributed()
        && let Some(arrivals) = ARRIVALS.get_ptr_mut(arrival.slot)
    {
        // SAFETY: just looked up.
        unsafe { fetch_add(if is_overdue { &raw mut (*arrivals).overdue } else { &raw mut (*arrivals).unheld }, 1) };
    }
    AT_ONCE
}

/// Puts the packet into the ring of the loader's stage, which looks there by itself unless it is asleep.
#[inline(always)]
fn to_loader(ctx: &TcContext, arrival: &Arrival, is_asleep: bool) -> i32 {
    let Some(scratch) = HELD_SCRATCH.get_ptr_mut(0) else {
        return AT_ONCE;
    };
    // The verifier of Linux 6.1 takes no comparison with zero for a bound.
    let beyond = opaque(u64::from(ctx.len() - ETHERNET_LEN as u32).wrapping_sub(1));
    if beyond >= MAX_HELD_LEN as u64 {
        return AT_ONCE;
    }
    let len = beyond + 1;
    let flags = if is_asleep { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    // SAFETY: the scratch is this CPU's own, the length is checked against it, and the context is valid while the
    // program runs.
    let put = unsafe {
        (*scratch).header = HeldHeader {
            peer: arrival.peer,
            timestamp: arrival.header.timestamp,
            hold: u32::from(arrival.header.flags.hold),
            len: len as u32,
        };
        let bytes = (&raw mut (*scratch).bytes).cast();
        bpf_skb_load_bytes(ctx.skb.skb.cast(), ETHERNET_LEN as u32, bytes, len as u32) == 0
            && bpf_ringbuf_output(
                (&raw const HELD).cast_mut().cast(),
                scratch.cast(),
                len + size_of::<HeldHeader>() as u64,
                u64::from(flags),
            ) == 0
    };
    if put { TC_ACT_SHOT } else { AT_ONCE }
}

/// Sends the packet through the queueing discipline of `mp0-port`, from where it comes to `mp0` at `due_ns` of
/// `CLOCK_BOOTTIME`.
#[inline(always)]
fn to_fq(ctx: &TcContext, path_slot: u32, port_ifindex: u32, due_ns: u64) -> i32 {
    // fq goes by CLOCK_MONOTONIC. The difference of both clocks is the same for all packets, so that their order stays.
    // SAFETY: no arguments; the context is valid while the program runs, and the redirect happens after it.
    unsafe {
        let due = due_ns.wrapping_sub(bpf_ktime_get_boot_ns()).wrapping_add(bpf_ktime_get_ns());
        if bpf_skb_set_tstamp(ctx.skb.skb, due, DELIVERY_MONO) != 0 {
            return AT_ONCE;
        }
        steering::leave(ctx, path_slot);
        bpf_redirect(port_ifindex, 0) as i32
    }
}
