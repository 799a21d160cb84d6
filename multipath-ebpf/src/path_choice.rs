//! Which peer, and which of its paths, a packet goes to.

use aya_ebpf::{
    bindings::BPF_ANY,
    btf_maps::lpm_trie::Key,
    helpers::{bpf_ktime_get_boot_ns, bpf_loop},
};
use multipath_common::{
    drops::DropReason,
    health::Role,
    maps::{Address, Flow, FlowKey, MAX_PATHS, NO_PEER, PATH_DOUBTED, PATH_STANDBY, PATH_UP, Path, Source, path_slot},
    schedule::{Rendezvous, flow_hash},
};

use crate::{
    drops::{Exit, address_bytes},
    maps::{
        ALLOWED_IPS, BOND_MEMBERS, BONDS, FLOWS, PATH_AUTOMATIC, PATH_OPERATOR, PATHS_MAP, PEERS_MAP, SOURCES,
        generation,
    },
    pacing,
};

/// Paths by which a packet arrives so much later than by the soonest one are as good, nanoseconds.
const EQUAL_NS: u64 = 5_000_000;

/// The choice for one packet.
#[derive(Clone, Copy)]
pub struct Choice {
    /// Number of the peer.
    pub peer: u32,
    /// Path id.
    pub path: u8,
}

/// The peer whose `allowed_ips` hold an address.
#[inline(always)]
fn peer_by_prefix(address: [u32; 4]) -> Option<u32> {
    ALLOWED_IPS.get(&Key::new(128, address_bytes(address))).copied().filter(|peer| *peer != NO_PEER)
}

/// Whether an inner source address is the peer's. Remembers what it found, so that the cost does not grow with the
/// number of prefixes; nothing is remembered of an address that is not the peer's.
#[inline(always)]
pub fn owns(peer: u32, address: [u32; 4]) -> bool {
    let generation = generation();
    let key = Address { address: address_bytes(address) };
    // SAFETY: read at once. A concurrent reuse of the entry can only mix two addresses' owners of this generation
    // for the one packet that is in between.
    if let Some(source) = unsafe { SOURCES.get(key) }
        && source.generation == generation
    {
        return source.peer == peer;
    }
    if peer_by_prefix(address) != Some(peer) {
        return false;
    }
    // When the insertion fails, the next packet looks again.
    let _ = SOURCES.insert(key, Source { generation, peer, reserved: 0 }, u64::from(BPF_ANY));
    true
}

/// Whether the operator has put a path out of use: at once, and also when there is no daemon to put its state.
#[inline(always)]
pub fn is_put_down(slot: u32) -> bool {
    PATH_OPERATOR.get(slot).is_some_and(|settings| settings.role == Role::Down as u32)
}

/// The weight in force: the operator's, else the automatic one.
#[inline(always)]
fn weight(slot: u32) -> u32 {
    match PATH_OPERATOR.get(slot) {
        Some(settings) if settings.weight != 0 => settings.weight,
        _ => PATH_AUTOMATIC.get(slot).map_or(0, |settings| settings.weight),
    }
}

/// A choice under way: what `offer_path` works on.
struct Candidates {
    choice: Rendezvous,
    peer: u32,
    path_set: u32,
    /// Only paths in this state are looked at.
    state: u32,
    len: u32,
    widest_mtu: u32,
    widest: u8,
}

/// Looks at one path; a body of `bpf_loop`, because the verifier follows that once and not once for every path.
extern "C" fn offer_path(index: u32, candidates: *mut Candidates) -> i64 {
    // SAFETY: the caller's stack, for the length of the loop.
    let candidates = unsafe { &mut *candidates };
    let path = index as u8 & (MAX_PATHS as u8 - 1);
    let slot = path_slot(candidates.peer, path);
    if candidates.path_set >> path & 1 == 0 {
        return 0;
    }
    if let Some(usable) = PATHS_MAP.get(slot)
        && usable.state == candidates.state
        && !is_put_down(slot)
    {
        if usable.inner_mtu >= candidates.len {
            candidates.choice.offer(path, weight(slot));
        }
        if usable.inner_mtu > candidates.widest_mtu {
            candidates.widest_mtu = usable.inner_mtu;
            candidates.widest = path;
        }
    }
    0
}

