//! Holds the paths to their rates: see `multipath_common::pacing`.

use core::num::NonZeroU32;

use aya_ebpf::{
    bindings::bpf_spin_lock,
    helpers::{bpf_ktime_get_boot_ns, bpf_spin_lock as lock, bpf_spin_unlock as unlock},
};
use multipath_common::{
    drops::DropReason,
    ecn::ECN_MASK,
    pacing::{Pace, Verdict},
    quality::PathClock,
};

use crate::maps::{BOND_CLOCKS, BOND_MEMBERS, PATH_AUTOMATIC, PATH_CLOCKS, PATH_OPERATOR};

/// What goes by a path.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Kind {
    /// Data of a flow that does not hear of congestion marks.
    Data = 0,
    /// Data of a flow that does.
    CapableData = 1,
    /// A control message.
    Control = 2,
}

/// Beside a verdict: the packet found the queue above its target.
const PRESSED: u32 = 1 << 8;

/// The rate in force: the operator's, else the automatic one. `None`: there is no limit.
#[inline(always)]
fn rate(slot: u32) -> Option<NonZeroU32> {
    match PATH_OPERATOR.get(slot) {
        Some(settings) if settings.rate_kbps != 0 => NonZeroU32::new(settings.rate_kbps),
        _ => NonZeroU32::new(PATH_AUTOMATIC.get(slot)?.rate_kbps),
    }
}

/// The rate by which packets are striped over a path that has no limit. What else goes by it is counted, and never refused.
#[inline(always)]
fn striping_rate(slot: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(BOND_MEMBERS.get(slot)?.rate_kbps)
}

/// The rate that a path's clock runs by, if it does.
#[inline(always)]
pub fn clock_rate(slot: u32) -> Option<NonZeroU32> {
    rate(slot).or_else(|| striping_rate(slot))
}

/// When a path's clock is free, nanoseconds; 0 for one that does not run.
#[inline(always)]
pub fn free_ns(slot: u32) -> u64 {
    if clock_rate(slot).is_none() {
        return 0;
    }
    PATH_CLOCKS.get(slot).map_or(0, |clock| clock.next_free_ns)
}

/// Works on a clock at the present time, under its lock.
///
/// # Safety
/// The clock was just looked up; `work` calls nothing.
#[inline(always)]
unsafe fn locked<T>(clock: *mut PathClock, work: impl FnOnce(&mut PathClock, u64) -> T) -> T {
    // SAFETY: by the caller. The clock is only touched under the lock.
    unsafe {
        let now = bpf_ktime_get_boot_ns();
        lock((&raw mut (*clock).lock).cast::<bpf_spin_lock>());
        let result = work(&mut *clock, now);
        unlock((&raw mut (*clock).lock).cast::<bpf_spin_lock>());
        result
    }
}

/// Asks the clock of a path; the number of a [`Verdict`], and [`PRESSED`].
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn ask(slot: u32, len: u32, kind: u32) -> u32 {
    let limit = rate(slot);
    let (Some(rate), Some(clock)) = (limit.or_else(|| striping_rate(slot)), PATH_CLOCKS.get_ptr_mut(slot)) else {
        return Verdict::Send as u32;
    };
    let pace = Pace::new(rate, len);
    let is_carried = limit.is_none() || kind == Kind::Control as u32;
    let is_capable = kind == Kind::CapableData as u32;
    // SAFETY: just looked up; everything in it is inlined.
    unsafe {
        locked(clock, |clock, now| {
            if is_carried {
                let is_pressed =
                    kind != Kind::Control as u32 && clock.next_free_ns.saturating_sub(now) > pace.target_ns;
                clock.carry(now, pace);
                return Verdict::Send as u32 | if is_pressed { PRESSED } else { 0 };
            }
            let before = clock.pressed;
            let verdict = clock.admit(now, pace, is_capable) as u32;
            if clock.pressed == before { verdict } else { verdict | PRESSED }
        })
    }
}

/// That a path takes a packet.
#[derive(Clone, Copy)]
pub struct Admission {
    /// Type-of-service byte to send it with.
    pub tos: u8,
    /// It found the path full.
    pub is_pressed: bool,
}

/// Asks whether a path takes data: `len` bytes of outer IP packets with this type-of-service byte, in which congestion
/// may be marked: the peer copies the mark inward (RFC 6040 section 4.2).
#[inline(always)]
pub fn admit(slot: u32, len: u32, tos: u8) -> Result<Admission, DropReason> {
    const SEND: u32 = Verdict::Send as u32;
    const MARK: u32 = Verdict::Mark as u32;
    let kind = if tos & ECN_MASK == 0 { Kind::Data } else { Kind::CapableData };
    let answer = ask(slot, len, kind as u32);
    let is_pressed = answer & PRESSED != 0;
    match answer & !PRESSED {
        SEND => Ok(Admission { tos, is_pressed }),
        MARK => Ok(Admission { tos: tos | ECN_MASK, is_pressed }),
        _ => Err(DropReason::PathFull),
    }
}

/// Notes a control message, which is never refused.
#[inline(always)]
pub fn carry(slot: u32, len: u32) {
    ask(slot, len, Kind::Control as u32);
}

/// Asks the clock of a peer's bond, whose members carry `rate` together and whose first free one is free at `free_ns`,
/// about a packet of `len` bytes that is held for `held_us` microseconds.
#[inline(always)]
pub fn ask_bond(peer: u32, rate: NonZeroU32, free_ns: u64, (len, held_us): (u32, u32), is_capable: bool) -> Verdict {
    let Some(clock) = BOND_CLOCKS.get_ptr_mut(peer) else {
        return Verdict::Send;
    };
    let pace = Pace::new(rate, len).held(held_us);
    // SAFETY: just looked up; everything in it is inlined.
    unsafe { locked(clock, |clock, now| clock.admit_to_bond(now, free_ns, pace, is_capable)) }
}

/// Notes a packet that the bond has let pass on the clock of its path; when it leaves, nanoseconds.
#[inline(always)]
pub fn carry_striped(slot: u32, len: u32) -> Option<u64> {
    let pace = Pace::new(clock_rate(slot)?, len).striped();
    // SAFETY: just looked up; everything in it is inlined.
    Some(unsafe { locked(PATH_CLOCKS.get_ptr_mut(slot)?, |clock, now| clock.carry_striped(now, pace)) })
}
