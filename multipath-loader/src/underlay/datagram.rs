//! The tunnel's UDP port: datagrams that leave by the uplink they are meant for, and say which one they came by.
//!
//! Each uplink has sockets of its own, bound to its interface. A socket for all of them would do for IPv4, but IPv6 takes
//! the interface in `IPV6_PKTINFO` as a wish, and sends through the tunnel what a longer prefix leads there
//! (`ip6_route_output_flags`, net/ipv6/route.c: strict only for a socket that is bound).

use std::{
    collections::BTreeMap,
    ffi::OsString,
    future::poll_fn,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    task::{Context, Poll},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage, bind,
        recvmsg, sendmsg, setsockopt, socket, sockopt,
    },
};
use tokio::{io::Interest, net::UdpSocket};
use tracing::debug;

use super::Link;

/// Bytes that may wait at an uplink while the daemon is busy: the kernel doubles it and charges a small datagram with some
/// 800 bytes, so a flood of 50,000 a second may last 200 ms before others are lost in it.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Datagrams that one turn takes, so that a flood leaves time for everything else.
const BATCH: usize = 64;
/// Bytes of the longest datagram that is read; a longer one is none of ours.
const LONGEST: usize = 512;

/// Where a datagram goes, or where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Interface index of the uplink.
    pub ifindex: u32,
    /// Our address.
    pub local: IpAddr,
    /// The other gateway's address and port.
    pub remote: SocketAddr,
}

/// A datagram that came.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Where from; an answer takes the same way.
    pub route: Route,
    /// What it carries.
    pub bytes: Vec<u8>,
}

/// The sockets of one tunnel's port.
pub struct Port {
    number: u16,
    /// Without an interface: they keep the port from others, on the interfaces that are no uplinks too.
    #[expect(dead_code, reason = "held so that nobody else gets the port")]
    guards: Vec<OwnedFd>,
    uplinks: BTreeMap<u32, Vec<Socket>>,
    /// Which of the uplinks' sockets is read first next time.
    first: usize,
}

struct Socket {
    udp: UdpSocket,
    is_ipv4: bool,
}

impl Port {
    /// Takes a port, on all addresses of both families.
    ///
    /// # Errors
    /// Somebody has it, or the kernel refuses.
    pub fn take(number: u16) -> io::Result<Self> {
        let mut guards = Vec::new();
        for is_ipv4 in [true, false] {
            guards.extend(guard(number, is_ipv4)?);
        }
        Ok(Self { number, guards, uplinks: BTreeMap::new(), first: 0 })
    }

    /// Sends and receives through an uplink from now on.
    ///
    /// # Errors
    /// Somebody else has the port on that interface, or the interface is gone.
    pub fn add_uplink(&mut self, link: &Link) -> io::Result<()> {
        if self.uplinks.contains_key(&link.index) {
            return Ok(());
        }
        let mut sockets = Vec::new();
        for is_ipv4 in [true, false] {
            sockets.extend(uplink_socket(self.number, is_ipv4, &link.name)?);
        }
        self.uplinks.insert(link.index, sockets);
        Ok(())
    }

    /// Forgets an uplink whose interface is gone.
    pub fn remove_uplink(&mut self, ifindex: u32) {
        self.uplinks.remove(&ifindex);
    }

    /// Sends a datagram through an uplink, from one of its addresses.
    ///
    /// # Errors
    /// There are no sockets at this uplink, or the kernel refuses: no route, no such address, a firewall, a full queue.
    pub fn send(&self, route: &Route, bytes: &[u8]) -> io::Result<()> {
        let sockets = self.uplinks.get(&route.ifindex).map(Vec::as_slice).unwrap_or_default();
        let socket = sockets
            .iter()
            .find(|socket| socket.is_ipv4 == route.local.is_ipv4())
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        let data = [IoSlice::new(bytes)];
        let fd = socket.udp.as_raw_fd();
        let sent = match (route.local, route.remote) {
            (IpAddr::V4(local), remote) => {
                // The interface is the socket's.
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(local.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let from = [ControlMessage::Ipv4PacketInfo(&info)];
                sendmsg(fd, &data, &from, MsgFlags::MSG_DONTWAIT, Some(&SockaddrStorage::from(remote)))
            }
            (IpAddr::V6(local), remote) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: local.octets() },
                    ipi6_ifindex: route.ifindex,
                };
                let from = [ControlMessage::Ipv6PacketInfo(&info)];
                let remote = match remote {
                    // A link-local address is nothing without its link.
                    SocketAddr::V6(remote) => SocketAddrV6::new(*remote.ip(), remote.port(), 0, route.ifindex).into(),
                    SocketAddr::V4(_) => remote,
                };
                sendmsg(fd, &data, &from, MsgFlags::MSG_DONTWAIT, Some(&SockaddrStorage::from(remote)))
            }
        };
        sent?;
        Ok(())
    }

    /// Waits for datagrams, and returns some of those that are there; none if all that it read were none of ours.
    pub async fn receive(&mut self) -> Vec<Datagram> {
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Vec<Datagram>> {
        let sockets: Vec<(u32, &Socket)> = self
            .uplinks
            .iter()
            .flat_map(|(ifindex, sockets)| sockets.iter().map(|socket| (*ifindex, socket)))
            .collect();
        let mut received = Vec::new();
        let mut attempts = 0;
        for offset in 0..sockets.len() {
            // Another one first each time: a flooded uplink does not silence the others.
            let (ifindex, socket) = sockets[(self.first + offset) % sockets.len()];
            socket.poll_receive(cx, ifindex, &mut received, &mut attempts);
            if attempts == BATCH {
                break;
            }
        }
        // Of a batch that was refused in full more may wait: whoever called must come back.
        if received.is_empty() && attempts < BATCH {
            return Poll::Pending;
        }
        self.first = (self.first + 1) % sockets.len();
        Poll::Ready(received)
    }
}

