//! The way out: outer headers around a payload, then to the next hop.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_REDIRECT, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1},
    helpers::{bpf_csum_diff, bpf_redirect_neigh, bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_load_bytes},
    programs::TcContext,
};
use multipath_common::{
    drops::DropReason,
    maps::{CIPHER_NONE, FAMILY_IPV4, MAX_PART_LEN, Path, SessionKeys},
    outer::{self, IPV4_UDP_WORDS, IPV6_UDP_WORDS},
    wire::{DataHeader, HEADER_LEN, HEADER_WORDS, IPV4_HEADER_LEN, IPV6_HEADER_LEN, TAG_LEN},
};

use crate::{
    aead,
    intrinsics::length,
    maps::PART_SCRATCH,
    packet::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet},
    zero_tag,
};

/// Bytes that one call of `bpf_csum_diff` takes (net/core/filter.c: the scratch pad of `MAX_BPF_STACK`).
const CHECKSUM_RUN: usize = 512;
/// Runs that cover the longest payload of a UDP datagram on Ethernet with jumbo frames.
const CHECKSUM_RUNS: usize = 9216 / CHECKSUM_RUN;

/// What is known of a payload that is to be sent.
#[derive(Clone, Copy)]
pub struct Payload {
    /// Bytes, without header and tag.
    pub len: u32,
    /// 4 or 6: the IP version under which the kernel knows the packet.
    pub version: u8,
    /// Type-of-service byte of the outer packet.
    pub tos: u8,
}

/// The 16 bytes of an address as words.
#[inline(always)]
pub fn address_words(address: [u8; 16]) -> [u32; 4] {
    // SAFETY: both are 16 plain bytes.
    unsafe { core::mem::transmute(address) }
}

/// Seals the payload that follows the Ethernet header, padded with zeros to its length, and puts header and outer headers
/// before it.
#[inline(always)]
pub fn enclose(
    ctx: &TcContext,
    path: &Path,
    header: DataHeader,
    payload: Payload,
    keys: &SessionKeys,
    cipher: u32,
) -> Result<(), DropReason> {
    make_room_for_tag(ctx, payload.len)?;
    let packet = Packet::new(ctx.data(), ctx.data_end());
    let failed = if cipher == CIPHER_NONE {
        zero_tag::write(packet, ETHERNET_LEN + payload.len as usize)
    } else {
        aead::begin(header.to_words(), &raw const keys.send);
        seal_payload(ctx.skb.skb, payload.len, cipher)
    };
    if failed != 0 {
        return Err(DropReason::EncapsulationFailed);
    }
    if path.family == FAMILY_IPV4 {
        let outer = outer::ipv4_udp(
            address_words(path.local)[3],
            address_words(path.remote)[3],
            path.local_port,
            path.remote_port,
            payload.tos,
            payload.len + (HEADER_LEN + TAG_LEN) as u32,
        );
        if payload.version == 4 {
            make_room(ctx, IPV4_UDP_WORDS * 4 + HEADER_LEN)?;
        } else {
            make_room_ipv6_in_ipv4(ctx)?;
        }
        write_header(ctx, IPV4_UDP_WORDS * 4, header)?;
        write_outer(ctx, ETHERTYPE_IPV4, outer)
    } else {
        let mut sum = u64::from(sealed_sum(ctx, ETHERNET_LEN as u32, payload.len + TAG_LEN as u32));
        for word in header.to_words() {
            sum += u64::from(word);
        }
        let outer = outer::ipv6_udp(
            address_words(path.local),
            address_words(path.remote),
            path.local_port,
            path.remote_port,
            payload.tos,
            payload.len + (HEADER_LEN + TAG_LEN) as u32,
            sum,
        );
        if payload.version == 6 {
            make_room(ctx, IPV6_UDP_WORDS * 4 + HEADER_LEN)?;
        } else {
            // The kernel's change of protocol makes room for the difference of the IP headers.
            change_protocol(ctx, ETHERTYPE_IPV6)?;
            make_room(ctx, IPV4_UDP_WORDS * 4 + HEADER_LEN)?;
        }
        write_header(ctx, IPV6_UDP_WORDS * 4, header)?;
        write_outer(ctx, ETHERTYPE_IPV6, outer)
    }
}

