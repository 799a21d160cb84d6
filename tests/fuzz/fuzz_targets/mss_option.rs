//! The search for TCP's MSS option, against one that walks slices.
#![no_main]

use libfuzzer_sys::fuzz_target;
use multipath_common::mss::{MAX_OPTIONS_LEN, OPTIONS_BUFFER_LEN, Search};

fuzz_target!(|options: &[u8]| {
    if options.len() > MAX_OPTIONS_LEN {
        return;
    }
    let mut buffer = [0; OPTIONS_BUFFER_LEN];
    buffer[..options.len()].copy_from_slice(options);
    let mut search = Search::new(buffer, options.len() as u32);
    let steps = (0..MAX_OPTIONS_LEN).take_while(|_| search.step()).count();
    assert!(steps < MAX_OPTIONS_LEN, "the search ends within the steps that the programs take");
    let expected = naive(options).map(|value| {
        let at = value.as_ptr().addr() - options.as_ptr().addr();
        (at as u32, u16::from_be_bytes([value[0], value[1]]))
    });
    assert_eq!(search.found(), expected);
});

fn naive(options: &[u8]) -> Option<&[u8]> {
    match options {
        [] | [_] | [0, ..] => None,
        [1, rest @ ..] => naive(rest),
        [_, size, ..] if *size < 2 || usize::from(*size) > options.len() => None,
        [2, 4, value @ ..] => Some(&value[..2]),
        [2, ..] => None,
        [_, size, ..] => naive(&options[usize::from(*size)..]),
    }
}
