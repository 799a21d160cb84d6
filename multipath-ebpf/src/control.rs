//! Control messages on their way in: a probe is answered here, a reply and everything else is for the daemon.

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, BPF_RB_NO_WAKEUP, TC_ACT_SHOT},
    helpers::{bpf_redirect, bpf_skb_load_bytes},
    programs::TcContext,
};
use multipath_common::{
    control::{
        CONTROL_MARK_WORDS, ControlMark, MAX_AWAITED, MAX_CONTROL_LEN, PROBE, Probe, REPLY, REPLY_LEN, REPLY_WORDS,
        Reply, kind,
    },
    drops::DropReason,
    maps::{FAMILY_IPV4, MAX_PATHS, path_slot},
};

use crate::{
    arrival::Arrival,
    drops::Exit,
    ingress_tc::strip,
    intrinsics::{fetch_add, length},
    maps::{ARRIVALS, CONTROL_EVENTS, PLAYOUT_STAGE, PLAYOUTS, PROBE_EVENTS, TUNNEL},
    packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet},
    path_choice::usable_for_control,
    steering,
};

/// Receives an opened and accepted message that came behind a link-layer header of `L2` bytes; returns the verdict.
#[inline(always)]
pub fn receive<const L2: usize>(ctx: &TcContext, arrival: &Arrival) -> Result<i32, Exit> {
    const NO_PATH: i32 = -(DropReason::NoPath as i32);
    const CONTROL_LOST: i32 = -(DropReason::ControlLost as i32);
    const UNASKED: i32 = -(DropReason::Unasked as i32);
    match take::<L2>(ctx, arrival) {
        NO_PATH => Err(DropReason::NoPath.into()),
        CONTROL_LOST => Err(DropReason::ControlLost.into()),
        UNASKED => Err(DropReason::Unasked.into()),
        verdict if verdict > 0 => Ok(verdict),
        _ => Err(DropReason::DeliveryFailed.into()),
    }
}

/// The same; the negative number of a reason in place of an error, because a subprogram returns a number.
#[inline(never)]
fn take<const L2: usize>(ctx: &TcContext, arrival: &Arrival) -> i32 {
    let taken = match message_kind::<L2>(ctx, arrival) {
        PROBE => answer::<L2>(ctx, arrival),
        REPLY => hand_over_reply::<L2>(ctx, arrival),
        _ => hand_over::<L2>(ctx, arrival),
    };
    match taken {
        Ok(verdict) => verdict,
        Err(reason) => -(reason as i32),
    }
}

/// The kind of a message that is long enough for a probe or a reply; 0 for any other.
#[inline(always)]
fn message_kind<const L2: usize>(ctx: &TcContext, arrival: &Arrival) -> u8 {
    if arrival.payload_len < REPLY_LEN as u32 {
        return 0;
    }
    let packet = Packet::new(ctx.data(), ctx.data_end());
    packet.words::<1>(L2 + arrival.payload_offset()).map_or(0, |[first]| kind(first))
}

/// Makes the reply out of a probe, and gives it to `egress`, which seals it and sends it back by our path that the
/// probe came by.
#[inline(always)]
fn answer<const L2: usize>(ctx: &TcContext, arrival: &Arrival) -> Result<i32, DropReason> {
    if !arrival.is_attributed() {
        // A later one is answered, when the daemon has found out by which path.
        return Err(DropReason::NoPath);
    }
    let path = usable_for_control(arrival.slot).ok_or(DropReason::NoPath)?;
    let ethertype = if path.family == FAMILY_IPV4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    let packet = Packet::new(ctx.data(), ctx.data_end());
    let offset = L2 + arrival.payload_offset();
    let message = packet.at_variable::<[u32; REPLY_WORDS]>(offset).ok_or(DropReason::DeliveryFailed)?;
    let arrivals = ARRIVALS.get_ptr_mut(arrival.slot).ok_or(DropReason::NoPath)?;
    let own = arrival.slot as usize & (MAX_PATHS - 1);
    let (need_us, spread_us) = match PLAYOUTS.get(arrival.peer) {
        Some(playout) if is_holding(arrival.now) => (playout.need_us[own], playout.spread_us),
        Some(playout) => (playout.need_us[own], 0),
        None => (0, 0),
    };
    // SAFETY: `at_variable` has checked the bounds, the value was just looked up.
    unsafe {
        let probe = Probe::from_words(&*message);
        fetch_add(&raw mut (*arrivals).probes, 1);
        (*arrivals).peer_role = u32::from(probe.role);
        (*arrivals).peer_is_member = u32::from(probe.is_member);
        (*arrivals).peer_sent = probe.sent_packets;
        (*arrivals).received_then = (*arrivals).packets;
        *message = Reply {
            path: arrival.header.path,
            len: arrival.payload_len as u16,
            sequence: probe.sequence,
            sent_us: arrival.header.timestamp,
            reached_us: (arrival.now / 1000) as u32,
            packets: (*arrivals).packets,
            bytes: (*arrivals).bytes,
            counter: (*arrivals).counter,
            reordered: (*arrivals).reordered,
            late: (*arrivals).late,
            smoothed_us: (*arrivals).smoothed_us,
            jitter_us: (*arrivals).jitter_us(),
            need_us,
            spread_us,
        }
        .to_words();
    }
    strip::<L2>(ctx, arrival.payload_offset(), REPLY_LEN as u32)?;
    // By the session that the probe was sealed with, which both have: another one the prober may not have heard of.
    let session = arrival.header.receiver;
    let mark = ControlMark { path: arrival.slot as u8 & (MAX_PATHS as u8 - 1), peer: arrival.peer, session };
    let packet = Packet::new(ctx.data(), ctx.data_end());
    packet.set_words::<CONTROL_MARK_WORDS>(0, mark.to_words()).ok_or(DropReason::DeliveryFailed)?;
    packet.set_ethertype(ethertype).ok_or(DropReason::DeliveryFailed)?;
    steering::turn_back(ctx, arrival.slot);
    let tunnel = TUNNEL.get(0).ok_or(DropReason::DeliveryFailed)?;
    // SAFETY: the redirect happens after the program.
    Ok(unsafe { bpf_redirect(tunnel.port_ifindex, u64::from(BPF_F_INGRESS)) } as i32)
}

