//! Rules for classes of flows: as the file has them, and as the programs read them.

use std::{net::IpAddr, ops::RangeInclusive};

use bytemuck::Zeroable;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use multipath_common::{
    classes::{ANY_DSCP, ANY_PROTOCOL, ClassRule, FlowClass},
    maps::{NAME_LEN, address_bytes, address_from},
};

use super::{assigned, span};

/// Bits before an IPv4 address where it is IPv4-mapped.
const MAPPED_BITS: u8 = 96;

/// A `[[class]]` table: how packets are carried that meet all that it asks for. The first one that a packet meets counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// The rule's name, unique within the file.
    pub name: Option<String>,
    /// How they are carried.
    pub class: FlowClass,
    /// IP protocol number; `None` is any.
    pub protocol: Option<u8>,
    /// Ranges of which the source or the destination port must be in one, sorted, apart, without 0; empty: any, or none.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Prefixes of which the source or the destination address must have one, each once; empty: any. None of them holds the
    /// IPv4-mapped addresses among others.
    pub prefixes: Vec<IpNet>,
    /// DSCP, at most 63; `None` is any.
    pub dscp: Option<u8>,
    /// Bytes of the inner packet.
    pub size: RangeInclusive<u32>,
}

impl Class {
    /// How many entries of the map it takes.
    pub fn entry_count(&self) -> usize {
        self.ports.len().max(1) * self.prefixes.len().max(1)
    }

    /// What it asks for as one line, with the keys of the file; `everything` when that is nothing.
    pub fn conditions(&self) -> String {
        let prefixes: Vec<String> = self.prefixes.iter().map(ToString::to_string).collect();
        let asked = [
            self.protocol.map(assigned::protocol_text),
            (!self.ports.is_empty()).then(|| format!("ports {}", span::ports_text(&self.ports))),
            (!prefixes.is_empty()).then(|| format!("prefixes {}", prefixes.join(", "))),
            self.dscp.map(|dscp| format!("dscp {}", assigned::dscp_text(dscp))),
            (self.size != ANY_SIZE).then(|| format!("size {}", span::sizes_text(&self.size))),
        ];
        let asked: Vec<String> = asked.into_iter().flatten().collect();
        if asked.is_empty() { "everything".to_owned() } else { asked.join("; ") }
    }
}

/// The size of every packet.
pub(super) const ANY_SIZE: RangeInclusive<u32> = 0..=u32::MAX;
/// The ports of every packet, one without ports included.
const ANY_PORT: RangeInclusive<u16> = 0..=u16::MAX;

/// The rules as the programs read them, in order: each takes an entry for each of its ranges of ports times each of its
/// prefixes, because an entry has one of both.
pub fn class_rules(classes: &[Class]) -> Vec<ClassRule> {
    classes.iter().zip(1..).flat_map(|(class, number)| entries(class, number)).collect()
}

fn entries(class: &Class, number: u32) -> Vec<ClassRule> {
    let mut name = [0; NAME_LEN];
    let given = class.name.as_deref().unwrap_or_default().as_bytes();
    let len = given.len().min(NAME_LEN - 1);
    name[..len].copy_from_slice(&given[..len]);
    let common = ClassRule {
        class: class.class as u32,
        rule: number,
        protocol: class.protocol.map_or(ANY_PROTOCOL, u32::from),
        dscp: class.dscp.map_or(ANY_DSCP, u32::from),
        shortest: *class.size.start(),
        longest: *class.size.end(),
        name,
        ..ClassRule::zeroed()
    };
    let ports = if class.ports.is_empty() { vec![ANY_PORT] } else { class.ports.clone() };
    let mut prefixes: Vec<_> = class.prefixes.iter().map(prefix_words).collect();
    if prefixes.is_empty() {
        prefixes.push(<_>::default());
    }
    let mut entries = Vec::new();
    for range in &ports {
        for (prefix, mask) in &prefixes {
            let (first_port, last_port) = (u32::from(*range.start()), u32::from(*range.end()));
            entries.push(ClassRule { first_port, last_port, prefix: *prefix, mask: *mask, ..common });
        }
    }
    entries
}

/// The rules that were made into these entries.
pub fn classes_of(rules: &[ClassRule]) -> Vec<Class> {
    rules.chunk_by(|one, next| one.rule == next.rule).filter_map(class_of).collect()
}

/// The rule that was made into these entries; `None` when its class has no name.
fn class_of(entries: &[ClassRule]) -> Option<Class> {
    let first = entries.first()?;
    let name = String::from_utf8_lossy(&first.name).trim_end_matches('\0').to_owned();
    let mut class = Class {
        name: (!name.is_empty()).then_some(name),
        class: FlowClass::from_number(first.class)?,
        protocol: u8::try_from(first.protocol).ok(),
        ports: Vec::new(),
        prefixes: Vec::new(),
        dscp: Some(first.dscp as u8).filter(|_| first.dscp != ANY_DSCP),
        size: first.shortest..=first.longest,
    };
    for entry in entries {
        let ports = entry.first_port as u16..=entry.last_port as u16;
        if ports != ANY_PORT && !class.ports.contains(&ports) {
            class.ports.push(ports);
        }
        if let Some(prefix) = prefix_of(entry)
            && !class.prefixes.contains(&prefix)
        {
            class.prefixes.push(prefix);
        }
    }
    Some(class)
}

/// A prefix as address and mask, IPv4 mapped.
fn prefix_words(prefix: &IpNet) -> ([u32; 4], [u32; 4]) {
    let bits = prefix.prefix_len() + if prefix.addr().is_ipv4() { MAPPED_BITS } else { 0 };
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    (words(address_bytes(prefix.network())), words(mask.to_be_bytes()))
}

/// The prefix of an entry; `None` when it asks for none.
fn prefix_of(entry: &ClassRule) -> Option<IpNet> {
    let bits = u128::from_be_bytes(bytes(entry.mask)).leading_ones() as u8;
    if bits == 0 {
        return None;
    }
    match address_from(bytes(entry.prefix)) {
        IpAddr::V4(address) => Ipv4Net::new(address, bits.checked_sub(MAPPED_BITS)?).ok().map(IpNet::V4),
        IpAddr::V6(address) => Ipv6Net::new(address, bits).ok().map(IpNet::V6),
    }
}

fn words(bytes: [u8; 16]) -> [u32; 4] {
    bytemuck::cast(bytes)
}

fn bytes(words: [u32; 4]) -> [u8; 16] {
    bytemuck::cast(words)
}
