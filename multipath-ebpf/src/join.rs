//! Two parts of an inner packet become one.
//!
//! The part that comes first waits in `part_store` under the counter of the first part. Both may come at once on two
//! CPUs: each tries to insert, the map lets one of them, and the other one finds it and joins.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_map_update_elem, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes},
    programs::TcContext,
};
use multipath_common::{
    ecn::ECN_MASK,
    maps::{MAX_PART_LEN, PartKey, StoredPart},
    wire::Part,
};

use crate::{
    arrival::Arrival,
    intrinsics::length,
    maps::{PART_SCRATCH, PART_STORE},
    packet::ETHERNET_LEN,
};

/// The other part has not come yet.
pub const WAITING: i32 = 0;
/// The parts do not fit each other, or the kernel refused.
const FAILED: i32 = -1;

/// Bytes of the longest part.
const MOST: u32 = MAX_PART_LEN as u32;

/// Set in what [`join`] returns when the other part had met congestion.
pub const CONGESTION: u32 = 1 << 16;

/// Joins the part that follows the packet's Ethernet header with the other one. Returns the length of the inner
/// packet, which then follows the Ethernet header, with [`CONGESTION`]; or [`WAITING`], or a negative number.
#[inline(never)]
pub fn join(ctx: &TcContext, arrival: &Arrival) -> i32 {
    let (session, counter, len) = (arrival.header.receiver, arrival.header.counter, arrival.payload_len);
    let part = arrival.header.flags.part as u32;
    let second = part == Part::Second as u32;
    let key = PartKey { counter: if second { counter.wrapping_sub(1) } else { counter }, session, reserved: 0 };
    let Some(own) = PART_SCRATCH.get_ptr_mut(0) else {
        return FAILED;
    };
    if len == 0 || len > MAX_PART_LEN as u32 {
        return FAILED;
    }
    let skb = ctx.skb.skb;
    // SAFETY: the scratch is this CPU's own, the length is checked against it, and the context is valid while the
    // program runs.
    let inserted = unsafe {
        (*own).part = part;
        (*own).len = len;
        (*own).tos = u32::from(arrival.outer.tos);
        if bpf_skb_load_bytes(skb.cast(), ETHERNET_LEN as u32, (&raw mut (*own).bytes).cast(), length::<MOST>(len)) != 0
        {
            return FAILED;
        }
        bpf_map_update_elem(
            (&raw const PART_STORE).cast_mut().cast(),
            (&raw const key).cast_mut().cast(),
            own.cast(),
            u64::from(BPF_NOEXIST),
        )
    };
    if inserted == 0 {
        return WAITING;
    }
    let Some(other) = PART_STORE.get_ptr_mut(key) else {
        return FAILED;
    };
    // SAFETY: both pointers were just looked up.
    let joined = unsafe { append(ctx, own, other, second, len) };
    // Counters never come again: whatever became of it, nobody will ask for the entry.
    let _ = PART_STORE.remove(key);
    joined
}

/// Puts the stored part before or behind our own.
///
/// # Safety
/// Both pointers were just looked up.
#[inline(always)]
unsafe fn append(ctx: &TcContext, own: *mut StoredPart, other: *mut StoredPart, second: bool, len: u32) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: by the caller; lengths are checked against the buffers.
    unsafe {
        let other_len = (*other).len;
        if other_len == 0 || other_len > MAX_PART_LEN as u32 || (*other).part == (*own).part {
            return FAILED;
        }
        let total = len + other_len;
        if bpf_skb_change_tail(skb, ETHERNET_LEN as u32 + total, 0) != 0 {
            return FAILED;
        }
        let (front, front_len, back, back_len) =
            if second { (other, other_len, own, len) } else { (own, len, other, other_len) };
        if bpf_skb_store_bytes(
            skb,
            ETHERNET_LEN as u32,
            (&raw const (*front).bytes).cast(),
            length::<MOST>(front_len),
            0,
        ) != 0
            || bpf_skb_store_bytes(
                skb,
                ETHERNET_LEN as u32 + front_len,
                (&raw const (*back).bytes).cast(),
                length::<MOST>(back_len),
                0,
            ) != 0
        {
            return FAILED;
        }
        // RFC 3168 section 5.3: what has met congestion in part has met it.
        let congestion = if (*other).tos as u8 & ECN_MASK == ECN_MASK { CONGESTION } else { 0 };
        (total | congestion) as i32
    }
}
