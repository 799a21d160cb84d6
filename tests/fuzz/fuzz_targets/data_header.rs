//! The header of a data or control packet, against the table of the wire format read byte by byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use multipath_common::wire::{
    Class, DataHeader, Flags, HEADER_LEN, HEADER_WORDS, HeaderError, PacketType, Part, type_byte,
};

fuzz_target!(|packet: &[u8]| {
    let Some(bytes) = packet.first_chunk::<HEADER_LEN>() else { return };
    let words: [u32; HEADER_WORDS] = bytemuck::cast(*bytes);
    assert_eq!(type_byte(words[0]), bytes[0]);
    let header = DataHeader::from_words(&words);
    assert_eq!(header, by_table(bytes));
    if let Ok(header) = header {
        assert_eq!(header.to_words(), words, "an accepted header has one form only");
    }
});

fn by_table(bytes: &[u8; HEADER_LEN]) -> Result<DataHeader, HeaderError> {
    let number =
        |at: usize, len: usize| bytes[at..at + len].iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
    let packet_type = match bytes[0] {
        1 => PacketType::HandshakeInitiation,
        2 => PacketType::HandshakeResponse,
        3 => PacketType::Cookie,
        4 => PacketType::Data,
        5 => PacketType::Control,
        _ => return Err(HeaderError::UnknownType),
    };
    let class = match bytes[2] & 0x0f {
        0 => Class::Pin,
        1 => Class::Aggregate,
        2 => Class::Duplicate,
        3 => Class::AggregateDuplicate,
        _ => return Err(HeaderError::UnknownFlags),
    };
    let part = match bytes[3] >> 4 {
        0 => Part::Whole,
        1 => Part::First,
        2 => Part::Second,
        _ => return Err(HeaderError::UnknownFlags),
    };
    Ok(DataHeader {
        packet_type,
        path: bytes[1],
        flags: Flags { class, hold: bytes[2] >> 4 | bytes[3] << 4, part },
        receiver: number(4, 4) as u32,
        counter: number(8, 8),
        timestamp: number(16, 4) as u32,
    })
}
