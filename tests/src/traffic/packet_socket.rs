//! Raw frames at an interface: `AF_PACKET`.

use std::io::IoSliceMut;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::capture::Captured;
use crate::namespace::Namespace;

// The kernel doubles it: room for some 80,000 small packets while the reader is off the CPU.
const RECEIVE_BUFFER: usize = 64 << 20;
/// Longest frame that is received whole, bytes.
pub(crate) const LARGEST_FRAME: usize = 65_536 + 64;

/// A socket bound to one interface that sends and receives whole frames: with the Ethernet header, or from the IP header on where
/// the interface has none.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    interface: String,
}

impl PacketSocket {
    /// A socket that sends through `interface`, past routing and firewall.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn sender(namespace: &Namespace, interface: &str) -> Result<Self> {
        // Protocol 0: nothing is received.
        Self::open(namespace, interface, 0)
    }

    /// A socket that sees all frames that pass `interface` in both directions.
    pub(crate) fn receiver(namespace: &Namespace, interface: &str, timeout: Duration) -> Result<Self> {
        let socket = Self::open(namespace, interface, libc::ETH_P_ALL as u16)?;
        setsockopt(&socket.fd, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
        setsockopt(&socket.fd, sockopt::ReceiveTimestampns, &true)?;
        let timeout = TimeVal::microseconds(timeout.as_micros() as i64);
        setsockopt(&socket.fd, sockopt::ReceiveTimeout, &timeout)?;
        Ok(socket)
    }

    /// Sends one frame as it is.
    ///
    /// # Errors
    /// The kernel refuses it: too long for the interface, shorter than an Ethernet header, or the interface is down.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        send(self.fd.as_raw_fd(), frame, MsgFlags::empty())
            .with_context(|| format!("cannot send a frame of {} bytes through {}", frame.len(), self.interface))?;
        Ok(())
    }

    /// The next frame, or `None` where none came within the timeout. `buffer` has [`LARGEST_FRAME`] bytes and is reused.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> Result<Option<Captured>> {
        let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
        let (length, outgoing, at_ns) = {
            let mut parts = [IoSliceMut::new(buffer)];
            let message =
                match recvmsg::<LinkAddr>(self.fd.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty()) {
                    Ok(message) => message,
                    // ENETDOWN: the interface went down; what comes after is seen if it comes up again.
                    Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => return Ok(None),
                    Err(error) => return Err(error).with_context(|| format!("cannot receive at {}", self.interface)),
                };
            let time = message.cmsgs()?.find_map(|control| match control {
                ControlMessageOwned::ScmTimestampns(time) => Some(time.num_nanoseconds().cast_unsigned()),
                _ => None,
            });
            let outgoing = message.address.is_some_and(|address| address.pkttype() == libc::PACKET_OUTGOING);
            (message.bytes, outgoing, time.unwrap_or(0))
        };
        Ok(Some(Captured { at_ns, is_outgoing: outgoing, bytes: buffer[..length].to_vec() }))
    }

    /// Frames that found the buffer full since the last call (packet(7), `PACKET_STATISTICS`).
    pub(crate) fn missed(&self) -> Result<u32> {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = size_of_val(&statistics) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to the pointer; both outlive the call.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        Errno::result(result).with_context(|| format!("cannot ask what was missed at {}", self.interface))?;
        Ok(statistics.tp_drops)
    }

    fn open(namespace: &Namespace, interface: &str, protocol: u16) -> Result<Self> {
        let open = || -> Result<OwnedFd> {
            let index = if_nametoindex(interface)?;
            // Without a protocol until it is bound, so that frames of other interfaces do not slip in.
            let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None::<SockProtocol>)?;
            bind(&fd, index, protocol)?;
            Ok(fd)
        };
        let fd = namespace.run(open)?.with_context(|| format!("cannot open {interface} of {}", namespace.name()))?;
        Ok(Self { fd, interface: interface.to_owned() })
    }
}

fn bind(fd: &OwnedFd, index: u32, protocol: u16) -> Result<()> {
    // SAFETY: all-zero bytes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index.cast_signed();
    // SAFETY: the pointer and the length are those of a sockaddr_ll that outlives the call.
    let result =
        unsafe { libc::bind(fd.as_fd().as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32) };
    Errno::result(result)?;
    Ok(())
}
