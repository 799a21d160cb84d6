//! Which peer, and which of its paths, a packet goes to.

use aya_ebpf::{bindings::BPF_ANY, btf_maps::lpm_trie::Key, helpers::bpf_loop};
use multipath_common::{
    drops::DropReason,
    health::Role,
    maps::{Address, Flow, FlowKey, MAX_PATHS, NO_PEER, PATH_DOUBTED, PATH_STANDBY, PATH_UP, Path, Source, path_slot},
    schedule::{Rendezvous, flow_hash},
};

use crate::{
    drops::{Exit, address_bytes},
    maps::{ALLOWED_IPS, FLOWS, PATH_AUTOMATIC, PATH_OPERATOR, PATHS_MAP, PEERS_MAP, SOURCES, generation},
};

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
fn is_put_down(slot: u32) -> bool {
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
fn rendezvous_among(state: u32, without: u32, peer: u32, hash: u64, len: u32) -> u32 {
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

/// Chooses for a flow that is not in the flow table, or whose choice is out of date, and remembers it. The number of
/// the peer in the upper half, the path id + 1 in the lower one, or the negative number of a drop reason.
#[inline(never)]
fn choose(key: &FlowKey, generation: u64) -> i64 {
    let Some(peer) = peer_by_prefix(key.destination) else {
        return -(DropReason::NoPeer as i64);
    };
    let path = rendezvous(0, peer, flow_hash(key), 0);
    if path == 0 {
        return -(DropReason::NoPath as i64);
    }
    // When the insertion fails, the next packet of the flow chooses again, and the same.
    let _ = FLOWS.insert(*key, Flow { generation, peer, path: path - 1 }, u64::from(BPF_ANY));
    i64::from(peer) << 32 | i64::from(path)
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

/// The peer and path of a flow: from the flow table, or chosen now. A path that went down, or is being written, is left
/// at once, before the daemon has advanced the generation; one in doubt keeps its flows.
#[inline(always)]
pub fn of_flow(key: &FlowKey) -> Result<(Choice, &'static Path), Exit> {
    let generation = generation();
    // SAFETY: read at once, see `owns`.
    if let Some(flow) = unsafe { FLOWS.get(key) }
        && flow.generation == generation
    {
        let choice = Choice { peer: flow.peer, path: flow.path as u8 };
        if let Some(path) = usable(choice) {
            return Ok((choice, path));
        }
    }
    let choice = match choose(key, generation) {
        chosen if chosen > 0 => Choice { peer: (chosen >> 32) as u32, path: (chosen as u32 - 1) as u8 },
        reason if reason == -(DropReason::NoPeer as i64) => return Err(DropReason::NoPeer.into()),
        _ => return Err(DropReason::NoPath.into()),
    };
    usable(choice).map(|path| (choice, path)).ok_or(DropReason::NoPath.into())
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
