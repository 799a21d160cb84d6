//! Frames written to the tunnel's device, which the egress program seals, and to its port, which the device receives.

use std::{
    io, mem,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    sys::{
        socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, send, setsockopt, socket, sockopt},
        time::{TimeVal, TimeValLike},
    },
};

use super::Link;

/// How long a socket waits at most until the kernel is done with frames that were sent before, milliseconds. It is,
/// within microseconds, unless a processor is hogged.
const LONGEST_WAIT_MS: i64 = 10;
/// Bytes of frames that may be under way, which the kernel doubles (net/core/sock.c, `sock_setsockopt`): 200 of the
/// smallest, with the 768 bytes that it counts for each.
const SEND_BUFFER: usize = 200 * 768 / 2;

/// A socket that sends whole frames through one interface, past routing, and receives nothing.
pub struct FrameSocket {
    fd: OwnedFd,
}

impl FrameSocket {
    /// A socket for that interface. What it can't send at once it doesn't send.
    ///
    /// # Errors
    /// The right `CAP_NET_RAW` is missing, or the interface is gone.
    pub fn open(link: &Link) -> io::Result<Self> {
        Self::bound(link, SockFlag::SOCK_NONBLOCK)
    }

    /// A socket for that interface whose frames pass by its queueing discipline and the programs on its egress. It waits
    /// for the kernel rather than losing frames: its send buffer is shorter than a veth's queue, which takes 256
    /// (drivers/net/veth.c, `VETH_RING_SIZE`).
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn unqueued(link: &Link) -> io::Result<Self> {
        let socket = Self::bound(link, SockFlag::empty())?;
        let bypass: libc::c_int = 1;
        // SAFETY: pointer and length are those of an integer that outlives the call.
        let set = unsafe {
            libc::setsockopt(
                socket.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_QDISC_BYPASS,
                (&raw const bypass).cast(),
                size_of_val(&bypass) as u32,
            )
        };
        Errno::result(set)?;
        setsockopt(&socket.fd, sockopt::SndBuf, &SEND_BUFFER)?;
        setsockopt(&socket.fd, sockopt::SendTimeout, &TimeVal::milliseconds(LONGEST_WAIT_MS))?;
        Ok(socket)
    }

    fn bound(link: &Link, flags: SockFlag) -> io::Result<Self> {
        let flags = flags | SockFlag::SOCK_CLOEXEC;
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
        send(self.fd.as_raw_fd(), frame, MsgFlags::empty())?;
        Ok(())
    }

    /// Sends frames by as few system calls as the kernel takes (`UIO_MAXIOV` of them each, sendmmsg(2)).
    ///
    /// # Errors
    /// As [`Self::send`], for the last frame that was not sent; all others were.
    pub fn send_all(&self, frames: &[impl AsRef<[u8]>]) -> io::Result<()> {
        let mut parts: Vec<libc::iovec> = frames
            .iter()
            .map(AsRef::as_ref)
            .map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() })
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
            let sent = unsafe { libc::sendmmsg(self.fd.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0) };
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
