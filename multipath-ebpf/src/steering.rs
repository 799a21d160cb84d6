//! Hands packets to the processor of their lane: see `multipath_common::steering`.
//!
//! A packet changes processor where the kernel's receive packet steering looks at its hash: on its way into `mp0-port`.
//! A packet of the inner network passes there anyway; one of an uplink is sent there still sealed, when its lane is
//! heavy.

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, TC_ACT_REDIRECT, TC_ACT_UNSPEC},
    helpers::{
        bpf_get_hash_recalc, bpf_get_smp_processor_id, bpf_ktime_get_boot_ns, bpf_redirect, bpf_set_hash,
        bpf_set_hash_invalid,
    },
    programs::TcContext,
};
use multipath_common::{
    control::{CONTROL_MARK_WORDS, ControlMark},
    drops::DropReason,
    steering::{LANES_PER_DIRECTION, hash_for, home, lane_of, opening_lane, sealing_lane},
};

use crate::{
    drops::{Account, Exit},
    egress::{COPY_MARK, SECOND_PART_MARK},
    maps::{LANES_MAP, SPREADING, TUNNEL},
    packet::Packet,
};

/// Begins the MAC addresses of a sealed frame that an uplink's program sent to `mp0-port`; the uplink's interface index
/// follows. Locally administered and not multicast, so no station has it and the kernel lets it pass.
const HANDED_MARK: [u8; 2] = [0x06, 0x34];
/// The first word of such a frame.
const HANDED_WORD: u32 = u32::from_ne_bytes([HANDED_MARK[0], HANDED_MARK[1], 0, 0]);

/// What [`hand_over`] returns when work is not spread.
pub const NOT_SPREAD: i32 = -1;
/// What it returns when this processor opens the frame.
pub const STAYS: i32 = -2;

/// Where an ingress program notes in the socket buffer's control block by which uplink a packet came that was handed
/// over. (Not on the stack, which is full.)
const UPLINK_NOTE: usize = 0;
/// Where it notes whether the lane of the packet has counted it as handed.
const COUNTED_NOTE: usize = 1;
/// Where it notes a hash of the inner flow.
const FLOW_NOTE: usize = 2;

#[inline(always)]
fn note(ctx: &TcContext, place: usize, value: u32) {
    // SAFETY: the context is valid while the program runs.
    unsafe { (&raw mut (*ctx.skb.skb).cb[place]).write_volatile(value) };
}

#[inline(always)]
fn noted(ctx: &TcContext, place: usize) -> u32 {
    // SAFETY: as above.
    unsafe { (&raw const (*ctx.skb.skb).cb[place]).read_volatile() }
}

/// Notes the uplink of a packet that another processor has handed over; 0: it was not.
#[inline(always)]
pub fn note_uplink(ctx: &TcContext, ifindex: u32) {
    note(ctx, UPLINK_NOTE, ifindex);
}

/// What [`note_uplink`] has noted.
#[inline(always)]
pub fn noted_uplink(ctx: &TcContext) -> u32 {
    noted(ctx, UPLINK_NOTE)
}

/// Notes whether a packet's lane has counted it as handed.
#[inline(always)]
pub fn note_counted(ctx: &TcContext, is_counted: bool) {
    note(ctx, COUNTED_NOTE, u32::from(is_counted));
}

/// Notes a hash of the inner flow, for [`leave`].
#[inline(always)]
pub fn note_flow(ctx: &TcContext, hash: u32) {
    note(ctx, FLOW_NOTE, hash);
}

#[inline(always)]
fn is_counted(ctx: &TcContext) -> bool {
    noted(ctx, COUNTED_NOTE) != 0
}

/// Over how many processors work is spread; below two it is not.
#[inline(always)]
fn cpus() -> u32 {
    SPREADING.get(0).copied().unwrap_or(0)
}

/// Chooses the processor that will seal a frame which leaves `mp0`; returns the verdict.
#[inline(always)]
pub fn steer(ctx: &TcContext) -> Result<i32, Exit> {
    if is_forged(ctx) {
        return Err(DropReason::MalformedInner.into());
    }
    let cpus = cpus();
    if cpus < 2 {
        return Err(Exit::Pass);
    }
    // SAFETY: the context is valid while the program runs.
    let lane = sealing_lane(unsafe { bpf_get_hash_recalc(ctx.skb.skb) } as u32);
    // SAFETY: no arguments.
    let (own, now) = unsafe { (bpf_get_smp_processor_id(), bpf_ktime_get_boot_ns()) };
    if let Some(entry) = LANES_MAP.get_ptr_mut(lane) {
        // SAFETY: just looked up. Two processors may hand packets of one lane at the same time, when two flows share
        // it: a count is lost then, which is found as a lost packet is.
        let cpu = unsafe { (*entry).hand(now, ctx.len(), own, home(lane, cpus)) };
        // SAFETY: as above.
        unsafe { bpf_set_hash(ctx.skb.skb, hash_for(cpu, lane, cpus)) };
    }
    Err(Exit::Pass)
}

/// Whether a frame that leaves `mp0` bears a mark that no such frame has: a second part, a copy or a frame that was handed
/// over appear on `mp0-port` alone, and control messages are this machine's own.
#[inline(always)]
fn is_forged(ctx: &TcContext) -> bool {
    let Some(addresses) = Packet::new(ctx.data(), ctx.data_end()).words::<CONTROL_MARK_WORDS>(0) else {
        return false;
    };
    let [first, second, ..] = addresses[0].to_ne_bytes();
    // SAFETY: the context is valid while the program runs.
    let is_forwarded = unsafe { (*ctx.skb.skb).ingress_ifindex } != 0;
    [SECOND_PART_MARK, HANDED_MARK, COPY_MARK].contains(&[first, second])
        || is_forwarded && ControlMark::from_words(&addresses).is_some()
}