/// The path of a flow among the ones in this state that carry `len` bytes whole; when none does, the one in this state
/// that carries most. `without` holds bits of paths that are not looked at. Encoded for the verifier, which wants a
/// scalar: the path id + 1, or 0 for none.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn rendezvous_among(state: u32, without: u32, peer: u32, hash: u64, len: u32) -> u32 {
    let Some(path_set) = PEERS_MAP.get(peer).map(|peer| peer.path_set & !without) else {
        return 0;
    };
    let choice = Rendezvous::new(hash);
    let mut candidates = Candidates { choice, peer, path_set, state, len, widest_mtu: 0, widest: 0 };
    // SAFETY: callback and context fit each other.
    unsafe { bpf_loop(MAX_PATHS as u32, offer_path as *mut _, (&raw mut candidates).cast(), 0) };
    match candidates.choice.winner() {
        Some(path) => u32::from(path) + 1,
        None if candidates.widest_mtu != 0 => u32::from(candidates.widest) + 1,
        None => 0,
    }
}

/// The same among all that carry data: those in doubt only when there is no other.
#[inline(always)]
fn rendezvous(without: u32, peer: u32, hash: u64, len: u32) -> u32 {
    match rendezvous_among(PATH_UP, without, peer, hash, len) {
        0 => rendezvous_among(PATH_DOUBTED, without, peer, hash, len),
        path => path,
    }
}

/// A choice by arrival under way: what `offer_arrival` works on.
struct Soonest {
    choice: Rendezvous,
    now_ns: u64,
    /// When the packet arrives by the path by which it does so first, but for an unknown that is the same for all.
    earliest_ns: u64,
    /// Paths by which it arrives later are not offered.
    latest_ns: u64,
    peer: u32,
    path_set: u32,
    measured: u32,
    /// Path id + 1 of the flow's present path, 0: it has none.
    present: u32,
    /// 1 when the choice is not to be made by arrival.
    is_void: u32,
}

/// Looks at one path; a body of `bpf_loop`.
extern "C" fn offer_arrival(index: u32, soonest: *mut Soonest) -> i64 {
    // SAFETY: the caller's stack, for the length of the loop.
    let soonest = unsafe { &mut *soonest };
    let path = index as u8 & (MAX_PATHS as u8 - 1);
    let slot = path_slot(soonest.peer, path);
    if soonest.path_set >> path & 1 == 0 || PATHS_MAP.get(slot).is_none_or(|path| path.state != PATH_UP) {
        return 0;
    }
    let weight = weight(slot);
    if weight == 0 || is_put_down(slot) {
        return 0;
    }
    let delay_ns = BOND_MEMBERS.get(slot).map_or(0, |member| u64::from(member.delay_us) * 1000);
    if soonest.measured >> path & 1 == 0 || PATH_OPERATOR.get(slot).is_some_and(|settings| settings.weight != 0) {
        soonest.is_void = 1;
        return 1;
    }
    let free_ns = pacing::free_ns(slot);
    let start_ns = if free_ns > soonest.now_ns { free_ns } else { soonest.now_ns };
    let is_present = u32::from(path) + 1 == soonest.present;
    // What waits for the present path may be the flow's own.
    let arrives_ns = delay_ns + if is_present { soonest.now_ns } else { start_ns };
    if arrives_ns < soonest.earliest_ns {
        soonest.earliest_ns = arrives_ns;
    }
    if arrives_ns <= soonest.latest_ns {
        soonest.choice.offer(path, weight);
    }
    0
}

/// The path of a flow by when its next packet would arrive: by hash among those that are about as soon as the soonest, so
/// that it comes back to the one that it had before that failed. The path id + 1; 0 when not all paths have been measured, or an operator
/// has given them weights: then the hash alone decides.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn soonest(peer: u32, hash: u64, present: u32) -> u32 {
    let (Some(measured), Some(path_set)) =
        (BONDS.get(peer).map(|bond| bond.measured), PEERS_MAP.get(peer).map(|peer| peer.path_set))
    else {
        return 0;
    };
    if measured == 0 {
        return 0;
    }
    // SAFETY: no arguments.
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    let choice = Rendezvous::new(hash);
    let (earliest_ns, latest_ns) = (u64::MAX, 0);
    let mut soonest = Soonest { choice, now_ns, earliest_ns, latest_ns, peer, path_set, measured, present, is_void: 0 };
    // First when, then which.
    // SAFETY: callback and context fit each other.
    unsafe { bpf_loop(MAX_PATHS as u32, offer_arrival as *mut _, (&raw mut soonest).cast(), 0) };
    if soonest.is_void != 0 {
        return 0;
    }
    soonest.latest_ns = soonest.earliest_ns.saturating_add(EQUAL_NS);
    // SAFETY: as above.
    unsafe { bpf_loop(MAX_PATHS as u32, offer_arrival as *mut _, (&raw mut soonest).cast(), 0) };
    match soonest.choice.winner() {
        Some(path) => u32::from(path) + 1,
        None => 0,
    }
}

