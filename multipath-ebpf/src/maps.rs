//! The maps, under the names and with the types of `multipath_common::maps`, where each one's writer is named.
//!
//! The loader sets the sizes of those that depend on the configuration; the number here is the smallest.

use aya_ebpf::{
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, LruPerCpuHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use multipath_common::maps::{
    Address, CONTROL_EVENTS_LEN, ControlEvent, DropKey, DropStats, Flow, FlowKey, GENERATION_AUTOMATIC,
    GENERATION_OPERATOR, Lane, MAX_DROPS, MAX_FLOWS, MAX_LOCAL_ADDRESSES, MAX_PATHS, MAX_SOURCES, MAX_STORED_PARTS,
    ORIGIN_EVENTS_LEN, Origin, OriginKey, PartKey, Path, PathSettings, PathStats, Peer, SESSIONS_PER_PEER, Session,
    SessionKeys, Source, StoredPart, Tunnel, session_slot,
};
use multipath_common::quality::{
    Arrivals, PATH_LOG_LEN, PROBE_EVENTS_LEN, PathClock, PathLogEntry, PathQuality, ProbeEvent,
};
use multipath_common::{
    bond::{Bond, BondMember},
    classes::{
        CLASS_STATS_LEN, ClassRule, ClassStats, Destination, DestinationKey, FLOW_EVENTS_LEN, FlowEvent, Lead,
        MAX_CLASS_RULES, MAX_DESTINATIONS, MAX_LEADS,
    },
    playout::{HELD_LEN, HeldHeader, HeldPacket, Playout, Stage},
    steering::LANES,
};

const PEERS: usize = 16;
const PATHS: usize = PEERS * MAX_PATHS;
const SESSION_SLOTS: usize = PEERS * SESSIONS_PER_PEER;
/// Entries are allocated when they are first needed.
const NO_PREALLOC: usize = aya_ebpf::bindings::BPF_F_NO_PREALLOC as usize;

#[btf_map(name = "tunnel")]
pub static TUNNEL: Array<Tunnel, 1> = Array::new();
#[btf_map(name = "generation")]
pub static GENERATION: Array<u64, 2> = Array::new();
#[btf_map(name = "allowed_ips")]
pub static ALLOWED_IPS: LpmTrie<[u8; 16], u32, 256> = LpmTrie::new();
#[btf_map(name = "local_addresses")]
pub static LOCAL_ADDRESSES: HashMap<Address, u32, MAX_LOCAL_ADDRESSES> = HashMap::new();
#[btf_map(name = "peers")]
pub static PEERS_MAP: Array<Peer, PEERS> = Array::new();
#[btf_map(name = "sessions")]
static SESSIONS: Array<Session, SESSION_SLOTS> = Array::new();
#[btf_map(name = "session_keys")]
static SESSION_KEYS: Array<SessionKeys, SESSION_SLOTS> = Array::new();
#[btf_map(name = "paths")]
pub static PATHS_MAP: Array<Path, PATHS> = Array::new();
#[btf_map(name = "path_automatic")]
pub static PATH_AUTOMATIC: Array<PathSettings, PATHS> = Array::new();
#[btf_map(name = "path_operator")]
pub static PATH_OPERATOR: Array<PathSettings, PATHS> = Array::new();
#[btf_map(name = "arrival_paths")]
pub static ARRIVAL_PATHS: Array<u32, PATHS> = Array::new();
#[btf_map(name = "path_stats")]
pub static PATH_STATS: PerCpuArray<PathStats, PATHS> = PerCpuArray::new();
#[btf_map(name = "drops")]
pub static DROPS_MAP: LruPerCpuHashMap<DropKey, DropStats, MAX_DROPS> = LruPerCpuHashMap::new();
#[btf_map(name = "flows")]
pub static FLOWS: LruHashMap<FlowKey, Flow, MAX_FLOWS> = LruHashMap::new();
#[btf_map(name = "sources")]
pub static SOURCES: LruHashMap<Address, Source, MAX_SOURCES> = LruHashMap::new();
#[btf_map(name = "origins")]
pub static ORIGINS: HashMap<OriginKey, Origin, PATHS, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "origin_events")]
pub static ORIGIN_EVENTS: RingBuf<OriginKey, ORIGIN_EVENTS_LEN> = RingBuf::new();
#[btf_map(name = "control_events")]
pub static CONTROL_EVENTS: RingBuf<ControlEvent, CONTROL_EVENTS_LEN> = RingBuf::new();
#[btf_map(name = "part_store")]
pub static PART_STORE: LruHashMap<PartKey, StoredPart, MAX_STORED_PARTS> = LruHashMap::new();
#[btf_map(name = "part_scratch")]
pub static PART_SCRATCH: PerCpuArray<StoredPart, 1> = PerCpuArray::new();
#[btf_map(name = "spreading")]
pub static SPREADING: Array<u32, 1> = Array::new();
#[btf_map(name = "lanes")]
pub static LANES_MAP: Array<Lane, LANES> = Array::new();
#[btf_map(name = "arrivals")]
pub static ARRIVALS: Array<Arrivals, PATHS> = Array::new();
#[btf_map(name = "probe_events")]
pub static PROBE_EVENTS: RingBuf<ProbeEvent, PROBE_EVENTS_LEN> = RingBuf::new();
#[btf_map(name = "path_clocks")]
pub static PATH_CLOCKS: Array<PathClock, PATHS> = Array::new();
#[btf_map(name = "class_rules")]
pub static CLASS_RULES: Array<ClassRule, MAX_CLASS_RULES> = Array::new();
#[btf_map(name = "class_stats")]
pub static CLASS_STATS: PerCpuArray<ClassStats, CLASS_STATS_LEN> = PerCpuArray::new();
#[btf_map(name = "leads")]
pub static LEADS: LruHashMap<FlowKey, Lead, MAX_LEADS> = LruHashMap::new();
#[btf_map(name = "flow_events")]
pub static FLOW_EVENTS: RingBuf<FlowEvent, FLOW_EVENTS_LEN> = RingBuf::new();
#[btf_map(name = "destinations")]
pub static DESTINATIONS: LruHashMap<DestinationKey, Destination, MAX_DESTINATIONS> = LruHashMap::new();
#[btf_map(name = "bonds")]
pub static BONDS: Array<Bond, PEERS> = Array::new();
#[btf_map(name = "bond_members")]
pub static BOND_MEMBERS: Array<BondMember, PATHS> = Array::new();
#[btf_map(name = "bond_clocks")]
pub static BOND_CLOCKS: Array<PathClock, PEERS> = Array::new();
#[btf_map(name = "playouts")]
pub static PLAYOUTS: Array<Playout, PEERS> = Array::new();
#[btf_map(name = "playout_stage")]
pub static PLAYOUT_STAGE: Array<Stage, 1> = Array::new();
#[btf_map(name = "held")]
pub static HELD: RingBuf<HeldHeader, HELD_LEN> = RingBuf::new();
#[btf_map(name = "held_scratch")]
pub static HELD_SCRATCH: PerCpuArray<HeldPacket, 1> = PerCpuArray::new();
// No program uses these two: they are here so that they are made, pinned and described like the others.
#[btf_map(name = "path_quality")]
static PATH_QUALITY: Array<PathQuality, PATHS> = Array::new();
#[btf_map(name = "path_log")]
static PATH_LOG: Array<PathLogEntry, PATH_LOG_LEN> = Array::new();

/// The sum of both counters of `generation`: changes whenever a choice may have changed.
#[inline(always)]
pub fn generation() -> u64 {
    let automatic = GENERATION.get(GENERATION_AUTOMATIC).copied().unwrap_or(0);
    let operator = GENERATION.get(GENERATION_OPERATOR).copied().unwrap_or(0);
    automatic.wrapping_add(operator)
}

/// The session with this receiver index (ours). It may be retired at any time; `multipath_common::maps` says what
/// follows.
#[inline(always)]
pub fn session(index: u32) -> Option<*mut Session> {
    let session = SESSIONS.get_ptr_mut(session_slot(index))?;
    // SAFETY: just looked up.
    if index != 0 && unsafe { (*session).index } == index { Some(session) } else { None }
}

/// The keys of the session with this receiver index.
#[inline(always)]
pub fn session_keys(index: u32) -> Option<&'static SessionKeys> {
    SESSION_KEYS.get(session_slot(index))
}