/// Whether somebody holds packets that are delivered by time. While nobody does, the peer is told so, and stripes none.
#[inline(always)]
fn is_holding(now: u64) -> bool {
    PLAYOUT_STAGE.get(0).is_some_and(|stage| stage.alive_until_ns > now)
}

/// Notes that a probe leaves by a path.
#[inline(always)]
pub fn await_reply(slot: u32) {
    let Some(arrivals) = ARRIVALS.get_ptr_mut(slot) else { return };
    // SAFETY: just looked up.
    unsafe {
        if (*arrivals).awaited < MAX_AWAITED {
            fetch_add(&raw mut (*arrivals).awaited, 1);
        }
    }
}

/// Takes a reply for the answer to a probe that left by a path, if there is one.
#[inline(always)]
fn is_awaited(slot: u32) -> bool {
    let Some(arrivals) = ARRIVALS.get_ptr_mut(slot) else { return false };
    // SAFETY: just looked up. Where two processors take the last one at a time, one probe is owed: below zero.
    unsafe {
        let is_awaited = (*arrivals).awaited.cast_signed() > 0;
        if is_awaited {
            fetch_add(&raw mut (*arrivals).awaited, u64::MAX);
        }
        is_awaited
    }
}

/// Puts a reply into the daemon's ring, which is read from time to time: it wakes nobody.
#[inline(always)]
fn hand_over_reply<const L2: usize>(ctx: &TcContext, arrival: &Arrival) -> Result<i32, DropReason> {
    let offset = (L2 + arrival.payload_offset()) as u32;
    // Not our path that it came by: the peer may send the answers to several of ours back by one.
    let [first] = Packet::new(ctx.data(), ctx.data_end()).words(offset as usize).ok_or(DropReason::DeliveryFailed)?;
    if !is_awaited(path_slot(arrival.peer, (u32::from_le(first) >> 8) as u8)) {
        return Err(DropReason::Unasked);
    }
    let mut entry = PROBE_EVENTS.reserve(0).ok_or(DropReason::ControlLost)?;
    let event = entry.as_mut_ptr();
    // SAFETY: the entry was just reserved and holds a reply; the context is valid while the program runs.
    let loaded = unsafe {
        (*event).peer = arrival.peer;
        (*event).slot = arrival.slot;
        (*event).timestamp = arrival.header.timestamp;
        (*event).len = arrival.outer.headers_len + arrival.outer.payload_len;
        (*event).received_ns = arrival.now;
        bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, (&raw mut (*event).reply).cast(), REPLY_LEN as u32) == 0
    };
    if loaded {
        entry.submit(u64::from(BPF_RB_NO_WAKEUP));
        Ok(TC_ACT_SHOT)
    } else {
        entry.discard(u64::from(BPF_RB_NO_WAKEUP));
        Err(DropReason::ControlLost)
    }
}

/// Puts a message into the daemon's ring, and wakes it.
#[inline(always)]
fn hand_over<const L2: usize>(ctx: &TcContext, arrival: &Arrival) -> Result<i32, DropReason> {
    let mut entry = CONTROL_EVENTS.reserve(0).ok_or(DropReason::ControlLost)?;
    let event = entry.as_mut_ptr();
    let offset = (L2 + arrival.payload_offset()) as u32;
    let len = if arrival.payload_len < MAX_CONTROL_LEN as u32 { arrival.payload_len } else { MAX_CONTROL_LEN as u32 };
    // SAFETY: the entry was just reserved, and the length is checked against its bytes; the context is valid while the
    // program runs.
    let loaded = unsafe {
        const MOST: u32 = MAX_CONTROL_LEN as u32;
        let bytes = (&raw mut (*event).bytes).cast();
        (*event).peer = arrival.peer;
        (*event).session = arrival.header.receiver;
        (*event).slot = arrival.slot;
        (*event).path = u32::from(arrival.header.path);
        (*event).received_ns = arrival.now;
        (*event).timestamp = arrival.header.timestamp;
        (*event).len = arrival.payload_len;
        len == 0 || bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, bytes, length::<MOST>(len)) == 0
    };
    if loaded {
        entry.submit(0);
        Ok(TC_ACT_SHOT)
    } else {
        entry.discard(0);
        Err(DropReason::ControlLost)
    }
}
