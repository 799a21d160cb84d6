//! What changes in the underlay, as it happens.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsRawFd, BorrowedFd},
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::Stream;
use ipnet::IpNet;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAttribute, RouteFlags, RouteMessage, RouteType},
};
use netlink_sys::{AsyncSocket, Socket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};
use rtnetlink::MulticastGroup;

use super::{Address, Link, Underlay, UnderlayError, tunnel::destination};

/// Bytes of messages that may wait while the daemon is busy: some ten thousand routes of a flapping BGP session.
const RECEIVE_BUFFER: usize = 4 << 20;

/// What is listened to. Rules and next-hop objects move routes without a message about the routes themselves.
const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Nexthop,
];

/// A change in the underlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A link is new, or something about it changed: carrier, MTU, name, address, up or down.
    Link(Link),
    /// A link is gone (deleted or moved to another namespace).
    LinkGone {
        /// Its index.
        index: u32,
        /// Its name.
        name: String,
    },
    /// An address is new or changed (for instance no longer tentative).
    Address(Address),
    /// An address is gone.
    AddressGone(Address),
    /// A unicast route, or one that rejects, was made, replaced or removed. The kernel removes the IPv4 routes of a link
    /// that goes down without saying so: that link's [`Change::Link`] stands for them.
    Route {
        /// The prefix.
        prefix: IpNet,
        /// Indices of the interfaces that it leads or led through; empty if it rejects.
        interfaces: Vec<u32>,
        /// Removed, not made or replaced.
        gone: bool,
    },
    /// Anything may have changed, read everything anew: messages were lost, or a policy rule or a next-hop object
    /// changed.
    Anything,
}

/// The stream of changes. It ends only if the socket fails.
pub struct Changes {
    socket: TokioSocket,
    pending: VecDeque<Change>,
}

impl Underlay {
    /// Listens to the network namespace of the calling thread. Whatever happens after this returns is in the stream, so
    /// listen first and read the state afterwards.
    ///
    /// # Errors
    /// The socket can't be opened.
    pub fn changes() -> Result<Changes, UnderlayError> {
        let open = || -> io::Result<TokioSocket> {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
            // Without CAP_NET_ADMIN the buffer stays within net.core.rmem_max: that only makes `Anything` likelier.
            // SAFETY: the socket outlives this borrow of its file descriptor.
            let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
            setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER)
                .or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
            for group in GROUPS {
                socket.socket_mut().add_membership(group as u32)?;
            }
            Ok(socket)
        };
        let socket = open().map_err(|source| UnderlayError::Kernel {
            what: "listen to changes of links, addresses and routes".to_owned(),
            source,
        })?;
        Ok(Changes { socket, pending: VecDeque::new() })
    }
}

impl Stream for Changes {
    type Item = Change;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Change>> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Poll::Ready(Some(change));
            }
            match ready!(self.socket.poll_recv_from_full(cx)) {
                // Only the kernel's own messages (port 0) count; any process may send to this socket.
                Ok((datagram, sender)) if sender.port_number() == 0 => self.pending.extend(read(&datagram)),
                Ok(_) => {}
                // netlink(7): the receive buffer ran over and messages were lost.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    drain(self.socket.socket_ref());
                    return Poll::Ready(Some(Change::Anything));
                }
                Err(error) => {
                    tracing::error!("the routing socket failed, changes are no longer seen: {error}");
                    return Poll::Ready(None);
                }
            }
        }
    }
}

/// Throws away what waits in a socket that ran over. Until its queue is empty the kernel goes on losing messages
/// (`NETLINK_S_CONGESTED`, `netlink_rcv_wake` in `net/netlink/af_netlink.c`), and would say so only once.
fn drain(socket: &Socket) {
    loop {
        match socket.recv_from_full() {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(_) => break,
        }
    }
}

/// The changes in one datagram, which may hold several messages.
fn read(mut datagram: &[u8]) -> Vec<Change> {
    let mut changes = Vec::new();
    while !datagram.is_empty() {
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram) else {
            changes.push(Change::Anything);
            break;
        };
        // Messages are aligned to four bytes (NLMSG_ALIGNTO).
        let length = (message.header.length as usize).next_multiple_of(4);
        if let NetlinkPayload::InnerMessage(message) = message.payload {
            changes.extend(change(message));
        }
        datagram = datagram.get(length.max(16)..).unwrap_or_default();
    }
    changes
}

fn change(message: RouteNetlinkMessage) -> Option<Change> {
    use RouteNetlinkMessage as Message;

    match message {
        // A bridge tells about its ports under AF_BRIDGE; a port that leaves is "deleted" there, but not gone.
        Message::NewLink(link) | Message::DelLink(link) if link.header.interface_family == AddressFamily::Bridge => {
            None
        }
        Message::NewLink(link) => Some(Change::Link(Link::from(&link))),
        Message::DelLink(link) => {
            let Link { index, name, .. } = Link::from(&link);
            Some(Change::LinkGone { index, name })
        }
        Message::NewAddress(address) => Address::from_message(&address).map(Change::Address),
        Message::DelAddress(address) => Address::from_message(&address).map(Change::AddressGone),
        Message::NewRoute(route) => route_change(&route, false),
        Message::DelRoute(route) => route_change(&route, true),
        // A policy rule, or a next-hop object (for which the crate has no type).
        _ => Some(Change::Anything),
    }
}

fn route_change(message: &RouteMessage, gone: bool) -> Option<Change> {
    let kind = message.header.kind;
    let own = matches!(kind, RouteType::Local | RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast);
    if own || message.header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut interfaces = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interfaces.push(*index),
            RouteAttribute::MultiPath(hops) => interfaces.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    interfaces.sort_unstable();
    interfaces.dedup();
    Some(Change::Route { prefix: destination(message)?, interfaces, gone })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_not_understood_may_be_anything() {
        assert_eq!(read(&[1, 2, 3]), [Change::Anything]);
        assert_eq!(read(&[]), []);
    }

    proptest! {
        #[test]
        fn no_datagram_panics_or_hangs(datagram: Vec<u8>) {
            read(&datagram);
        }
    }
}
