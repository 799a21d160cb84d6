//! The tunnel's UDP ports: datagrams that leave by the uplink they are meant for, and say which one they came by.
//!
//! Each uplink has sockets of its own for each port, bound to its interface. A socket for all of them would do for IPv4, but IPv6 takes
//! the interface in `IPV6_PKTINFO` as a wish, and sends through the tunnel what a longer prefix leads there
//! (`ip6_route_output_flags`, net/ipv6/route.c: strict only for a socket that is bound).

use std::{
    collections::{BTreeMap, BTreeSet},
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

/// "Destination Unreachable" (RFC 792, RFC 4443 section 3.1).
const UNREACHABLE_V4: u8 = 3;
const UNREACHABLE_V6: u8 = 1;
/// Its codes that say nothing against the way: the endpoint itself answers that nobody listens, or only the size is
/// wrong.
const PORT_UNREACHABLE_V4: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const PORT_UNREACHABLE_V6: u8 = 4;

/// Where a datagram goes, or where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Interface index of the uplink.
    pub ifindex: u32,
    /// Our address.
    pub local: IpAddr,
    /// Our port.
    pub local_port: u16,
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

/// The sockets of one tunnel's ports.
pub struct Ports {
    /// By port. Without an interface: they keep the port from others, on the interfaces that are no uplinks too.
    guards: BTreeMap<u16, Vec<OwnedFd>>,
    uplinks: BTreeMap<u32, Uplink>,
    /// Which of the uplinks' sockets is read first next time.
    first: usize,
}

struct Uplink {
    interface: String,
    sockets: Vec<Socket>,
}

struct Socket {
    udp: UdpSocket,
    port: u16,
    is_ipv4: bool,
}

impl Ports {
    /// Takes ports, on all addresses of both families.
    ///
    /// # Errors
    /// Somebody has one of them, or the kernel refuses.
    pub fn take(ports: impl IntoIterator<Item = u16>) -> io::Result<Self> {
        let mut taken = Self { guards: BTreeMap::new(), uplinks: BTreeMap::new(), first: 0 };
        taken.set(ports)?;
        Ok(taken)
    }

    /// Makes the ports exactly these, also on the uplinks that are there. What fails leaves the ports that were there
    /// before, and some of the new ones.
    ///
    /// # Errors
    /// Somebody has one of them, or the kernel refuses.
    pub fn set(&mut self, ports: impl IntoIterator<Item = u16>) -> io::Result<()> {
        let wanted: BTreeSet<u16> = ports.into_iter().collect();
        for port in &wanted {
            if !self.guards.contains_key(port) {
                self.guards.insert(*port, guards(*port)?);
                for uplink in self.uplinks.values_mut() {
                    uplink.sockets.extend(uplink_sockets(*port, &uplink.interface)?);
                }
            }
        }
        self.guards.retain(|port, _| wanted.contains(port));
        for uplink in self.uplinks.values_mut() {
            uplink.sockets.retain(|socket| wanted.contains(&socket.port));
        }
        Ok(())
    }

    /// Sends and receives through an uplink from now on.
    ///
    /// # Errors
    /// Somebody else has a port on that interface, or the interface is gone.
    pub fn add_uplink(&mut self, link: &Link) -> io::Result<()> {
        if self.uplinks.contains_key(&link.index) {
            return Ok(());
        }
        let mut sockets = Vec::new();
        for port in self.guards.keys() {
            sockets.extend(uplink_sockets(*port, &link.name)?);
        }
        self.uplinks.insert(link.index, Uplink { interface: link.name.clone(), sockets });
        Ok(())
    }

    /// Forgets an uplink whose interface is gone, or that is none any more.
    pub fn remove_uplink(&mut self, ifindex: u32) {
        self.uplinks.remove(&ifindex);
    }

    /// Sends a datagram through an uplink, from one of its addresses.
    ///
    /// # Errors
    /// There are no sockets at this uplink, or the kernel refuses: no route, no such address, a firewall, a full queue.
    pub fn send(&self, route: &Route, bytes: &[u8]) -> io::Result<()> {
        // The first attempt may fail by what a router has said of an earlier datagram (`IP_RECVERR`, ip(7)).
        self.send_once(route, bytes).or_else(|_| self.send_once(route, bytes))
    }

    fn send_once(&self, route: &Route, bytes: &[u8]) -> io::Result<()> {
        let sockets = self.uplinks.get(&route.ifindex).map(|uplink| uplink.sockets.as_slice()).unwrap_or_default();
        let socket = sockets
            .iter()
            .find(|socket| socket.is_ipv4 == route.local.is_ipv4() && socket.port == route.local_port)
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
            .flat_map(|(ifindex, uplink)| uplink.sockets.iter().map(|socket| (*ifindex, socket)))
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

    /// What routers and hosts have said about packets that could not be delivered since this was last called, also about
    /// those that the programs sent: interface index and where they were sent. Anybody can forge it.
    pub fn undelivered(&self) -> BTreeSet<(u32, SocketAddr)> {
        let mut undelivered = BTreeSet::new();
        for (ifindex, uplink) in &self.uplinks {
            for socket in &uplink.sockets {
                // Whatever ends this is an empty queue, or no reason to look on.
                let reports: Vec<_> = (0..BATCH).map_while(|_| socket.undelivered().ok()).collect();
                if reports.len() == BATCH {
                    socket.forget_undelivered();
                }
                undelivered.extend(reports.into_iter().flatten().map(|remote| (*ifindex, remote)));
            }
        }
        undelivered
    }
}

impl Socket {
    /// Takes a message out of the error queue: where the packet was sent that it says could not be delivered.
    fn undelivered(&self) -> nix::Result<Option<SocketAddr>> {
        let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6, libc::in6_pktinfo);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let mut parts = [IoSliceMut::new(&mut [])];
        let message = recvmsg::<SockaddrStorage>(self.udp.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        let is_undelivered = message.cmsgs()?.any(|control| match control {
            ControlMessageOwned::Ipv4RecvErr(error, _) => {
                error.ee_origin == libc::SO_EE_ORIGIN_ICMP && speaks_against_way(true, error.ee_type, error.ee_code)
            }
            ControlMessageOwned::Ipv6RecvErr(error, _) => {
                error.ee_origin == libc::SO_EE_ORIGIN_ICMP6 && speaks_against_way(false, error.ee_type, error.ee_code)
            }
            _ => false,
        });
        Ok(message.address.and_then(socket_address).filter(|_| is_undelivered))
    }

    /// Empties the error queue: what waits in it takes the room of handshakes. (Switched off, `IP_RECVERR` and
    /// `IPV6_RECVERR` throw away what is there: `do_ip_setsockopt`, `do_ipv6_setsockopt`.)
    fn forget_undelivered(&self) {
        let emptied = [false, true].iter().try_for_each(|is_on| {
            if self.is_ipv4 {
                setsockopt(&self.udp, sockopt::Ipv4RecvErr, is_on)
            } else {
                setsockopt(&self.udp, sockopt::Ipv6RecvErr, is_on)
            }
        });
        if let Err(error) = emptied {
            debug!("UDP: {error}");
        }
    }

    /// Adds what waits at the socket, until there were as many attempts as a batch has. What is none of ours costs an
    /// attempt too.
    fn poll_receive(&self, cx: &mut Context<'_>, ifindex: u32, received: &mut Vec<Datagram>, attempts: &mut usize) {
        while *attempts < BATCH && self.udp.poll_recv_ready(cx).is_ready() {
            *attempts += 1;
            match self.udp.try_io(Interest::READABLE, || Ok(receive_one(self.udp.as_raw_fd(), ifindex, self.port)?)) {
                Ok(datagram) => received.extend(datagram),
                // Nothing waits any more, and the next look at the readiness says so.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // What happened to an earlier datagram, for instance that the interface went down: reading clears it.
                Err(error) => debug!("UDP: {error}"),
            }
        }
    }
}

/// Whether an ICMP message of this type and code says that there is no way to the endpoint.
const fn speaks_against_way(is_ipv4: bool, kind: u8, code: u8) -> bool {
    if is_ipv4 {
        kind == UNREACHABLE_V4 && code != PORT_UNREACHABLE_V4 && code != FRAGMENTATION_NEEDED
    } else {
        kind == UNREACHABLE_V6 && code != PORT_UNREACHABLE_V6
    }
}

/// Reads one datagram; `None` when it is none of ours: too long, or without the address that it was sent to.
fn receive_one(fd: RawFd, ifindex: u32, local_port: u16) -> nix::Result<Option<Datagram>> {
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
    Ok(Some(Datagram { route: Route { ifindex, local, local_port, remote }, bytes: bytes[..len].to_vec() }))
}

fn socket_address(address: SockaddrStorage) -> Option<SocketAddr> {
    let v4 = || address.as_sockaddr_in().map(|address| SocketAddr::from((address.ip(), address.port())));
    let v6 = || address.as_sockaddr_in6().map(|address| SocketAddr::from((address.ip(), address.port())));
    v4().or_else(v6)
}

/// What keeps a port from others.
fn guards(port: u16) -> io::Result<Vec<OwnedFd>> {
    let guards: io::Result<Vec<Option<OwnedFd>>> =
        [true, false].map(|is_ipv4| guard(port, is_ipv4)).into_iter().collect();
    Ok(guards?.into_iter().flatten().collect())
}

/// The sockets of a port at an uplink, one for each family that the machine has.
fn uplink_sockets(port: u16, interface: &str) -> io::Result<Vec<Socket>> {
    let of_family = |is_ipv4| uplink_socket(port, is_ipv4, interface);
    let sockets: io::Result<Vec<Option<Socket>>> = [true, false].map(of_family).into_iter().collect();
    Ok(sockets?.into_iter().flatten().collect())
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
        setsockopt(&fd, sockopt::Ipv4RecvErr, &true)?;
    } else {
        setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?;
        setsockopt(&fd, sockopt::Ipv6RecvErr, &true)?;
    }
    bind(fd.as_raw_fd(), &any(port, is_ipv4))?;
    Ok(Some(Socket { udp: UdpSocket::from_std(fd.into())?, port, is_ipv4 }))
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
