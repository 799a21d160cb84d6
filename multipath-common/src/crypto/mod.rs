//! ChaCha20-Poly1305 (RFC 8439), from one source for BPF and the host.
//!
//! BPF has ten registers, 512 bytes of stack and no rotation. So the state lies in memory that the caller provides (a
//! per-CPU map), and is read and written where the code says so: left to itself, LLVM keeps twice as many values as
//! there are registers, and spills them. Words are little-endian, as in the RFC, unless memory order is named.

pub mod aead;
pub mod chacha20;
pub mod poly1305;
#[cfg(test)]
mod vectors;

/// Reads a number that lives in memory.
#[inline(always)]
fn load<T: Copy>(place: &T) -> T {
    // SAFETY: a reference.
    unsafe { core::ptr::read_volatile(place) }
}

/// Writes a number that lives in memory.
#[inline(always)]
fn store<T: Copy>(place: &mut T, number: T) {
    // SAFETY: a reference.
    unsafe { core::ptr::write_volatile(place, number) }
}

/// A word, rotated by `N` bits.
///
/// In BPF it is one piece, because LLVM would put off half of it and spill registers meanwhile. (A multiplication by
/// 2^32 + 1 and a shift are two instructions less, but wait four cycles instead of two.)
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn rotate_left<const N: u32>(mut word: u32) -> u32 {
    // SAFETY: only the two registers are touched.
    unsafe {
        core::arch::asm!(
            "{right} = {word}",
            "{word} <<= {n}",
            "{right} >>= {rest}",
            "{word} |= {right}",
            word = inout(wreg) word,
            right = out(wreg) _,
            n = const N,
            rest = const 32 - N,
            options(nostack),
        );
    }
    word
}

/// A word, rotated by `N` bits.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
const fn rotate_left<const N: u32>(word: u32) -> u32 {
    word.rotate_left(N)
}
