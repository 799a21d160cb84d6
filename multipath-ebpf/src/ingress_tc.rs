//! From an uplink to the inner network, on a socket buffer: takes every packet of the tunnel.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, TC_ACT_SHOT, bpf_adj_room_mode},
    helpers::{bpf_redirect, bpf_skb_change_head, bpf_skb_change_tail},
    programs::TcContext,
};
use multipath_common::{
    drops::DropReason,
    ecn,
    inner::{self, Inner},
    maps::MAX_PART_LEN,
    outer::IPV6_UDP_WORDS,
    schedule::flow_hash,
    wire::{HEADER_LEN, IPV6_HEADER_LEN, PacketType, Part, TAG_LEN},
};

use crate::{
    arrival::{Arrival, inspect},
    control,
    drops::{Account, Exit},
    hold, join,
    maps::TUNNEL,
    packet::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet},
    path_choice, steering,
};

/// Bytes of the longest headers of a packet of the tunnel: IPv6, UDP and our own.
const LONGEST_HEADERS: u32 = (IPV6_UDP_WORDS * 4 + HEADER_LEN) as u32;

/// Receives a packet whose link-layer header has `L2` bytes; returns the verdict.
#[inline(always)]
pub fn receive<const L2: usize>(ctx: &TcContext, account: &mut Account) -> Result<i32, Exit> {
    steering::note_uplink(ctx, 0);
    steering::note_counted(ctx, false);
    steering::note_flow(ctx, 0);
    // SAFETY: the context is valid while the program runs.
    if unsafe { (*ctx.skb.skb).vlan_present } != 0 {
        // The kernel took the tag off; the packet is for a VLAN interface on this one, which may be an uplink itself.
        return Err(Exit::Pass);
    }
    let packet = Packet::headers(ctx, L2 as u32 + LONGEST_HEADERS);
    let ifindex = came_by::<L2>(ctx, packet)?;
    let mut place = MaybeUninit::uninit();
    let arrival = inspect::<L2>(packet, ctx.len(), ifindex, &mut place, account)?;
    if L2 == ETHERNET_LEN && steering::noted_uplink(ctx) == 0 {
        match steering::hand_over(ctx, arrival.slot, arrival.now) {
            steering::NOT_SPREAD => {}
            steering::STAYS => steering::note_counted(ctx, true),
            verdict => return Ok(verdict),
        }
    }
    let packet = Packet::linear(ctx).ok_or(DropReason::DeliveryFailed)?;
    arrival.open::<L2>(packet)?;
    if arrival.header.packet_type == PacketType::Control {
        arrival.accept()?;
        arrival.report(ctx);
        return control::receive::<L2>(ctx, arrival);
    }
    if arrival.header.flags.part != Part::Whole {
        return receive_part::<L2>(ctx, arrival);
    }
    let inner = check_inner::<L2>(packet, arrival)?;
    arrival.accept()?;
    check_source(arrival, &inner)?;
    steering::note_flow(ctx, flow_hash(&inner.key) as u32);
    arrival.report(ctx);
    strip::<L2>(ctx, arrival.payload_offset(), arrival.payload_len)?;
    deliver(ctx, arrival, &inner)
}

/// The uplink that a packet came by; notes whether another processor has handed it over on `mp0-port`.
#[inline(always)]
fn came_by<const L2: usize>(ctx: &TcContext, packet: Packet) -> Result<u32, Exit> {
    // SAFETY: the context is valid while the program runs. Volatile: the verifier takes no pointer into the context
    // that was chosen by a condition.
    let ifindex = unsafe { core::ptr::read_volatile(&raw const (*ctx.skb.skb).ifindex) };
    if L2 != ETHERNET_LEN || TUNNEL.get(0).is_none_or(|tunnel| tunnel.port_ifindex != ifindex) {
        return Ok(ifindex);
    }
    match steering::uplink_of(packet) {
        0 => Err(Exit::Pass),
        uplink => {
            steering::note_uplink(ctx, uplink);
            steering::note_counted(ctx, true);
            Ok(uplink)
        }
    }
}

/// Checks the inner packet of an opened one: lengths and congestion.
#[inline(always)]
pub fn check_inner<const L2: usize>(packet: Packet, arrival: &Arrival) -> Result<Inner, Exit> {
    let inner = packet.inner(L2 + arrival.payload_offset()).ok_or(DropReason::BadInner)?;
    check(arrival, &inner, arrival.payload_len)?;
    Ok(inner)
}

#[inline(always)]
fn check(arrival: &Arrival, inner: &Inner, len: u32) -> Result<(), Exit> {
    if inner.len > len {
        return Err(DropReason::BadInner.into());
    }
    if inner.len < len {
        return Err(DropReason::Oversized.into());
    }
    if ecn::inner_tos(inner.tos, arrival.outer.tos).is_none() {
        return Err(DropReason::EcnNotCapable.into());
    }
    Ok(())
}

/// Checks the source address of an accepted packet. Accepted, because it has come whatever its address is: the peer has
/// counted it as sent, and what an honest one sends by mistake must not look like losses of the path.
#[inline(always)]
pub fn check_source(arrival: &Arrival, inner: &Inner) -> Result<(), Exit> {
    if path_choice::owns(arrival.peer, inner.key.source) { Ok(()) } else { Err(DropReason::WrongSource.into()) }
}

