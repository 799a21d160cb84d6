//! From a drop reason to a verdict: the one place where packets are counted as dropped.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    helpers::bpf_ktime_get_boot_ns,
    programs::{TcContext, XdpContext},
};
use multipath_common::{
    drops::DropReason,
    inner,
    maps::{Address, DropKey, DropStats, map_ipv4},
    wire::{IPV4_HEADER_LEN, IPV6_HEADER_LEN},
};

use crate::{
    maps::{DROPS_MAP, LOCAL_ADDRESSES},
    packet::{ETHERNET_LEN, Packet},
};

/// Why a program ends without an action of its own. One 32-bit number, so that the compiler keeps it in a register.
#[derive(Clone, Copy)]
pub enum Exit {
    /// The packet is counted under the reason and dropped.
    Drop(DropReason),
    /// The packet is not the tunnel's, or another program's to take.
    Pass,
}

impl From<DropReason> for Exit {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

/// What is known of the packet in case that it is dropped.
#[derive(Clone, Copy)]
pub struct Account {
    /// [`multipath_common::maps::path_slot`] + 1 of its path; 0 when it is not known.
    pub path: u32,
    /// 1 while nothing but its port says that it is for the tunnel: it may only pass through this gateway, to somebody
    /// else's port of the same number.
    pub doubtful: u32,
}

impl Account {
    /// Nothing is known.
    #[inline(always)]
    pub const fn new() -> Self {
        Self { path: 0, doubtful: 0 }
    }
}

/// Whether a packet that was not touched yet is sent to somebody else.
#[inline(always)]
fn is_foreign<const L2: usize>(packet: Packet) -> bool {
    let destination = match packet.words::<1>(L2).map(|[first]| inner::version(first)) {
        Some(4) => packet.words::<1>(L2 + IPV4_HEADER_LEN - 4).map(|[word]| map_ipv4(word)),
        _ => packet.words::<4>(L2 + IPV6_HEADER_LEN - 16),
    };
    let Some(destination) = destination else { return false };
    // SAFETY: nothing is kept of the value.
    unsafe { LOCAL_ADDRESSES.get(Address { address: address_bytes(destination) }).is_none() }
}

/// An address as the bytes that stand in keys.
#[inline(always)]
pub fn address_bytes(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: both are 16 plain bytes.
    unsafe { core::mem::transmute(words) }
}

#[inline(never)]
fn count(reason: u32, ifindex: u32, path: u32, bytes: u32) -> u32 {
    let key = DropKey { reason, ifindex, path };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if DROPS_MAP.get_ptr(key).is_none() {
        let first = DropStats { packets: 0, bytes: 0, last_seen_ns: 0 };
        // Another CPU may insert the key first: then its entry is as good. A full map loses the count, not the verdict.
        let _ = DROPS_MAP.insert(key, first, u64::from(BPF_NOEXIST));
    }
    if let Some(stats) = DROPS_MAP.get_ptr_mut(key) {
        // SAFETY: this CPU's own value, just looked up.
        unsafe {
            (*stats).packets += 1;
            (*stats).bytes += u64::from(bytes);
            (*stats).last_seen_ns = now;
        }
    }
    0
}

/// The verdict: the action, or the packet is counted and dropped, or passes when it is not the tunnel's. `uplink` is
/// the interface that a packet came by which another processor has handed over, 0 for any other.
#[inline(always)]
pub fn tc_verdict<const L2: usize>(ctx: &TcContext, outcome: Result<i32, Exit>, account: &Account, uplink: u32) -> i32 {
    let reason = match outcome {
        Ok(action) => return action,
        Err(Exit::Pass) => return TC_ACT_UNSPEC,
        Err(Exit::Drop(reason)) => reason,
    };
    // What was handed over has been found to be the tunnel's.
    if account.doubtful != 0 && uplink == 0 && is_foreign::<L2>(Packet::new(ctx.data(), ctx.data_end())) {
        return TC_ACT_UNSPEC;
    }
    // SAFETY: the context is valid while the program runs. Volatile: the verifier takes no pointer into the context
    // that was chosen by a condition.
    let own = unsafe { core::ptr::read_volatile(&raw const (*ctx.skb.skb).ifindex) };
    let ifindex = if uplink != 0 { uplink } else { own };
    count(reason as u32, ifindex, account.path, ctx.len());
    TC_ACT_SHOT
}

/// The verdict: the action, or the packet is counted and dropped, or passes when it is not the tunnel's.
#[inline(always)]
pub fn xdp_verdict(ctx: &XdpContext, outcome: Result<u32, Exit>, account: &Account) -> u32 {
    let reason = match outcome {
        Ok(action) => return action,
        Err(Exit::Pass) => return xdp_action::XDP_PASS,
        Err(Exit::Drop(reason)) => reason,
    };
    if account.doubtful != 0 && is_foreign::<ETHERNET_LEN>(Packet::new(ctx.data(), ctx.data_end())) {
        return xdp_action::XDP_PASS;
    }
    let bytes = ctx.data_end() - ctx.data();
    count(reason as u32, ctx.ingress_ifindex() as u32, account.path, bytes as u32);
    xdp_action::XDP_DROP
}
