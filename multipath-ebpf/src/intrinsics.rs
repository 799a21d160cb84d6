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

/// The same length, which is from 1 to `MOST`, a power of two, and which the verifier then knows to be. Linux 6.1 asks for
/// lengths that are not 0, but takes nothing from `len != 0` (kernel/bpf/verifier.c, `reg_set_min_max`), and forgets the bounds of
/// a 32-bit number that goes over the stack. So this stands right where the length is used.
#[inline(always)]
pub fn length<const MOST: u32>(len: u32) -> u32 {
    const { assert!(MOST.is_power_of_two()) };
    ((opaque(u64::from(len)) as u32).wrapping_sub(1) & (MOST - 1)) + 1
}
