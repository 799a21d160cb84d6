//! The network that the tunnel runs on and the device that it is: rtnetlink, ethtool and the daemon's sockets, nothing about
//! maps or programs.
//!
//! An [`Underlay`] belongs to the network namespace of the thread that opens it.

mod address;
mod changes;
mod datagram;
mod ethtool;
mod fq;
mod frame;
mod link;
mod route;
mod steering;
mod tunnel;
mod xdp;

use std::{io, net::IpAddr};

use ipnet::IpNet;
use netlink_packet_core::ErrorMessage;

pub use self::{
    address::Address,
    changes::{Change, Changes},
    datagram::{Datagram, Ports, Route as DatagramRoute},
    ethtool::{Feature, Offloads, driver, features, has_carrier, set_offloads},
    frame::FrameSocket,
    link::{Link, LinkLayer},
    route::Route,
    steering::{processors, steer_receive},
    tunnel::{TunnelDevice, TunnelLink},
    xdp::native_xdp,
};

/// A connection to the kernel's routing socket. Cheap to clone; all clones share one socket.
#[derive(Clone)]
pub struct Underlay {
    handle: rtnetlink::Handle,
}

impl Underlay {
    /// Connects to the network namespace of the calling thread. The socket is served by a task of the current tokio
    /// runtime, which ends with the last clone.
    ///
    /// # Errors
    /// The socket can't be opened.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open() -> Result<Self, UnderlayError> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|source| UnderlayError::Kernel { what: "open a routing socket".to_owned(), source })?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }
}

/// Why a link, address or route could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum UnderlayError {
    /// The kernel refused.
    #[error("can't {what}")]
    Kernel {
        /// What was asked, as in "can't ...".
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A device of the tunnel's name is there, but it is not the tunnel's.
    #[error("the interface {name} exists, but is not one end of the veth pair {name}/{port}: delete or rename it")]
    NameTaken {
        /// The tunnel's name.
        name: String,
        /// The name that the other end should have.
        port: String,
    },
    /// A route for one of the peers' prefixes is there, but it does not lead into the tunnel.
    #[error(
        "there is another route for {prefix}, which does not lead through {device}: \
         delete it, or set routes = \"off\" and make the routes yourself"
    )]
    RouteTaken {
        /// The prefix.
        prefix: IpNet,
        /// The tunnel's device.
        device: String,
    },
    /// A device vanished while it was worked on.
    #[error("the interface {name} is gone")]
    Gone {
        /// Its name.
        name: String,
    },
}

impl UnderlayError {
    /// A failed request; `what` completes "can't ...".
    fn request(what: impl Into<String>, error: &rtnetlink::Error) -> Self {
        Self::Kernel { what: what.into(), source: to_io(error) }
    }
}

/// The kernel's error number of a failed request.
fn to_io(error: &rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => ErrorMessage::to_io(message),
        other => io::Error::other(other.to_string()),
    }
}

/// Whether the kernel's error number is one of `numbers`.
fn is_errno(error: &rtnetlink::Error, numbers: &[nix::libc::c_int]) -> bool {
    to_io(error).raw_os_error().is_some_and(|number| numbers.contains(&number))
}

/// Whether two addresses are of the same family.
fn same_family(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4()
}
