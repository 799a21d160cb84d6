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
};

use crate::maps::{PATH_AUTOMATIC, PATH_CLOCKS, PATH_OPERATOR};

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

/// The rate in force: the operator's, else the automatic one. `None`: there is no limit.
#[inline(always)]
fn rate(slot: u32) -> Option<NonZeroU32> {
    match PATH_OPERATOR.get(slot) {
        Some(settings) if settings.rate_kbps != 0 => NonZeroU32::new(settings.rate_kbps),
        _ => NonZeroU32::new(PATH_AUTOMATIC.get(slot)?.rate_kbps),
    }
}

/// Asks the clock of a path; the number of a [`Verdict`].
#[inline(never)]
fn ask(slot: u32, len: u32, kind: u32) -> u32 {
    let (Some(rate), Some(clock)) = (rate(slot), PATH_CLOCKS.get_ptr_mut(slot)) else {
        return Verdict::Send as u32;
    };
    let pace = Pace::new(rate, len);
    // SAFETY: just looked up. The clock is only touched under the lock, and nothing is called while it is held.
    unsafe {
        let now = bpf_ktime_get_boot_ns();
        lock((&raw mut (*clock).lock).cast::<bpf_spin_lock>());
        let verdict = if kind == Kind::Control as u32 {
            (*clock).carry(now, pace);
            Verdict::Send
        } else {
            (*clock).admit(now, pace, kind == Kind::CapableData as u32)
        };
        unlock((&raw mut (*clock).lock).cast::<bpf_spin_lock>());
        verdict as u32
    }
}

/// Asks whether a path takes data: `len` bytes of outer IP packets with this type-of-service byte. Returns the byte to
/// send it with, in which congestion may be marked: the peer copies the mark inward (RFC 6040 section 4.2).
#[inline(always)]
pub fn admit(slot: u32, len: u32, tos: u8) -> Result<u8, DropReason> {
    const SEND: u32 = Verdict::Send as u32;
    const MARK: u32 = Verdict::Mark as u32;
    let kind = if tos & ECN_MASK == 0 { Kind::Data } else { Kind::CapableData };
    match ask(slot, len, kind as u32) {
        SEND => Ok(tos),
        MARK => Ok(tos | ECN_MASK),
        _ => Err(DropReason::PathFull),
    }
}

/// Notes a control message, which is never refused.
#[inline(always)]
pub fn carry(slot: u32, len: u32) {
    ask(slot, len, Kind::Control as u32);
}