/// Cuts everything around the first `len` bytes of the payload away, so that they follow an Ethernet header that is still
/// to be written.
#[inline(always)]
pub fn strip<const L2: usize>(ctx: &TcContext, payload_offset: usize, len: u32) -> Result<(), DropReason> {
    let failed = |_| DropReason::DeliveryFailed;
    let sealed_end = L2 as u32 + payload_offset as u32 + len + TAG_LEN as u32;
    let tail = |len| {
        // SAFETY: the context is valid while the program runs.
        match unsafe { bpf_skb_change_tail(ctx.skb.skb, len, 0) } {
            0 => Ok(()),
            error => Err(error),
        }
    };
    // The kernel leaves at least an IP header of the outer version (net/core/filter.c, `bpf_skb_adjust_room`): a short
    // IPv4 packet in an IPv6 one needs padding until its headers are gone.
    let padding = if len < IPV6_HEADER_LEN as u32 { IPV6_HEADER_LEN as u32 } else { 0 };
    if padding != 0 {
        tail(sealed_end + padding).map_err(failed)?;
    }
    ctx.adjust_room(-(payload_offset as i32), bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, 0).map_err(failed)?;
    tail(L2 as u32 + len).map_err(failed)?;
    // SAFETY: the context is valid while the program runs.
    if L2 == 0 && unsafe { bpf_skb_change_head(ctx.skb.skb, ETHERNET_LEN as u32, 0) } != 0 {
        return Err(DropReason::DeliveryFailed);
    }
    Ok(())
}

/// Hands an inner packet that follows an Ethernet header to `mp0`, or to what holds it until it is due.
#[inline(always)]
fn deliver(ctx: &TcContext, arrival: &Arrival, inner: &Inner) -> Result<i32, Exit> {
    let packet = Packet::new(ctx.data(), ctx.data_end());
    let failed = || Exit::Drop(DropReason::DeliveryFailed);
    let tunnel = TUNNEL.get(0).ok_or_else(failed)?;
    finish(packet, arrival, inner, tunnel.device_mac).ok_or_else(failed)?;
    if arrival.header.flags.class.is_aggregate() && arrival.header.flags.hold != 0 {
        match hold::hold(ctx, arrival) {
            hold::AT_ONCE => {}
            verdict => return Ok(verdict),
        }
    }
    steering::deliver(ctx, arrival.slot);
    // SAFETY: the redirect happens after the program.
    Ok(unsafe { bpf_redirect(tunnel.device_ifindex, u64::from(BPF_F_INGRESS)) } as i32)
}

/// Writes the Ethernet header, and the congestion mark of the outer packet into the inner one.
#[inline(always)]
pub fn finish(packet: Packet, arrival: &Arrival, inner: &Inner, mac: [u8; 6]) -> Option<()> {
    let tos = ecn::inner_tos(inner.tos, arrival.outer.tos)?;
    if tos != inner.tos {
        let [first] = packet.words::<1>(ETHERNET_LEN)?;
        if inner.version == 4 {
            let checksum = packet.at::<u16>(ETHERNET_LEN + 10)?;
            // SAFETY: `at` has checked the bounds.
            let (first, changed) = inner::ipv4_with_tos(first, unsafe { *checksum }, tos);
            // SAFETY: as above.
            unsafe { *checksum = changed };
            packet.set_words(ETHERNET_LEN, [first])?;
        } else {
            packet.set_words(ETHERNET_LEN, [inner::ipv6_with_tos(first, tos)])?;
        }
    }
    packet.set_ethernet(mac, if inner.version == 4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 })
}

/// Receives one part: keeps it, or joins it with the other one and delivers the whole.
///
/// A part is accepted before it can be told whose packet it is from: that stands in the first one. So of a joined
/// packet that is refused, the counters stay used and counted.
#[inline(always)]
fn receive_part<const L2: usize>(ctx: &TcContext, arrival: &mut Arrival) -> Result<i32, Exit> {
    if arrival.payload_len == 0 || arrival.payload_len > MAX_PART_LEN as u32 {
        return Err(DropReason::PartMismatch.into());
    }
    arrival.accept()?;
    strip::<L2>(ctx, arrival.payload_offset(), arrival.payload_len)?;
    let joined = match join::join(ctx, arrival) {
        join::WAITING => return Ok(TC_ACT_SHOT),
        joined if joined > 0 => joined as u32,
        _ => return Err(DropReason::PartMismatch.into()),
    };
    if joined & join::CONGESTION != 0 {
        arrival.outer.tos |= ecn::ECN_MASK;
    }
    let packet = Packet::linear(ctx).ok_or(DropReason::DeliveryFailed)?;
    let inner = packet.inner(ETHERNET_LEN).ok_or(DropReason::BadInner)?;
    check(arrival, &inner, joined & !join::CONGESTION)?;
    check_source(arrival, &inner)?;
    arrival.report(ctx);
    deliver(ctx, arrival, &inner)
}
