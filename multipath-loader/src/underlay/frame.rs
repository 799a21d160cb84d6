//! Frames written to the tunnel's device: what the daemon has the egress program seal.

use std::{
    io, mem,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, send, socket},
};

use super::Link;

/// A socket that sends whole frames through one interface, past routing, and receives nothing.
pub struct FrameSocket {
    fd: OwnedFd,
}

impl FrameSocket {
    /// A socket for that interface.
    ///
    /// # Errors
    /// The right `CAP_NET_RAW` is missing, or the interface is gone.
    pub fn open(link: &Link) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // Without a protocol: nothing is received.
        let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None::<SockProtocol>)?;
        // SAFETY: all-zero bytes are a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = link.index.cast_signed();
        // SAFETY: pointer and length are those of a sockaddr_ll that outlives the call.
        let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32) };
        Errno::result(bound)?;
        Ok(Self { fd })
    }

    /// Sends a frame, from its Ethernet header on.
    ///
    /// # Errors
    /// The interface is down or gone, or its queue is full.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.fd.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }

    /// Sends frames by as few system calls as the kernel takes (`UIO_MAXIOV` of them each, sendmmsg(2)).
    ///
    /// # Errors
    /// As [`Self::send`], for the last frame that was not sent; all others were.
    pub fn send_all<const LEN: usize>(&self, frames: &[[u8; LEN]]) -> io::Result<()> {
        let mut parts: Vec<libc::iovec> = frames
            .iter()
            .map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: LEN })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: all-zero bytes are a valid mmsghdr: no address, no data, no control data.
                let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        let mut done = Ok(());
        let mut rest = &mut messages[..];
        while !rest.is_empty() {
            // SAFETY: each message points to one part, each part to one frame, and all of them outlive the call.
            let sent = unsafe {
                libc::sendmmsg(self.fd.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, libc::MSG_DONTWAIT)
            };
            // It fails by the first of those that it was given.
            let past = Errno::result(sent).unwrap_or_else(|error| {
                done = Err(error.into());
                1
            });
            rest = &mut rest[past.cast_unsigned() as usize..];
        }
        done
    }
}