/// Notes on `mp0-port` that a frame of the inner network has come to the processor that seals it.
#[inline(always)]
pub fn begin(ctx: &TcContext) {
    if cpus() >= 2 {
        count(ctx, 0);
    }
}

/// Notes that a packet of an uplink has come to the inner network; returns the verdict.
///
/// Not when it is opened: from there it goes through its processor's backlog, where a later one of its flow that
/// another processor has opened would overtake it.
#[inline(always)]
pub fn delivered(ctx: &TcContext) -> i32 {
    if cpus() >= 2 {
        count(ctx, LANES_PER_DIRECTION);
    }
    // A lane is no hash of the flow, by which the kernel chooses routes and queues.
    // SAFETY: the context is valid while the program runs.
    unsafe { bpf_set_hash_invalid(ctx.skb.skb) };
    TC_ACT_UNSPEC
}

/// Counts a packet as done if its lane is of the direction that begins with lane `first`.
#[inline(always)]
fn count(ctx: &TcContext, first: u32) {
    // SAFETY: the context is valid while the program runs.
    let hash = unsafe { core::ptr::read_volatile(&raw const (*ctx.skb.skb).hash) };
    let lane = lane_of(hash);
    if lane & LANES_PER_DIRECTION == first {
        finish(lane);
    }
}

/// Counts a packet of a lane as done.
#[inline(always)]
fn finish(lane: u32) {
    if let Some(entry) = LANES_MAP.get_ptr_mut(lane) {
        // SAFETY: just looked up; a lane has one processor at a time.
        unsafe { (*entry).done = (*entry).done.wrapping_add(1) };
    }
}

/// Notes that a frame of an uplink has ended in the program, unless it is redirected: to `mp0`, where [`delivered`]
/// counts it, or to another processor. Otherwise forged packets would keep their lane from going home.
#[inline(always)]
pub fn end(ctx: &TcContext, outcome: Result<i32, Exit>, account: &Account) {
    if is_counted(ctx) && account.path != 0 && !matches!(outcome, Ok(TC_ACT_REDIRECT)) {
        finish(opening_lane(account.path - 1));
    }
}

/// Names the lane of a packet that is about to be delivered, for [`delivered`], if the lane has counted it. The hash of
/// the outer packet says nothing about the inner one.
#[inline(always)]
pub fn deliver(ctx: &TcContext, path_slot: u32) {
    // SAFETY: the context is valid while the program runs.
    unsafe {
        if is_counted(ctx) {
            bpf_set_hash(ctx.skb.skb, opening_lane(path_slot));
        } else {
            bpf_set_hash_invalid(ctx.skb.skb);
        }
    }
}

/// Ends the lane's part of a packet that is answered: the answer goes to `mp0-port` on this processor, where [`begin`]
/// takes it for no packet of the inner network.
#[inline(always)]
pub fn turn_back(ctx: &TcContext, path_slot: u32) {
    let lane = opening_lane(path_slot);
    if is_counted(ctx) {
        finish(lane);
    }
    let cpus = cpus();
    if cpus >= 2 {
        // SAFETY: the context is valid while the program runs.
        unsafe { bpf_set_hash(ctx.skb.skb, hash_for(bpf_get_smp_processor_id(), lane, cpus)) };
    }
}

/// Ends the lane's part of a packet that waits on `mp0-port` for its delivery, and gives it the hash of its flow, by which
/// fq tells flows apart. [`delivered`] takes that for no packet of an uplink: the lane in it is one for sealing.
#[inline(always)]
pub fn leave(ctx: &TcContext, path_slot: u32) {
    if is_counted(ctx) {
        finish(opening_lane(path_slot));
    }
    // SAFETY: the context is valid while the program runs.
    unsafe { bpf_set_hash(ctx.skb.skb, noted(ctx, FLOW_NOTE) & !LANES_PER_DIRECTION) };
}

/// The uplink of a frame on `mp0-port` that was sent there sealed; 0 for any other frame.
#[inline(always)]
pub fn uplink_of(packet: Packet) -> u32 {
    match packet.words::<2>(0) {
        Some([HANDED_WORD, ifindex]) => ifindex,
        _ => 0,
    }
}

/// Sends a sealed frame of a path to the processor that opens it. The verdict, or [`NOT_SPREAD`], or [`STAYS`].
#[inline(never)]
pub fn hand_over(ctx: &TcContext, path_slot: u32, now: u64) -> i32 {
    let cpus = cpus();
    if cpus < 2 {
        return NOT_SPREAD;
    }
    let lane = opening_lane(path_slot);
    // SAFETY: no arguments.
    let own = unsafe { bpf_get_smp_processor_id() };
    let (Some(entry), Some(tunnel)) = (LANES_MAP.get_ptr_mut(lane), TUNNEL.get(0)) else {
        return NOT_SPREAD;
    };
    // SAFETY: as in `steer`; here two uplinks may share a lane.
    let cpu = unsafe { (*entry).hand(now, ctx.len(), own, home(lane, cpus)) };
    // SAFETY: the context is valid while the program runs.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let packet = Packet::new(ctx.data(), ctx.data_end());
    if cpu == own || packet.set_words::<2>(0, [HANDED_WORD, ifindex]).is_none() {
        return STAYS;
    }
    // SAFETY: as above; the redirect happens after the program.
    unsafe {
        bpf_set_hash(ctx.skb.skb, hash_for(cpu, lane, cpus));
        bpf_redirect(tunnel.port_ifindex, u64::from(BPF_F_INGRESS)) as i32
    }
}