/// Seals the payload that follows the Ethernet header; 0: done. The verifier walks through what has external linkage once,
/// and not again for each of the ways that lead to a call (Documentation/bpf/verifier.rst, "global functions").
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn seal_payload(skb: *mut __sk_buff, len: u32, cipher: u32) -> u32 {
    let ctx = TcContext::new(skb);
    aead::seal_begun(Packet::new(ctx.data(), ctx.data_end()), ETHERNET_LEN, len, cipher)
}

/// Replaces the outer headers, of IP `version`, by those of another path; `len` bytes of UDP payload follow them.
#[inline(always)]
pub fn readdress(ctx: &TcContext, path: &Path, version: u8, tos: u8, len: u32) -> Result<(), DropReason> {
    // The kernel's change of protocol cuts or inserts just the difference of the headers.
    if path.family == FAMILY_IPV4 {
        if version != 4 {
            change_protocol(ctx, ETHERTYPE_IPV4)?;
        }
        let outer = outer::ipv4_udp(
            address_words(path.local)[3],
            address_words(path.remote)[3],
            path.local_port,
            path.remote_port,
            tos,
            len,
        );
        write_outer(ctx, ETHERTYPE_IPV4, outer)
    } else {
        if version != 6 {
            change_protocol(ctx, ETHERTYPE_IPV6)?;
        }
        let sum = sealed_sum(ctx, (ETHERNET_LEN + IPV6_UDP_WORDS * 4) as u32, len);
        let outer = outer::ipv6_udp(
            address_words(path.local),
            address_words(path.remote),
            path.local_port,
            path.remote_port,
            tos,
            len,
            u64::from(sum),
        );
        write_outer(ctx, ETHERTYPE_IPV6, outer)
    }
}

/// Ends the packet 16 bytes behind its payload: whatever padded it, or the second part, is cut away, and zeros are put
/// behind a payload that is shorter than it should be.
#[inline(always)]
fn make_room_for_tag(ctx: &TcContext, payload_len: u32) -> Result<(), DropReason> {
    let len = (ETHERNET_LEN + TAG_LEN) as u32 + payload_len;
    // SAFETY: the context is valid while the program runs.
    match unsafe { bpf_skb_change_tail(ctx.skb.skb, len, 0) } {
        0 => Ok(()),
        _ => Err(DropReason::EncapsulationFailed),
    }
}

/// Makes room in front of the Ethernet header, which is written anew with the rest. (`bpf_skb_adjust_room` would move
/// the header to the front, and costs more.)
#[inline(always)]
fn make_room(ctx: &TcContext, len: usize) -> Result<(), DropReason> {
    // SAFETY: the context is valid while the program runs.
    match unsafe { bpf_skb_change_head(ctx.skb.skb, len as u32, 0) } {
        0 => Ok(()),
        _ => Err(DropReason::EncapsulationFailed),
    }
}

/// Tells the kernel the protocol of the outer packet, which the redirect goes by.
///
/// Not by the encapsulation flags of `bpf_skb_adjust_room`: these mark the packet as a tunnel's, which nothing takes
/// back, and then another tunnel can neither encapsulate it nor change its tail (net/core/filter.c).
#[inline(always)]
fn change_protocol(ctx: &TcContext, ethertype: u16) -> Result<(), DropReason> {
    ctx.change_proto(ethertype.to_be(), 0).map_err(|_| DropReason::EncapsulationFailed)
}

/// Makes room for IPv4 headers before an IPv6 packet. The kernel's change of protocol cuts the difference of the IP
/// headers away, so it is put back.
#[inline(always)]
fn make_room_ipv6_in_ipv4(ctx: &TcContext) -> Result<(), DropReason> {
    const CUT: usize = IPV6_HEADER_LEN - IPV4_HEADER_LEN;
    const LEN: usize = IPV4_UDP_WORDS * 4 + HEADER_LEN;
    let packet = Packet::new(ctx.data(), ctx.data_end());
    let cut = packet.words::<{ CUT / 4 }>(ETHERNET_LEN).ok_or(DropReason::EncapsulationFailed)?;
    change_protocol(ctx, ETHERTYPE_IPV4)?;
    make_room(ctx, LEN + CUT)?;
    let packet = Packet::new(ctx.data(), ctx.data_end());
    packet.set_words(ETHERNET_LEN + LEN, cut).ok_or(DropReason::EncapsulationFailed)
}