/// The peer of a flow, and the path that the flow table has for it: the peer in the upper half, the path id + 1 in the
/// lower one, which is 0 for a flow that is new; or the negative number of a drop reason.
#[inline(never)]
fn peer_of(key: &FlowKey) -> i64 {
    let Some(peer) = peer_by_prefix(key.destination) else {
        return -(DropReason::NoPeer as i64);
    };
    // SAFETY: read at once, see `owns`.
    let present = unsafe { FLOWS.get(key) }.map_or(0, |flow| if flow.peer == peer { flow.path + 1 } else { 0 });
    i64::from(peer) << 32 | i64::from(present)
}

/// Remembers the choice for a flow, whose class is looked up anew then.
#[inline(never)]
fn remember(key: &FlowKey, peer: u32, path: u32, generation: u64) -> i32 {
    let known = FLOWS.get_ptr_mut(key);
    if let Some(flow) = known {
        // SAFETY: just looked up. Two processors may choose for a flow at the same time: either choice is good.
        unsafe {
            if (*flow).peer == peer {
                (*flow).path = path;
                (*flow).class = 0;
                (*flow).generation = generation;
                return 0;
            }
        }
    }
    // Nothing of it is due later than now: 0 may lie ahead, because these times wrap.
    // SAFETY: no arguments.
    let due_us = (unsafe { bpf_ktime_get_boot_ns() } / 1000) as u32;
    // When the insertion fails, the next packet of the flow chooses again.
    let _ = FLOWS.insert(*key, Flow { generation, peer, path, due_us, ..Flow::NEW }, u64::from(BPF_ANY));
    0
}

/// Chooses for a flow that is not in the flow table, or whose choice is out of date, and remembers it.
#[inline(always)]
fn choose(key: &FlowKey, generation: u64) -> Result<Choice, Exit> {
    let (peer, present) = match peer_of(key) {
        found if found >= 0 => ((found >> 32) as u32, found as u32),
        _ => return Err(DropReason::NoPeer.into()),
    };
    let hash = flow_hash(key);
    let path = match soonest(peer, hash, present) {
        0 => rendezvous(0, peer, hash, 0),
        path => path,
    };
    let path = path.checked_sub(1).ok_or(DropReason::NoPath)?;
    remember(key, peer, path, generation);
    Ok(Choice { peer, path: path as u8 })
}

/// A path that may carry data.
#[inline(always)]
pub fn usable(choice: Choice) -> Option<&'static Path> {
    let slot = path_slot(choice.peer, choice.path);
    let path = PATHS_MAP.get(slot).filter(|path| matches!(path.state, PATH_UP | PATH_DOUBTED))?;
    if is_put_down(slot) { None } else { Some(path) }
}

/// A path that may carry control messages, by its [`path_slot`].
#[inline(always)]
pub fn usable_for_control(slot: u32) -> Option<&'static Path> {
    PATHS_MAP.get(slot).filter(|path| matches!(path.state, PATH_UP | PATH_STANDBY | PATH_DOUBTED))
}

/// The peer and path of a flow, from the flow table or chosen now, and its entry there. A path that went down, or is being
/// written, is left at once, before the daemon has advanced the generation; one in doubt keeps its flows.
#[inline(always)]
pub fn of_flow(key: &FlowKey) -> Result<(Choice, Option<*mut Flow>), Exit> {
    let generation = generation();
    if let Some(flow) = FLOWS.get_ptr_mut(key) {
        // SAFETY: just looked up. A concurrent reuse of the entry can only mix two flows of this generation for the one packet
        // that is in between.
        let (is_valid, choice) =
            unsafe { ((*flow).generation == generation, Choice { peer: (*flow).peer, path: (*flow).path as u8 }) };
        if is_valid && usable(choice).is_some() {
            return Ok((choice, Some(flow)));
        }
    }
    let choice = choose(key, generation)?;
    Ok((choice, FLOWS.get_ptr_mut(key)))
}

/// The path for a packet of `len` bytes that its flow's path does not carry whole: another one that does, else the
/// widest one, which carries it in two parts if any does.
#[inline(always)]
pub fn for_long_packet(key: &FlowKey, peer: u32, len: u32) -> Option<u8> {
    rendezvous(0, peer, flow_hash(key), len).checked_sub(1).map(|path| path as u8)
}

/// A second path for a packet of `len` bytes that goes twice: another one that carries the packet whole, beyond doubt if
/// there is any. Two that are in doubt at the same time seldom fail both.
#[inline(always)]
pub fn second(key: &FlowKey, first: Choice, len: u32) -> Option<u8> {
    let without = 1 << (first.path & (MAX_PATHS as u8 - 1));
    let path = rendezvous(without, first.peer, flow_hash(key), len).checked_sub(1)? as u8;
    let carries = PATHS_MAP.get(path_slot(first.peer, path)).is_some_and(|path| path.inner_mtu >= len);
    if carries { Some(path) } else { None }
}
