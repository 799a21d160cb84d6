//! Classes of flows: the maps. Their places in [`crate::maps`]' table:
//!
//! | map | kind | key | value | writer |
//! | --- | --- | --- | --- | --- |
//! | `class_rules` | array | place, first match wins | [`ClassRule`] | daemon |
//! | `class_stats` | per-CPU array | [`stats_slot`] | [`ClassStats`] | programs |
//! | `leads` | LRU hash | [`FlowKey`] | [`Lead`] | daemon |
//! | `flow_events` | ring buffer | | [`FlowEvent`] | programs |
//! | `destinations` | LRU hash | [`DestinationKey`] | [`Destination`] | daemon |
//!
//! What a flow is, stands in the value of `flows` ([`Flow`](crate::maps::Flow)).

use crate::maps::{FlowKey, NAME_LEN, Shared, map_ipv4, shared};

/// Entries of `class_rules`: a rule of the configuration takes one for each of its ranges of ports times each of its prefixes.
pub const MAX_CLASS_RULES: usize = 128;
/// Rules of the configuration that are counted apart, numbered from 1; 0 is for flows that no rule has caught.
pub const MAX_COUNTED_RULES: usize = 64;
/// Entries of `class_stats`.
pub const CLASS_STATS_LEN: usize = MAX_COUNTED_RULES * CARRIED_AS;
/// Ways to carry a packet, as they are counted: the numbers of the wire format's classes but for the last.
pub const CARRIED_AS: usize = 4;
/// Flows that are led at once.
pub const MAX_LEADS: usize = 4096;
/// Destinations that are remembered.
pub const MAX_DESTINATIONS: usize = 4096;
/// Bytes of the ring buffer of `flow_events`.
pub const FLOW_EVENTS_LEN: usize = 65_536;
/// In place of a protocol number: any.
pub const ANY_PROTOCOL: u32 = 256;
/// In place of a DSCP: any.
pub const ANY_DSCP: u32 = 64;
/// The hold of a packet that is held for all of D.
pub const FULL_HOLD: u32 = 255;

shared! {
    /// One condition for a class. All of it must be met.
    pub struct ClassRule {
        /// A [`FlowClass`]; 0: the list ends here.
        pub class: u32,
        /// Number of the rule in the configuration, from 1.
        pub rule: u32,
        /// IP protocol number, or [`ANY_PROTOCOL`].
        pub protocol: u32,
        /// DSCP (the upper six bits of the type-of-service byte), or [`ANY_DSCP`].
        pub dscp: u32,
        /// Either the source or the destination port lies between these, both included, host order. From 0 on, a packet
        /// without ports meets it as well.
        pub first_port: u32,
        /// See `first_port`.
        pub last_port: u32,
        /// Shortest inner packet, bytes.
        pub shortest: u32,
        /// Longest inner packet, bytes.
        pub longest: u32,
        /// Either source or destination address has this prefix: words in network order, IPv4 mapped.
        pub prefix: [u32; 4],
        /// The bits of an address that must be those of `prefix`: words in network order.
        pub mask: [u32; 4],
        /// Name of the rule, empty for none; for commands alone.
        pub name: [u8; NAME_LEN],
    }

    /// What was carried for a rule, in one way.
    pub struct ClassStats {
        /// Times that a flow (or a packet of it that differs) was looked up in the rules and came here.
        pub matches: u64,
        /// Packets.
        pub packets: u64,
        /// Bytes of inner packets.
        pub bytes: u64,
        /// Packets among them that went by two paths.
        pub copies: u64,
        /// Bytes of inner packets among them that did.
        pub copied_bytes: u64,
    }

    /// How far a flow is led on its way from one path to all.
    pub struct Lead {
        /// How long its packets are held, n/255 of D; at 0 they are not.
        pub hold: u32,
        /// Zero.
        pub reserved: u32,
    }

    /// A flow without a rule has turned out to be bulk: it fills its path.
    pub struct FlowEvent {
        /// The flow.
        pub flow: FlowKey,
        /// Number of the peer.
        pub peer: u32,
        /// Path id of its path.
        pub path: u32,
    }

    /// Names a destination that flows go to again and again, whatever port they come from.
    #[derive(PartialEq, Eq, Hash)]
    pub struct DestinationKey {
        /// Source network, words in network order.
        pub source: [u32; 4],
        /// Destination network, words in network order.
        pub destination: [u32; 4],
        /// The lower of both ports, host order: the one that is a service's.
        pub port: u32,
        /// IP protocol number.
        pub protocol: u32,
    }

    /// What is remembered of a destination.
    pub struct Destination {
        /// Until when flows to it are aggregate from their first packet, nanoseconds of `CLOCK_BOOTTIME`.
        pub until_ns: u64,
    }
}

