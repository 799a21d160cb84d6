//! Which XDP a driver has, by the generic netlink family `netdev` (Documentation/netlink/specs/netdev.yaml, Linux 6.3).

use std::io;

use netlink_packet_core::{NlaBuffer, NlasIterator};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use nix::libc;

use super::UnderlayError;

/// `CTRL_CMD_GETFAMILY` of the family `nlctrl`, and its attributes (include/uapi/linux/genetlink.h).
const CONTROL_FAMILY: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `NETDEV_CMD_DEV_GET` and its attributes (include/uapi/linux/netdev.h).
const GET_DEVICE: u8 = 1;
const DEVICE_INDEX: u16 = 1;
const DEVICE_XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_BASIC`: the driver runs programs itself, at its own hook.
const NATIVE: u64 = 1;

/// Bytes of the netlink and the generic netlink header.
const HEADERS: usize = 16 + 4;

/// Whether the driver of the interface with that index runs XDP programs itself; `None` if the kernel does not say
/// (before 6.3). In the calling thread's namespace.
///
/// # Errors
/// There is no such interface, or the socket failed.
pub fn native_xdp(index: u32) -> Result<Option<bool>, UnderlayError> {
    let failed = |source| UnderlayError::Kernel { what: format!("ask for the XDP of interface {index}"), source };
    let ask = || -> io::Result<Option<bool>> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        let Some(family) = family(&socket)? else { return Ok(None) };
        let answer = request(&socket, family, GET_DEVICE, DEVICE_INDEX, &index.to_ne_bytes())?;
        let features = attribute(&answer, DEVICE_XDP_FEATURES).and_then(|bytes| bytes.try_into().ok());
        Ok(features.map(|bytes| u64::from_ne_bytes(bytes) & NATIVE != 0))
    };
    ask().map_err(failed)
}

/// The number of the family `netdev`, if the kernel has it.
fn family(socket: &Socket) -> io::Result<Option<u16>> {
    match request(socket, CONTROL_FAMILY, GET_FAMILY, FAMILY_NAME, b"netdev\0") {
        Ok(answer) => Ok(attribute(&answer, FAMILY_ID).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends a request with one attribute and returns the answer's attributes.
fn request(socket: &Socket, family: u16, command: u8, kind: u16, value: &[u8]) -> io::Result<Vec<u8>> {
    let mut message = vec![0; 4];
    message.extend(family.to_ne_bytes());
    message.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    // Sequence number and port stay zero; then the command and its version, and two reserved bytes.
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend((4 + value.len() as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
    let length = (message.len() as u32).to_ne_bytes();
    message[..4].copy_from_slice(&length);

    socket.send_to(&message, &SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    if kind.map(i32::from) == Some(libc::NLMSG_ERROR) {
        let number = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
        return Err(io::Error::from_raw_os_error(number.map_or(libc::EIO, i32::wrapping_neg)));
    }
    Ok(answer.get(HEADERS..).unwrap_or_default().to_vec())
}

/// The value of the attribute of that kind.
fn attribute(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|attribute: &NlaBuffer<&[u8]>| attribute.kind() == kind)
        .map(|attribute| attribute.value().to_vec())
}
