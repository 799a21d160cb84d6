//! Which path a packet takes that may take several: see `multipath_common::stripe`.

use core::num::NonZeroU32;

use aya_ebpf::helpers::{bpf_ktime_get_boot_ns, bpf_loop};
use multipath_common::{
    bond::{Bond, BondMember},
    classes::FULL_HOLD,
    ecn::ECN_MASK,
    maps::{MAX_PATHS, PATH_UP, path_slot},
    pacing::Verdict,
    stripe::{Soonest, timestamp},
};

use crate::{
    egress::overhead,
    maps::{BOND_MEMBERS, BONDS, PATHS_MAP, PEERS_MAP},
    pacing,
    path_choice::is_put_down,
};

/// A path that loses so many packets, parts per million, has them repaired while there is room: what a flow that stands
/// still for each loss can bear.
const REPAIRED_PPM: u32 = 200;
/// There is room for second packets while queues are shorter than this, nanoseconds: less than what is always allowed
/// ([`multipath_common::pacing`]), so that nobody is refused because of them.
const ROOM_NS: u64 = 8_000_000;

/// In place of a hold: not the path whose clock is free first is looked for but the one by which a packet arrives first,
/// and it need have no clock.
const BY_ARRIVAL: u32 = u32::MAX;

/// A search under way.
struct Search {
    soonest: Soonest,
    peer: u32,
    path_set: u32,
    len: u32,
    hold: u32,
}

/// Looks at one path; a body of `bpf_loop`, because the verifier follows that once and not once for every path.
extern "C" fn offer_path(index: u32, search: *mut Search) -> i64 {
    // SAFETY: the caller's stack, for the length of the loop.
    let search = unsafe { &mut *search };
    let path = index as u8 & (MAX_PATHS as u8 - 1);
    let slot = path_slot(search.peer, path);
    if search.path_set >> path & 1 == 0 {
        return 0;
    }
    let Some(usable) = PATHS_MAP.get(slot) else { return 0 };
    if usable.state != PATH_UP || usable.inner_mtu < search.len || is_put_down(slot) {
        return 0;
    }
    let Some(&BondMember { hold, penalty_us, delay_us, .. }) = BOND_MEMBERS.get(slot) else { return 0 };
    let rate = pacing::clock_rate(slot).map_or(0, NonZeroU32::get);
    if search.hold == BY_ARRIVAL {
        search.soonest.offer(path, pacing::free_ns(slot), delay_us, rate);
    } else if hold <= search.hold && rate != 0 {
        search.soonest.offer(path, pacing::free_ns(slot), penalty_us, rate);
    }
    0
}

/// The path that is soonest for a packet of `len` bytes, among those of a set.
#[inline(always)]
fn soonest(peer: u32, path_set: u32, len: u32, hold: u32) -> Soonest {
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let mut search = Search { soonest: Soonest::new(now), peer, path_set, len, hold };
    // SAFETY: callback and context fit each other.
    unsafe { bpf_loop(MAX_PATHS as u32, offer_path as *mut _, (&raw mut search).cast(), 0) };
    search.soonest
}

/// What became of a packet that is to be striped. One number, because a subprogram returns nothing else.
#[derive(Clone, Copy)]
pub struct Striped(u64);

impl Striped {
    /// No path was looked for, or none is fit.
    pub const NOWHERE: Self = Self(0);

    /// By the path that was found.
    #[inline(always)]
    const fn new(verdict: Verdict, soonest: &Soonest, timestamp: u32) -> Self {
        let has_room = soonest.wait_ns() < ROOM_NS;
        Self((timestamp as u64) << 32 | (has_room as u64) << 16 | (verdict as u64) << 8 | soonest.found as u64)
    }

    /// Path id of its path; `None`: no path is fit for striping, and the packet was not counted.
    #[inline(always)]
    pub const fn path(self) -> Option<u8> {
        if self.0 as u8 == 0 { None } else { Some(self.0 as u8 - 1) }
    }

    /// Whether the bond is full: the packet is dropped.
    #[inline(always)]
    pub const fn is_refused(self) -> bool {
        self.0 >> 8 & 0xff == Verdict::Drop as u64
    }

