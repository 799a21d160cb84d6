//! The layout of handshake messages, against the table read byte by byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use multipath_loader::protocol::message::{
    COOKIE_LEN, INITIATION_LEN, MAC_LEN, Message, MessageError, NONCE_LEN, RESPONSE_LEN, parse,
};

fuzz_target!(|datagram: &[u8]| {
    let parsed = parse(datagram);
    assert_eq!(parsed.map(|_| ()), by_table(datagram));
    let Ok(message) = parsed else { return };
    let bytes = match message {
        Message::Initiation { sender, noise, macs } => {
            assert_eq!([macs.body, macs.mac1].concat(), macs.body_and_mac1);
            [&[1, 0, 0, 0], &sender.to_le_bytes()[..], noise, macs.mac1, macs.mac2].concat()
        }
        Message::Response { sender, receiver, noise, macs } => {
            assert_eq!([macs.body, macs.mac1].concat(), macs.body_and_mac1);
            let indices = [sender.to_le_bytes(), receiver.to_le_bytes()].concat();
            [&[2, 0, 0, 0], &indices[..], noise, macs.mac1, macs.mac2].concat()
        }
        Message::Cookie { receiver, nonce, sealed } => {
            [&[3, 0, 0, 0], &receiver.to_le_bytes()[..], nonce, sealed].concat()
        }
    };
    assert_eq!(bytes, datagram, "every byte belongs to one field");
});

fn by_table(datagram: &[u8]) -> Result<(), MessageError> {
    let length = MessageError::Length(datagram.len());
    if datagram.len() < 4 {
        return Err(length);
    }
    let (expected, index) = match datagram[0] {
        1 => (4 + 4 + 120 + 2 * MAC_LEN, 4..8),
        2 => (4 + 4 + 4 + 56 + 2 * MAC_LEN, 8..12),
        3 => (4 + 4 + NONCE_LEN + 16 + 16, 4..8),
        _ => return Err(MessageError::Type),
    };
    assert!([INITIATION_LEN, RESPONSE_LEN, COOKIE_LEN].contains(&expected));
    if datagram.len() != expected {
        return Err(length);
    }
    if datagram[1..4] != [0; 3] || datagram[index] == [0; 4] {
        return Err(MessageError::Reserved);
    }
    Ok(())
}
