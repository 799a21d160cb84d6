//! The MTU of the tunnel's device, from what the paths carry.

use multipath_common::{
    parts,
    wire::{OVERHEAD_IPV4, OVERHEAD_IPV6},
};

use crate::config::{MTU_MAX, MTU_MIN};

/// The largest inner packet that fits an outer one, bytes; 0 when not even the headers fit.
pub fn inner_mtu(outer_mtu: u32, is_ipv4: bool) -> u32 {
    outer_mtu.saturating_sub(if is_ipv4 { OVERHEAD_IPV4 } else { OVERHEAD_IPV6 } as u32)
}

/// The device's MTU, bytes, for paths that carry so many bytes whole; `None` when there are no paths, and no reason to
/// change anything.
///
/// Automatic: what every path carries whole, and never less than IPv6 needs; packets between the two travel in two
/// parts. A configured one is lowered where two parts would not be enough, because a packet that nothing carries must
/// be refused by the device, which tells the sender so (RFC 1191, RFC 8201), and not be dropped behind it.
pub fn device_mtu(configured: Option<u32>, paths: impl IntoIterator<Item = u32>) -> Option<u32> {
    let smallest = paths.into_iter().min()?;
    let limit = parts::largest(smallest).max(smallest).max(MTU_MIN);
    Some(configured.unwrap_or(smallest).clamp(MTU_MIN, MTU_MAX).min(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overhead_is_subtracted() {
        assert_eq!(inner_mtu(1500, true), 1436);
        assert_eq!(inner_mtu(1500, false), 1416);
        assert_eq!(inner_mtu(40, true), 0);
    }

    #[test]
    fn automatic_is_what_every_path_carries() {
        assert_eq!(device_mtu(None, [1436, 1416, 1428]), Some(1416));
        assert_eq!(device_mtu(None, [1436, 1196]), Some(1280));
        assert_eq!(device_mtu(None, [8936]), Some(8936));
        assert_eq!(device_mtu(None, []), None);
    }

    #[test]
    fn configured_is_kept_while_two_parts_carry_it() {
        assert_eq!(device_mtu(Some(1500), [1436, 1196]), Some(1500));
        assert_eq!(device_mtu(Some(9000), [1436]), Some(2864));
        assert_eq!(device_mtu(Some(1300), [1436]), Some(1300));
    }
}