/// What a rule wants of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum FlowClass {
    /// Whatever is best, found out by what it does.
    #[default]
    Automatic = 1,
    /// One path, never held.
    Pin = 2,
    /// All paths, delivered by time.
    Aggregate = 3,
    /// Two paths at once while they have room, delivered as the first copy comes.
    Duplicate = 4,
}

impl FlowClass {
    /// All of them in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Automatic, Self::Pin, Self::Aggregate, Self::Duplicate];

    /// As it is written in the configuration and printed by commands.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Automatic => "automatic",
            Self::Pin => "pin",
            Self::Aggregate => "aggregate",
            Self::Duplicate => "duplicate",
        }
    }

    /// The class with this number.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Automatic),
            2 => Some(Self::Pin),
            3 => Some(Self::Aggregate),
            4 => Some(Self::Duplicate),
            _ => None,
        }
    }
}

/// Key in `class_stats`: rule of the configuration, 0 for none, and number of the wire format's
/// [`Class`](crate::wire::Class) that packets were carried as.
#[inline(always)]
pub const fn stats_slot(rule: u32, class: u32) -> u32 {
    (rule & (MAX_COUNTED_RULES as u32 - 1)) * CARRIED_AS as u32 + (class & (CARRIED_AS as u32 - 1))
}

/// The destination of a flow: both networks (/24, IPv6 /56: what one customer is given, RFC 6177) and the service. Any
/// host of the network there may answer for the service next time, and here it is the network's links that matter.
#[inline(always)]
pub const fn destination_key(flow: &FlowKey) -> DestinationKey {
    let (source, destination) = (u16::from_be(flow.ports as u16), u16::from_be((flow.ports >> 16) as u16));
    DestinationKey {
        source: network(flow.source),
        destination: network(flow.destination),
        port: if source < destination { source as u32 } else { destination as u32 },
        protocol: flow.protocol,
    }
}

/// The /24 of a mapped IPv4 address, the /56 of an IPv6 address.
#[inline(always)]
const fn network(address: [u32; 4]) -> [u32; 4] {
    const UPPER_THREE_BYTES: u32 = 0xffff_ff00_u32.to_be();
    let mapped = map_ipv4(0);
    if address[0] == mapped[0] && address[1] == mapped[1] && address[2] == mapped[2] {
        [address[0], address[1], address[2], address[3] & UPPER_THREE_BYTES]
    } else {
        [address[0], address[1] & UPPER_THREE_BYTES, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn words(address: IpAddr) -> [u32; 4] {
        let octets = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        }
        .octets();
        core::array::from_fn(|word| u32::from_ne_bytes(core::array::from_fn(|byte| octets[4 * word + byte])))
    }

    fn flow(source: IpAddr, source_port: u16, destination: IpAddr, destination_port: u16) -> FlowKey {
        let ports = u32::from(source_port.to_be()) | u32::from(destination_port.to_be()) << 16;
        FlowKey { source: words(source), destination: words(destination), ports, protocol: 6 }
    }

    /// The network of a prefix length, by the whole address as one number.
    fn naive(address: IpAddr) -> [u32; 4] {
        let (bits, len) = match address.to_canonical() {
            IpAddr::V4(address) => (address.to_ipv6_mapped().to_bits(), 96 + 24),
            IpAddr::V6(address) => (address.to_bits(), 56),
        };
        words(IpAddr::V6(Ipv6Addr::from_bits(bits >> (128 - len) << (128 - len))))
    }

    proptest! {
        #[test]
        fn a_destination_is_two_networks_and_a_service(
            source: IpAddr, destination: IpAddr, source_port: u16, destination_port: u16
        ) {
            let key = destination_key(&flow(source, source_port, destination, destination_port));
            prop_assert_eq!((key.source, key.destination), (naive(source), naive(destination)));
            prop_assert_eq!((key.port, key.protocol), (source_port.min(destination_port).into(), 6));
        }
    }
}
