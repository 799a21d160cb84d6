//! The anti-replay window, against a set that forgets nothing.
#![no_main]

use std::collections::BTreeSet;

use bytemuck::Zeroable;
use libfuzzer_sys::fuzz_target;
use multipath_common::window::Window;

/// Bits of one word of the ring: the window moves by words.
const WORD_BITS: u64 = u64::BITS as u64;

fuzz_target!(|moves: &[u8]| {
    let mut window = Window::zeroed();
    let mut seen = BTreeSet::new();
    let mut counter = 0_u64;
    for step in moves.chunks_exact(4) {
        counter = next(counter, [step[0], step[1], step[2], step[3]]);
        let is_behind =
            seen.last().is_some_and(|highest| highest / WORD_BITS > counter / WORD_BITS + Window::WIDTH / WORD_BITS);
        let expected = !is_behind && counter != u64::MAX && !seen.contains(&counter);
        assert_eq!(window.is_new(counter), expected, "counter {counter}, next {}", window.next);
        assert_eq!(window.mark(counter), expected, "counter {counter}, next {}", window.next);
        if expected {
            seen.insert(counter);
        }
        assert!(!window.is_new(counter), "counter {counter} twice");
        assert_eq!(window.next, seen.last().map_or(0, |highest| highest + 1));
    }
});

/// Neighbours, distances about the window's width, and any distance: by the first byte.
fn next(counter: u64, step: [u8; 4]) -> u64 {
    let by = i64::from(i16::from_le_bytes([step[1], step[2]]));
    match step[0] % 5 {
        0 => counter.saturating_add_signed(by % WORD_BITS.cast_signed()),
        1 => counter.saturating_add_signed(by),
        2 => counter.wrapping_sub(Window::WIDTH).wrapping_add_signed(by % 128),
        3 => counter.wrapping_add(Window::WIDTH).wrapping_add_signed(by % 128),
        _ => counter.wrapping_add_signed(by << (step[3] % 49)),
    }
}