/// Writes the header behind outer headers of `outer_len` bytes.
#[inline(always)]
fn write_header(ctx: &TcContext, outer_len: usize, header: DataHeader) -> Result<(), DropReason> {
    let packet = Packet::new(ctx.data(), ctx.data_end());
    let written = packet.set_words::<HEADER_WORDS>(ETHERNET_LEN + outer_len, header.to_words());
    written.ok_or(DropReason::EncapsulationFailed)
}

/// Writes the outer headers.
#[inline(always)]
fn write_outer<const N: usize>(ctx: &TcContext, ethertype: u16, outer: [u32; N]) -> Result<(), DropReason> {
    let packet = Packet::new(ctx.data(), ctx.data_end());
    let written = packet.set_ethertype(ethertype).and_then(|()| packet.set_words(ETHERNET_LEN, outer));
    written.ok_or(DropReason::EncapsulationFailed)
}

/// One's complement sum of `len` bytes of the frame from `start` on, an even offset, in memory order.
///
/// The sum is a 32-bit number, so that a subprogram can return it.
#[expect(clippy::cast_ptr_alignment, reason = "the scratch is aligned to eight bytes, its bytes to four")]
#[inline(never)]
fn sealed_sum(ctx: &TcContext, start: u32, len: u32) -> u32 {
    let mut sum = 0;
    let mut offset = start as usize;
    let mut rest = len as usize;
    let packet = Packet::new(ctx.data(), ctx.data_end());
    for _ in 0..CHECKSUM_RUNS {
        if rest < CHECKSUM_RUN {
            break;
        }
        let Some(run) = packet.at::<[u32; CHECKSUM_RUN / 4]>(offset) else {
            return 0;
        };
        // SAFETY: `at` has checked the bounds.
        sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, run.cast(), CHECKSUM_RUN as u32, sum) } as u32;
        offset += CHECKSUM_RUN;
        rest -= CHECKSUM_RUN;
    }
    let rest = rest & (CHECKSUM_RUN - 1);
    let Some(scratch) = PART_SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    if rest == 0 {
        return sum;
    }
    const { assert!(MAX_PART_LEN >= CHECKSUM_RUN + 4) };
    // SAFETY: this CPU's own scratch; `rest` is below the run, which fits it with the padding of the last word.
    unsafe {
        let bytes = (&raw mut (*scratch).bytes).cast::<u8>();
        *bytes.add(rest & !3).cast::<u32>() = 0;
        if bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            offset as u32,
            bytes.cast(),
            length::<{ CHECKSUM_RUN as u32 }>(rest as u32),
        ) != 0
        {
            return 0;
        }
        bpf_csum_diff(core::ptr::null_mut(), 0, bytes.cast(), ((rest + 3) & !3) as u32, sum) as u32
    }
}

/// Hands the packet to the path's next hop on its uplink. The kernel resolves the neighbour and holds the packet
/// until it is known.
#[inline(always)]
pub fn redirect(path: &Path) -> Result<i32, DropReason> {
    let next_hop = address_words(path.next_hop);
    let words = if path.next_hop_family == FAMILY_IPV4 { [next_hop[3], 0, 0, 0] } else { next_hop };
    let mut params = bpf_redir_neigh {
        nh_family: path.next_hop_family,
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: words },
    };
    // SAFETY: the parameters live on the stack for the length of the call.
    let verdict = unsafe { bpf_redirect_neigh(path.ifindex, &raw mut params, size_of::<bpf_redir_neigh>() as i32, 0) };
    if verdict == i64::from(TC_ACT_REDIRECT) { Ok(TC_ACT_REDIRECT) } else { Err(DropReason::EncapsulationFailed) }
}