impl Socket {
    /// Adds what waits at the socket, until there were as many attempts as a batch has. What is none of ours costs an
    /// attempt too.
    fn poll_receive(&self, cx: &mut Context<'_>, ifindex: u32, received: &mut Vec<Datagram>, attempts: &mut usize) {
        while *attempts < BATCH && self.udp.poll_recv_ready(cx).is_ready() {
            *attempts += 1;
            match self.udp.try_io(Interest::READABLE, || Ok(receive_one(self.udp.as_raw_fd(), ifindex)?)) {
                Ok(datagram) => received.extend(datagram),
                // Nothing waits any more, and the next look at the readiness says so.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // What happened to an earlier datagram, for instance that the interface went down: reading clears it.
                Err(error) => debug!("UDP: {error}"),
            }
        }
    }
}

/// Reads one datagram; `None` when it is none of ours: too long, or without the address that it was sent to.
fn receive_one(fd: RawFd, ifindex: u32) -> nix::Result<Option<Datagram>> {
    let mut bytes = [0; LONGEST];
    let mut control = nix::cmsg_space!(libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let local = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into()),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::V6(Ipv6Addr::from_octets(info.ipi6_addr.s6_addr))),
        _ => None,
    });
    let remote = message.address.and_then(socket_address);
    let is_whole = !message.flags.contains(MsgFlags::MSG_TRUNC);
    let len = message.bytes;
    let (Some(local), Some(remote), true) = (local, remote, is_whole) else { return Ok(None) };
    Ok(Some(Datagram { route: Route { ifindex, local, remote }, bytes: bytes[..len].to_vec() }))
}

fn socket_address(address: SockaddrStorage) -> Option<SocketAddr> {
    let v4 = || address.as_sockaddr_in().map(|address| SocketAddr::from((address.ip(), address.port())));
    let v6 = || address.as_sockaddr_in6().map(|address| SocketAddr::from((address.ip(), address.port())));
    v4().or_else(v6)
}

/// A socket that keeps the port, and reads nothing; `None` on a machine without the family.
fn guard(port: u16, is_ipv4: bool) -> io::Result<Option<OwnedFd>> {
    let Some(fd) = unbound(is_ipv4)? else { return Ok(None) };
    bind(fd.as_raw_fd(), &any(port, is_ipv4))?;
    // Only now: whoever binds without this finds the port taken, and the uplinks' sockets bind with it. By `SO_REUSEADDR`
    // any user could share the port and take datagrams away; by this one, only the same one (net/ipv4/udp.c,
    // `udp_lib_lport_inuse`).
    setsockopt(&fd, sockopt::ReusePort, &true)?;
    Ok(Some(fd))
}

fn uplink_socket(port: u16, is_ipv4: bool, interface: &str) -> io::Result<Option<Socket>> {
    let Some(fd) = unbound(is_ipv4)? else { return Ok(None) };
    setsockopt(&fd, sockopt::BindToDevice, &OsString::from(interface))?;
    setsockopt(&fd, sockopt::ReusePort, &true)?;
    // Without CAP_NET_ADMIN the buffer stays within net.core.rmem_max.
    setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER)
        .or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
    if is_ipv4 {
        setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?;
    } else {
        setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?;
    }
    bind(fd.as_raw_fd(), &any(port, is_ipv4))?;
    Ok(Some(Socket { udp: UdpSocket::from_std(fd.into())?, is_ipv4 }))
}

/// A UDP socket of one family alone; `None` on a machine without it.
fn unbound(is_ipv4: bool) -> io::Result<Option<OwnedFd>> {
    let family = if is_ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = match socket(family, SockType::Datagram, flags, None) {
        Err(Errno::EAFNOSUPPORT) => return Ok(None),
        opened => opened?,
    };
    if !is_ipv4 {
        setsockopt(&fd.as_fd(), sockopt::Ipv6V6Only, &true)?;
    }
    Ok(Some(fd))
}

fn any(port: u16, is_ipv4: bool) -> SockaddrStorage {
    let address: IpAddr = if is_ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SockaddrStorage::from(SocketAddr::new(address, port))
}
