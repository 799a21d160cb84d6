//! The tag of `cipher = "none"`: zeros. Apart from the AEAD, whose scratch and key schedule cost as much as all the
//! rest of such a packet.

use multipath_common::wire::TAG_LEN;

use crate::{
    intrinsics::opaque,
    packet::{MAX_OFFSET, Packet},
};

/// Writes the tag at an offset of the packet. 0: done.
#[inline(always)]
pub fn write(packet: Packet, offset: usize) -> u32 {
    write_at(packet.start(), packet.end(), offset as u64)
}

/// Checks the tag at an offset of the packet. 0: it is zeros.
#[inline(always)]
pub fn check(packet: Packet, offset: usize) -> u32 {
    check_at(packet.start(), packet.end(), offset as u64)
}

#[inline(never)]
fn write_at(start: usize, end: usize, offset: u64) -> u32 {
    // Plain zeros become a call of memset, a loop over bytes.
    let zero = opaque(0) as u32;
    let packet = Packet::new(opaque(start as u64) as usize, end);
    match packet.set_words(bounded(offset), [zero; TAG_LEN / 4]) {
        Some(()) => opaque(0) as u32,
        None => 1,
    }
}

#[inline(never)]
fn check_at(start: usize, end: usize, offset: u64) -> u32 {
    let packet = Packet::new(opaque(start as u64) as usize, end);
    match packet.words::<{ TAG_LEN / 4 }>(bounded(offset)) {
        Some([one, two, three, four]) => opaque(u64::from(one | two | three | four)) as u32,
        None => 1,
    }
}

/// The offset, with the bound that the verifier asks for. The compiler knows it from the callers and would leave the mask
/// out, but the verifier of Linux 6.1 forgets it where a number of 32 bits goes over the stack.
#[inline(always)]
fn bounded(offset: u64) -> usize {
    opaque(offset) as usize & MAX_OFFSET
}