    /// Whether it is marked that the bond is about to be full.
    #[inline(always)]
    pub const fn is_marked(self) -> bool {
        self.0 >> 8 & 0xff == Verdict::Mark as u64
    }

    /// Whether the bond has room for repairs.
    #[inline(always)]
    pub const fn has_room(self) -> bool {
        self.0 >> 16 & 1 != 0
    }

    /// Its sender timestamp.
    #[inline(always)]
    pub const fn timestamp(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// How long packets are held that are held for `hold`, microseconds.
#[inline(always)]
pub fn held_us(peer: u32, hold: u32) -> u32 {
    let spread_us = BONDS.get(peer).map_or(0, |bond| bond.spread_us);
    (u64::from(spread_us) * u64::from(hold) / u64::from(FULL_HOLD)) as u32
}

/// Stripes an inner packet of `len` bytes, with this type-of-service byte, of a flow that is held for `hold` and whose last
/// packet had the timestamp `last`. The number of a [`Striped`].
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn stripe_number(peer: u32, len: u32, hold: u32, tos: u32, last: u32) -> u64 {
    let Some(&Bond { members, .. }) = BONDS.get(peer) else { return Striped::NOWHERE.0 };
    if members == 0 {
        return Striped::NOWHERE.0;
    }
    let soonest = soonest(peer, members, len, hold);
    let Some(rate) = NonZeroU32::new(soonest.rate_kbps) else { return Striped::NOWHERE.0 };
    if soonest.found == 0 {
        return Striped::NOWHERE.0;
    }
    let slot = path_slot(peer, soonest.found as u8 - 1);
    let Some(path) = PATHS_MAP.get(slot) else { return Striped::NOWHERE.0 };
    let len = len + overhead(path);
    let is_capable = tos & u32::from(ECN_MASK) != 0;
    let verdict = pacing::ask_bond(peer, rate, soonest.free_ns, (len, held_us(peer, hold)), is_capable);
    if matches!(verdict, Verdict::Drop) {
        return Striped::new(verdict, &soonest, 0).0;
    }
    let handicap = soonest.at_ns.wrapping_sub(soonest.now_ns + soonest.wait_ns());
    // The rate may have gone since.
    let leaves = pacing::carry_striped(slot, len).unwrap_or(soonest.now_ns);
    Striped::new(verdict, &soonest, timestamp(last, leaves + handicap)).0
}

/// Stripes an inner packet: see [`stripe_number`].
#[inline(always)]
pub fn stripe(peer: u32, len: u32, hold: u32, tos: u8, last: u32) -> Striped {
    Striped(stripe_number(peer, len, hold, u32::from(tos), last))
}

/// A second path for an inner packet of `len` bytes, other than `first`: the one by which it arrives first, if it is idle.
/// Path id + 1; 0: there is none.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn second_number(peer: u32, path_set: u32, len: u32, room_ns: u64) -> u32 {
    let soonest = soonest(peer, path_set, len, BY_ARRIVAL);
    if soonest.wait_ns() < room_ns { soonest.found } else { 0 }
}

#[inline(always)]
const fn without(path_set: u32, path: u8) -> u32 {
    path_set & !(1 << (path & (MAX_PATHS as u8 - 1)))
}

/// A second path for a packet that was striped over `first`, where that one loses packets while the bond and the second
/// path have room. One of the bond: by others it would come too late, and may cost money.
#[inline(always)]
pub fn repair(peer: u32, first: u8, striped: Striped, len: u32) -> Option<u8> {
    if !striped.has_room() || BOND_MEMBERS.get(path_slot(peer, first))?.loss_ppm < REPAIRED_PPM {
        return None;
    }
    let &Bond { members, .. } = BONDS.get(peer)?;
    second_number(peer, without(members, first), len, ROOM_NS).checked_sub(1).map(|path| path as u8)
}

/// A second path for a packet that is worth it. `is_sure`: only one that has been measured.
#[inline(always)]
pub fn second(peer: u32, first: u8, len: u32, is_sure: bool) -> Option<u8> {
    let path_set = if is_sure { BONDS.get(peer)?.measured } else { PEERS_MAP.get(peer)?.path_set };
    second_number(peer, without(path_set, first), len, ROOM_NS).checked_sub(1).map(|path| path as u8)
}
