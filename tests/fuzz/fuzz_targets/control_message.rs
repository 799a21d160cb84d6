//! Control messages and the marks of frames that carry them, against their tables read byte by byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use multipath_common::control::{CONTROL_MARK_LEN, ControlMark, Message, MessageError, Probe, REPLY_LEN, Reply};

fuzz_target!(|bytes: &[u8]| {
    let found = Message::from_bytes(bytes);
    assert_eq!(found, expected(bytes));
    match found {
        Ok(message) => {
            let (again, len) = message.to_bytes();
            assert_eq!(again[..len], bytes[..len], "an accepted message has one form only");
            assert!(bytes[len..].iter().all(|byte| *byte == 0), "but for the padding of a probe");
        }
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

/// What the tables say.
fn expected(bytes: &[u8]) -> Result<Message, MessageError> {
    let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
    let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
    match (bytes.first(), bytes.len()) {
        (Some(1), 4) if bytes[1..] == [0, 0, 0] => Ok(Message::Keepalive),
        (Some(1), 4) => Err(MessageError::ReservedByte),
        (Some(2), len) if len >= REPLY_LEN => {
            if usize::from(u16_at(2)) != len {
                return Err(MessageError::WrongLength);
            }
            if bytes[9] > 1 || bytes[10..16].iter().chain(&bytes[24..]).any(|byte| *byte != 0) {
                return Err(MessageError::ReservedByte);
            }
            let (role, path, is_member) = (bytes[1], bytes[8], bytes[9]);
            Ok(Message::Probe(Probe {
                role,
                len: u16_at(2),
                sequence: u32_at(4),
                path,
                is_member,
                sent_packets: u64_at(16),
            }))
        }
        (Some(3), REPLY_LEN) => Ok(Message::Reply(Reply {
            path: bytes[1],
            len: u16_at(2),
            sequence: u32_at(4),
            sent_us: u32_at(8),
            reached_us: u32_at(12),
            packets: u64_at(16),
            bytes: u64_at(24),
            counter: u64_at(32),
            reordered: u64_at(40),
            late: u64_at(48),
            smoothed_us: u32_at(56),
            jitter_us: u32_at(60),
            need_us: u32_at(64),
            spread_us: u32_at(68),
        })),
        (None | Some(1..=3), _) => Err(MessageError::WrongLength),
        (Some(kind), _) => Err(MessageError::UnknownKind(*kind)),
    }
}
