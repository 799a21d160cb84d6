//! What the language has no word for on this target.

use core::{
    arch::asm,
    intrinsics::{AtomicOrdering, atomic_xadd},
};

/// Adds `count` to the number behind `pointer` and returns what it was before.
///
/// # Safety
/// `pointer` points to a field of a map value that was just looked up.
#[inline(always)]
pub unsafe fn fetch_add(pointer: *mut u64, count: u64) -> u64 {
    // SAFETY: by the caller. BPF_ATOMIC | BPF_FETCH is sequentially consistent and 64 bits wide.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(pointer, count) }
}

/// The same number, of which compiler and verifier know nothing.
///
/// The verifier follows every value that it knows apart; where values must not multiply the ways through a loop, it
/// has to forget them. (An empty template would do for the compiler, but gives a line without instruction, which
/// the kernel refuses: "Invalid `line_info`".)
#[inline(always)]
pub fn opaque(mut number: u64) -> u64 {
    // SAFETY: a register is copied to itself.
    unsafe { asm!("{0} = {0}", inout(reg) number, options(nomem, nostack, preserves_flags)) };
    number
}
