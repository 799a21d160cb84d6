//! Network interfaces of the lab: what they are called, their addresses, and the TUN driver that lets the emulator be their wire.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context, Result, ensure};
use nix::libc::{self, c_int};
use serde::{Deserialize, Serialize};

use crate::namespace::Namespace;

// Packets wait in the device until the emulator reads them: enough for what 1 Gbit/s brings while the emulator is off the CPU.
const DEVICE_QUEUE_PACKETS: u32 = 4096;

mod ioctl {
    use nix::libc::{c_int, ifreq};

    // The kernel's header says int, but an ifreq is passed.
    nix::ioctl_write_ptr_bad!(tun_set_iff, nix::request_code_write!(b'T', 202, size_of::<c_int>()), ifreq);
    nix::ioctl_write_ptr!(tun_set_carrier, b'T', 226, c_int);
}

/// What an emulated link carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Ethernet frames with MAC addresses, ARP and neighbour discovery (a TAP pair), as Ethernet, Wi-Fi or cable.
    #[default]
    Ethernet,
    /// IP packets without any header before them (a TUN pair), as PPP and raw-IP LTE modems.
    RawIp,
}

impl Kind {
    /// Bytes in front of the IP header.
    pub const fn header_bytes(self) -> usize {
        match self {
            Self::Ethernet => 14,
            Self::RawIp => 0,
        }
    }
}

/// A MAC address; prints as `02:00:..`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

/// One end of a veth pair or of an emulated link.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Name in its namespace, at most 15 bytes.
    pub name: String,
    /// MAC address; a [`Kind::RawIp`] interface has none.
    pub mac: Mac,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Address and prefix length; `None`: no IPv4 on this interface.
    pub v4: Option<(Ipv4Addr, u8)>,
    /// Address and prefix length; `None`: IPv6 is switched off on this interface.
    pub v6: Option<(Ipv6Addr, u8)>,
}

impl Interface {
    /// Gives the interface its addresses and sets it up.
    pub(crate) fn configure(&self, namespace: &Namespace) -> Result<()> {
        let disable_ipv6 = if self.v6.is_some() { "0" } else { "1" };
        namespace.sysctl(&format!("net/ipv6/conf/{}/disable_ipv6", self.name), disable_ipv6)?;
        let mut commands = String::new();
        if let Some((address, prefix)) = self.v4 {
            let _ = writeln!(commands, "addr add {address}/{prefix} dev {}", self.name);
        }
        if let Some((address, prefix)) = self.v6 {
            let _ = writeln!(commands, "addr add {address}/{prefix} dev {} nodad", self.name);
        }
        let _ = writeln!(commands, "link set {} up", self.name);
        namespace.ip(&commands)
    }

    /// Makes the interface as a TAP or TUN device. The device lives as long as the returned file, whose reads and writes are its wire:
    /// one packet each, no packet information, no offloads, and non-blocking.
    pub(crate) fn open(&self, namespace: &Namespace, kind: Kind) -> Result<File> {
        let file = namespace.run(|| open_tun(&self.name, kind))??;
        let mut commands = format!("link set {} mtu {} txqueuelen {DEVICE_QUEUE_PACKETS}", self.name, self.mtu);
        if kind == Kind::Ethernet {
            let _ = write!(commands, " address {}", self.mac);
        }
        namespace.ip(&commands)?;
        self.configure(namespace)?;
        Ok(file)
    }
}

/// Sets the carrier of the interface behind `wire` (`ip link` shows `NO-CARRIER` when it is down).
pub(crate) fn set_carrier(wire: &File, up: bool) -> Result<()> {
    // SAFETY: the file is a TUN device's and the kernel reads one int from the pointer.
    unsafe { ioctl::tun_set_carrier(wire.as_raw_fd(), &c_int::from(up)) }
        .context("cannot set the carrier of a TUN device")?;
    Ok(())
}

fn open_tun(name: &str, kind: Kind) -> Result<File> {
    ensure!(name.len() < libc::IFNAMSIZ, "interface name {name} is longer than 15 bytes");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .context("cannot open /dev/net/tun (the kernel needs CONFIG_TUN)")?;
    let mode = match kind {
        Kind::Ethernet => libc::IFF_TAP,
        Kind::RawIp => libc::IFF_TUN,
    };
    // SAFETY: all-zero bytes are a valid ifreq: an empty name and no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (mode | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the file is the TUN driver's and the request is a whole ifreq.
    unsafe { ioctl::tun_set_iff(file.as_raw_fd(), &raw const request) }
        .with_context(|| format!("cannot make TUN device {name}"))?;
    Ok(file)
}
