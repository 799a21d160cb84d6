//! Drivers and offloads, by the `SIOCETHTOOL` ioctl (include/uapi/linux/ethtool.h).

use std::{io, os::fd::AsRawFd};

use nix::{
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use super::UnderlayError;

/// `ETHTOOL_GDRVINFO`, `ETHTOOL_GLINK`, `ETHTOOL_GSTRINGS`, `ETHTOOL_GSSET_INFO`, `ETHTOOL_GFEATURES`,
/// `ETHTOOL_SFEATURES`.
const GET_DRIVER: u32 = 0x03;
const GET_LINK: u32 = 0x0a;
const GET_STRINGS: u32 = 0x1b;
const GET_STRING_SETS: u32 = 0x37;
const GET_FEATURES: u32 = 0x3a;
const SET_FEATURES: u32 = 0x3b;
/// `ETH_SS_FEATURES`: the string set of the features' names.
const FEATURE_NAMES: u32 = 4;
/// `ETH_GSTRING_LEN`, bytes.
const NAME_LENGTH: usize = 32;
/// Words of `struct ethtool_drvinfo`, and where its `driver[32]` starts.
const DRIVER_WORDS: usize = 49;
/// Words of one `struct ethtool_get_features_block`: available, requested, active, never changed.
const GET_BLOCK: usize = 4;

/// One feature of an interface, as `ethtool -k` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// The kernel's name, for instance `tx-tcp-segmentation`.
    pub name: String,
    /// Whether it is on.
    pub on: bool,
    /// Whether it can be changed.
    pub changeable: bool,
}

/// Which offloads an interface should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    /// Segmentation by the device: all of `tx-*-segmentation` and `tx-gso-*` (TSO, GSO and their kin).
    pub segmentation: bool,
    /// Checksums by the device: all of `tx-checksum-*`.
    pub checksum: bool,
    /// Generic receive offload, `rx-gro`. On a veth it also switches NAPI on, without which an XDP redirect into the
    /// other end drops everything (`veth_xdp_xmit`, drivers/net/veth.c).
    pub gro: bool,
}

impl Offloads {
    /// `mp0`: every packet is one wire packet with its own header, so it has to arrive there
    /// segmented and with its checksum.
    pub const DEVICE: Self = Self { segmentation: false, checksum: false, gro: true };

    /// `mp0-port`: the same, and nothing merges packets before the egress program sees them.
    pub const PORT: Self = Self { segmentation: false, checksum: false, gro: false };

    fn wanted(self, feature: &str) -> Option<bool> {
        match feature {
            "rx-gro" => Some(self.gro),
            name if name.starts_with("tx-checksum-") => Some(self.checksum),
            name if name.starts_with("tx-gso-") => Some(self.segmentation),
            name if name.starts_with("tx-") && name.ends_with("-segmentation") => Some(self.segmentation),
            _ => None,
        }
    }
}

/// The name of the interface's driver (`veth`, `tun`, `ixgbe`, ...), in the calling thread's namespace.
///
/// # Errors
/// There is no such interface, or its driver does not say.
pub fn driver(interface: &str) -> Result<String, UnderlayError> {
    let mut command = [0; DRIVER_WORDS];
    command[0] = GET_DRIVER;
    ioctl(interface, &mut command).map_err(|source| failed("read the driver", interface, source))?;
    Ok(text(&bytes(&command[1..=NAME_LENGTH / 4])))
}

/// Whether the interface is up and has a carrier at this moment, in the calling thread's namespace. Cheap, and ahead of the
/// kernel's messages: these come up to a second late after an earlier one (`linkwatch_schedule_work` in
/// `net/core/link_watch.c`).
/// `None` if its driver does not say, or it is gone.
pub fn has_carrier(interface: &str) -> Option<bool> {
    // struct ethtool_value: the command, the answer.
    let mut command = [GET_LINK, 0];
    ioctl(interface, &mut command).ok()?;
    Some(command[1] != 0)
}

/// All features of the interface, in the kernel's order, in the calling thread's namespace.
///
/// # Errors
/// There is no such interface.
pub fn features(interface: &str) -> Result<Vec<Feature>, UnderlayError> {
    read_features(interface).map_err(|source| failed("read the offloads", interface, source))
}

