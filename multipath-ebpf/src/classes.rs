//! What class a flow has, and what was carried for it: see `multipath_common::classify`.

use aya_ebpf::helpers::bpf_loop;
use multipath_common::{
    classes::{FULL_HOLD, FlowClass, FlowEvent, MAX_CLASS_RULES, destination_key, stats_slot},
    classify::Lookup,
    maps::{Flow, FlowKey},
    wire::Class,
};

use crate::{
    maps::{BONDS, CLASS_RULES, CLASS_STATS, DESTINATIONS, FLOW_EVENTS, LEADS},
    path_choice::Choice,
};

/// Looks at one rule; a body of `bpf_loop`, because the verifier follows that once and not once for every rule.
extern "C" fn offer_rule(index: u32, lookup: *mut Lookup) -> i64 {
    // SAFETY: the caller's stack, for the length of the loop.
    let lookup = unsafe { &mut *lookup };
    CLASS_RULES.get(index).map_or(1, |rule| i64::from(lookup.offer(rule)))
}

/// Looks a flow up in the rules for a packet with this DSCP and of `len` bytes, and remembers the outcome.
#[inline(never)]
fn look_up(flow: *mut Flow, key: &FlowKey, dscp: u32, len: u32) -> i32 {
    let mut lookup = Lookup::new(*key, dscp, len);
    // SAFETY: callback and context fit each other.
    unsafe { bpf_loop(MAX_CLASS_RULES as u32, offer_rule as *mut _, (&raw mut lookup).cast(), 0) };
    // SAFETY: the caller has just looked the flow up. Two processors that write it at once write the same, unless its
    // packets differ; then the next packet that does not fit is looked up again.
    unsafe {
        (*flow).rule = lookup.rule;
        (*flow).dscp = lookup.same_dscp;
        (*flow).shortest = lookup.shortest;
        (*flow).longest = lookup.longest;
        (*flow).class = lookup.class;
        if let Some(stats) = CLASS_STATS.get_ptr_mut(stats_slot(lookup.rule, carried_as(lookup.class) as u32)) {
            (*stats).matches += 1;
        }
    }
    0
}

/// What packets of a class are carried as, where that can be.
#[inline(always)]
const fn carried_as(class: u32) -> Class {
    match FlowClass::from_number(class) {
        Some(FlowClass::Aggregate) => Class::Aggregate,
        Some(FlowClass::Duplicate) => Class::Duplicate,
        _ => Class::Pin,
    }
}

/// 1 when a flow's destination is remembered.
#[inline(never)]
fn recall(key: &FlowKey, now: u64) -> i32 {
    // SAFETY: the value is read at once.
    unsafe { DESTINATIONS.get(destination_key(key)) }.is_some_and(|destination| destination.until_ns > now).into()
}

/// The [`FlowClass`] of a flow, for a packet with this DSCP and of `len` bytes, which is counted.
///
/// # Safety
/// The flow was just looked up.
#[inline(always)]
pub unsafe fn of_flow(flow: *mut Flow, key: &FlowKey, dscp: u32, len: u32, now: u64) -> u32 {
    // SAFETY: by the caller. Its counters belong to all processors that send the flow's packets, which are seldom two; what
    // one of them adds may get lost then.
    unsafe {
        if !(*flow).is_classed(dscp, len) {
            // A flow without a rule is aggregate when its destination was remembered as it began; and stays that.
            let is_recalled = (*flow).rule == 0 && (*flow).class == FlowClass::Aggregate as u32;
            look_up(flow, key, dscp, len);
            if (*flow).rule == 0 && (is_recalled || (*flow).bytes == 0 && recall(key, now) != 0) {
                (*flow).class = FlowClass::Aggregate as u32;
            }
        }
        (*flow).take(now, len);
        (*flow).class
    }
}

/// How long packets of a flow are held that is striped, n/255 of D; `None` for one that is not.
#[inline(always)]
pub fn hold(class: u32, is_bulk: u32, key: &FlowKey) -> Option<u32> {
    if class == FlowClass::Aggregate as u32 {
        return Some(FULL_HOLD);
    }
    if class != FlowClass::Automatic as u32 || is_bulk == 0 {
        return None;
    }
    // SAFETY: read at once.
    unsafe { LEADS.get(key) }.map(|lead| lead.hold & FULL_HOLD)
}

/// Watches a pinned packet of an automatic flow: tells the daemon when the flow turns out to be bulk.
///
/// # Safety
/// The flow was just looked up.
#[inline(always)]
pub unsafe fn watch(flow: *mut Flow, key: &FlowKey, choice: Choice, now: u64, is_pressed: bool) {
    // SAFETY: by the caller.
    unsafe {
        if (*flow).look(now, is_pressed) && announce(key, choice.peer, u32::from(choice.path)) == 0 {
            (*flow).is_bulk = 1;
        }
    }
}

/// Tells the daemon of a flow. Not 0 when the ring is full.
#[inline(never)]
fn announce(key: &FlowKey, peer: u32, path: u32) -> i32 {
    i32::from(FLOW_EVENTS.output(FlowEvent { flow: *key, peer, path }, 0).is_err())
}

/// Whether small control packets of automatic flows go to a peer twice even if they are many.
#[inline(always)]
pub fn is_lossy(peer: u32) -> bool {
    BONDS.get(peer).is_some_and(|bond| bond.is_lossy != 0)
}

/// Counts an inner packet of `len` bytes for the rule that its flow goes by, and what it was carried as.
#[inline(always)]
pub fn count(rule: u32, carried_as: u32, len: u32, is_doubled: bool) {
    if let Some(stats) = CLASS_STATS.get_ptr_mut(stats_slot(rule, carried_as)) {
        // SAFETY: this CPU's own value, just looked up.
        unsafe {
            (*stats).packets += 1;
            (*stats).bytes += u64::from(len);
            if is_doubled {
                (*stats).copies += 1;
                (*stats).copied_bytes += u64::from(len);
            }
        }
    }
}
