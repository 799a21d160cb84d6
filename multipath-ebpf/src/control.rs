//! Control messages on their way to the daemon.

use aya_ebpf::{helpers::bpf_skb_load_bytes, programs::TcContext};
use multipath_common::control::MAX_CONTROL_LEN;

use crate::{arrival::Arrival, maps::CONTROL_EVENTS};

/// Puts an opened and accepted message, which stands at an offset of the packet, into the daemon's ring. Not 0 when the
/// ring has no room.
#[inline(never)]
pub fn hand_over(ctx: &TcContext, arrival: &Arrival, offset: u32) -> i32 {
    let Some(mut entry) = CONTROL_EVENTS.reserve(0) else {
        return -1;
    };
    let event = entry.as_mut_ptr();
    let len = if arrival.payload_len < MAX_CONTROL_LEN as u32 { arrival.payload_len } else { MAX_CONTROL_LEN as u32 };
    // SAFETY: the entry was just reserved, and the length is checked against its bytes; the context is valid while the
    // program runs.
    let loaded = unsafe {
        (*event).peer = arrival.peer;
        (*event).session = arrival.header.receiver;
        (*event).slot = arrival.slot;
        (*event).path = u32::from(arrival.header.path);
        (*event).received_ns = arrival.now;
        (*event).timestamp = arrival.header.timestamp;
        (*event).len = arrival.payload_len;
        len == 0 || bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, (&raw mut (*event).bytes).cast(), len) == 0
    };
    if loaded {
        entry.submit(0);
        0
    } else {
        entry.discard(0);
        -1
    }
}