/// Switches the offloads of the interface on or off as far as the device can, in the calling thread's namespace.
/// Does nothing to what is right already.
///
/// # Errors
/// There is no such interface, or the caller may not change it.
pub fn set_offloads(interface: &str, offloads: Offloads) -> Result<(), UnderlayError> {
    let features = features(interface)?;
    let blocks = features.len().div_ceil(32);
    // struct ethtool_sfeatures: the command, the number of blocks, and for each 32 features the words valid, requested.
    let mut command = vec![0; 2 + 2 * blocks];
    command[0] = SET_FEATURES;
    command[1] = blocks as u32;
    let mut changes = false;
    for (index, feature) in features.iter().enumerate() {
        let Some(on) = offloads.wanted(&feature.name) else { continue };
        if feature.changeable && feature.on != on {
            let (block, bit) = (2 + 2 * (index / 32), 1 << (index % 32));
            command[block] |= bit;
            command[block + 1] |= if on { bit } else { 0 };
            changes = true;
        }
    }
    if !changes {
        return Ok(());
    }
    ioctl(interface, &mut command).map_err(|source| failed("change the offloads", interface, source))
}

fn read_features(interface: &str) -> io::Result<Vec<Feature>> {
    // struct ethtool_sset_info: command, reserved, a 64-bit mask, then one count for each set in the mask.
    let mut sets = [GET_STRING_SETS, 0, 0, 0, 0];
    sets[2..4].copy_from_slice(&bytemuck::cast::<u64, [u32; 2]>(1 << FEATURE_NAMES));
    ioctl(interface, &mut sets)?;
    let count = sets[4] as usize;

    let mut names = vec![0; 3 + count * NAME_LENGTH / 4];
    names[..3].copy_from_slice(&[GET_STRINGS, FEATURE_NAMES, count as u32]);
    ioctl(interface, &mut names)?;

    let blocks = count.div_ceil(32);
    let mut states = vec![0; 2 + GET_BLOCK * blocks];
    states[..2].copy_from_slice(&[GET_FEATURES, blocks as u32]);
    ioctl(interface, &mut states)?;

    let names = bytes(&names[3..]);
    let feature = |(index, name): (usize, &[u8])| {
        let block = &states[2 + GET_BLOCK * (index / 32)..][..GET_BLOCK];
        let is_set = |word: u32| word & (1 << (index % 32)) != 0;
        let [available, _, active, never_changed] = [block[0], block[1], block[2], block[3]];
        Feature { name: text(name), on: is_set(active), changeable: is_set(available) && !is_set(never_changed) }
    };
    Ok(names.chunks_exact(NAME_LENGTH).enumerate().map(feature).collect())
}

/// Runs one ethtool command, which the kernel answers in place.
fn ioctl(interface: &str, command: &mut [u32]) -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: an all-zero ifreq is valid, it is made of integers, arrays and pointers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = command.as_mut_ptr().cast();
    // SAFETY: `command` holds a whole ethtool structure of the size that its own count fields announce, and it outlives
    // the call; the kernel writes nothing beyond it.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn failed(what: &str, interface: &str, source: io::Error) -> UnderlayError {
    UnderlayError::Kernel { what: format!("{what} of {interface}"), source }
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// A zero-terminated name.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_offloads() {
        let on = Offloads { segmentation: true, checksum: false, gro: true };
        assert_eq!(on.wanted("tx-tcp6-segmentation"), Some(true));
        assert_eq!(on.wanted("tx-generic-segmentation"), Some(true));
        assert_eq!(on.wanted("tx-gso-list"), Some(true));
        assert_eq!(on.wanted("tx-checksum-ip-generic"), Some(false));
        assert_eq!(on.wanted("rx-gro"), Some(true));
        for other in ["rx-gro-list", "rx-udp-gro-forwarding", "tx-scatter-gather", "rx-checksum", "tx-vlan-hw-insert"] {
            assert_eq!(on.wanted(other), None, "{other}");
        }
    }

    #[test]
    fn loopback_has_features_and_nothing_else_does() {
        assert!(features("lo").unwrap().iter().any(|feature| feature.name == "rx-gro"));
        assert!(features("no-such-device").is_err());
        assert!(driver("a-name-that-is-much-too-long").is_err());
        assert_eq!((has_carrier("lo"), has_carrier("no-such-device")), (Some(true), None));
    }
}
