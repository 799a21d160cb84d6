//! Control messages and the marks of frames that carry them, against their tables read byte by byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use multipath_common::control::{CONTROL_MARK_LEN, ControlMark, Message, MessageError};

fuzz_target!(|bytes: &[u8]| {
    let expected = match bytes {
        [1, 0, 0, 0] => Ok(Message::Keepalive),
        [] | [_] | [_, _] | [_, _, _] | [1, 0, 0, 0, ..] => Err(MessageError::WrongLength),
        [kind, 0, 0, 0, ..] => Err(MessageError::UnknownKind(*kind)),
        _ => Err(MessageError::ReservedByte),
    };
    let found = Message::from_bytes(bytes);
    assert_eq!(found, expected);
    match found {
        Ok(message) => assert_eq!(message.to_bytes(), *bytes, "an accepted message has one form only"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }

    let Some(frame) = bytes.first_chunk::<CONTROL_MARK_LEN>() else { return };
    let number = |at: usize| u32::from_ne_bytes(std::array::from_fn(|byte| frame[at + byte]));
    let mark = ControlMark::from_words(&std::array::from_fn(|word| number(4 * word)));
    let expected = ControlMark { path: frame[2], peer: number(4), session: number(8) };
    assert_eq!(mark, (frame[..2] == [0x06, 0x33] && frame[3] == 0).then_some(expected));
    if let Some(mark) = mark {
        assert_eq!(mark.to_ethernet(0x86dd), [frame.as_slice(), &[0x86, 0xdd]].concat()[..]);
    }
});
