//! Which class a flow has: by the rules, and, where none speaks of it, by what it does.
//!
//! A flow is looked up in the rules once. Rules may speak of the length and the DSCP of packets, in which those of one
//! flow differ; so a look-up also says for which lengths and DSCPs its outcome is the same, and only a packet beyond
//! these is looked up again.

use crate::{
    classes::{ANY_DSCP, ANY_PROTOCOL, ClassRule, FlowClass},
    maps::{Flow, FlowKey},
};

/// For how long a flow is looked at to see whether it is bulk, nanoseconds.
const LOOK_NS: u64 = 500_000_000;
/// A flow is bulk that sends so many bytes within one look
const BULK_BYTES: u64 = 64 * 1024;
/// while so many of its packets find their path full: it would send more if it could.
const BULK_PRESSED: u32 = 8;

/// A look-up in the rules under way: offer every rule in order until one matches.
#[derive(Clone, Copy, Debug)]
pub struct Lookup {
    flow: FlowKey,
    dscp: u32,
    len: u32,
    /// The [`FlowClass`] that was found.
    pub class: u32,
    /// Number of the rule that says so, 0 for none.
    pub rule: u32,
    /// The outcome is the same for packets with this DSCP, or [`ANY_DSCP`],
    pub same_dscp: u32,
    /// from so many bytes
    pub shortest: u32,
    /// to so many.
    pub longest: u32,
}

impl Lookup {
    /// For a packet of a flow, with this DSCP and of `len` bytes.
    #[inline(always)]
    pub const fn new(flow: FlowKey, dscp: u32, len: u32) -> Self {
        Self {
            flow,
            dscp,
            len,
            class: FlowClass::Automatic as u32,
            rule: 0,
            same_dscp: ANY_DSCP,
            shortest: 0,
            longest: u32::MAX,
        }
    }

    /// Offers the next rule. Whether the look-up has ended: the rule matches, or the list ends with it.
    #[inline(always)]
    pub const fn offer(&mut self, rule: &ClassRule) -> bool {
        if rule.class == 0 {
            return true;
        }
        if !concerns(rule, &self.flow) {
            return false;
        }
        if rule.dscp != ANY_DSCP {
            self.same_dscp = self.dscp;
            if rule.dscp != self.dscp {
                return false;
            }
        }
        if self.len < rule.shortest {
            self.longest = min(self.longest, rule.shortest - 1);
            return false;
        }
        if self.len > rule.longest {
            self.shortest = max(self.shortest, rule.longest + 1);
            return false;
        }
        self.shortest = max(self.shortest, rule.shortest);
        self.longest = min(self.longest, rule.longest);
        self.class = rule.class;
        self.rule = rule.rule;
        true
    }
}

#[inline(always)]
const fn min(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}

#[inline(always)]
const fn max(a: u32, b: u32) -> u32 {
    if a > b { a } else { b }
}

/// Whether a rule speaks of a flow, whatever its packets look like.
#[inline(always)]
const fn concerns(rule: &ClassRule, flow: &FlowKey) -> bool {
    let source = u16::from_be(flow.ports as u16) as u32;
    let destination = u16::from_be((flow.ports >> 16) as u16) as u32;
    (rule.protocol == ANY_PROTOCOL || rule.protocol == flow.protocol)
        && (is_between(rule, source) || is_between(rule, destination))
        && (has_prefix(rule, &flow.source) || has_prefix(rule, &flow.destination))
}

#[inline(always)]
const fn is_between(rule: &ClassRule, port: u32) -> bool {
    rule.first_port <= port && port <= rule.last_port
}

#[inline(always)]
const fn has_prefix(rule: &ClassRule, address: &[u32; 4]) -> bool {
    let mut differing = 0;
    let mut word = 0;
    while word < 4 {
        differing |= (address[word] ^ rule.prefix[word]) & rule.mask[word];
        word += 1;
    }
    differing == 0
}

impl Flow {
    /// Whether its class holds for a packet with this DSCP and of `len` bytes.
    #[inline(always)]
    pub const fn is_classed(&self, dscp: u32, len: u32) -> bool {
        self.class != 0 && (self.dscp == ANY_DSCP || self.dscp == dscp) && self.shortest <= len && len <= self.longest
    }

    /// Takes a packet of `len` bytes that is sent at `now`.
    #[inline(always)]
    pub const fn take(&mut self, now: u64, len: u32) {
        self.bytes += len as u64;
        self.last_ns = now;
    }

    /// Looks at a packet that is not striped, after [`take`](Self::take): whether the flow is bulk. `is_pressed`: the packet
    /// found its path full. What is found once is looked for anew, so that it is found again while it lasts.
    #[inline(always)]
    pub const fn look(&mut self, now: u64, is_pressed: bool) -> bool {
        if now.wrapping_sub(self.look_ns) > LOOK_NS {
            self.look_ns = now;
            self.look_bytes = self.bytes;
            self.pressed = 0;
        }
        self.pressed += is_pressed as u32;
        let sent = self.bytes.wrapping_sub(self.look_bytes).cast_signed();
        let is_bulk = self.pressed >= BULK_PRESSED && sent >= BULK_BYTES.cast_signed();
        if is_bulk {
            self.look_ns = now;
            // Not again in this look.
            self.look_bytes = self.bytes + (1 << 40);
        }
        is_bulk
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;
    use crate::maps::map_ipv4;

    /// The first rule that a packet meets, by the words of [`ClassRule`] alone.
    fn naive(rules: &[ClassRule], flow: &FlowKey, dscp: u32, len: u32) -> (u32, u32) {
        let ports = [flow.ports & 0xffff, flow.ports >> 16].map(|port| u32::from(u16::from_be(port as u16)));
        let found = rules.iter().take_while(|rule| rule.class != 0).find(|rule| {
            let prefixed =
                |address: [u32; 4]| (0..4).all(|i| address[i] & rule.mask[i] == rule.prefix[i] & rule.mask[i]);
            [ANY_PROTOCOL, flow.protocol].contains(&rule.protocol)
                && [ANY_DSCP, dscp].contains(&rule.dscp)
                && ports.iter().any(|port| (rule.first_port..=rule.last_port).contains(port))
                && (rule.shortest..=rule.longest).contains(&len)
                && (prefixed(flow.source) || prefixed(flow.destination))
        });
        found.map_or((FlowClass::Automatic as u32, 0), |rule| (rule.class, rule.rule))
    }

    fn lookup(rules: &[ClassRule], flow: FlowKey, dscp: u32, len: u32) -> Lookup {
        let mut lookup = Lookup::new(flow, dscp, len);
        let _ = rules.iter().any(|rule| lookup.offer(rule));
        lookup
    }

    /// Few values, so that rules and packets meet often.
    fn rule() -> impl Strategy<Value = ClassRule> {
        let protocol = prop::sample::select(vec![ANY_PROTOCOL, 6, 17, 1]);
        let dscp = prop::sample::select(vec![ANY_DSCP, ANY_DSCP, 0, 46]);
        let mask = prop::sample::select(vec![[0; 4], [u32::MAX; 4], [u32::MAX, u32::MAX, u32::MAX, 0xff]]);
        (0u32..20, 1u32..64, protocol, dscp, [0u32..6, 0u32..6], [0u32..12, 0u32..12], mask, 0u32..3).prop_map(
            |(class, rule, protocol, dscp, ports, lens, mask, host)| ClassRule {
                class: if class == 0 { 0 } else { class % 4 + 1 },
                rule,
                protocol,
                dscp,
                first_port: ports[0].min(ports[1]),
                last_port: ports[0].max(ports[1]),
                shortest: lens[0].min(lens[1]),
                longest: lens[0].max(lens[1]),
                prefix: map_ipv4(host.to_be()),
                mask,
                name: [0; 16],
            },
        )
    }

    fn flow() -> impl Strategy<Value = FlowKey> {
        (0u32..3, 0u32..3, [0u16..6, 0u16..6], prop::sample::select(vec![6, 17, 1])).prop_map(
            |(source, destination, ports, protocol)| FlowKey {
                source: map_ipv4(source.to_be()),
                destination: map_ipv4(destination.to_be()),
                ports: u32::from(ports[0].to_be()) | u32::from(ports[1].to_be()) << 16,
                protocol,
            },
        )
    }

    proptest! {
        #[test]
        fn the_first_rule_that_is_met_and_only_as_far_as_it_holds(
            rules in prop::collection::vec(rule(), 0..12), flow in flow(), dscp in prop::sample::select(vec![0u32, 46, 8]), len in 0u32..14
        ) {
            let found = lookup(&rules, flow, dscp, len);
            prop_assert_eq!((found.class, found.rule), naive(&rules, &flow, dscp, len));
            let remembered = Flow {
                class: found.class, rule: found.rule, dscp: found.same_dscp, shortest: found.shortest, longest: found.longest, ..Flow::NEW
            };
            prop_assert!(remembered.is_classed(dscp, len));
            for dscp in [0, 46, 8, 63] {
                for len in (0..14).chain([1500, 65_535]).filter(|len| remembered.is_classed(dscp, *len)) {
                    prop_assert_eq!((found.class, found.rule), naive(&rules, &flow, dscp, len), "dscp {}, {} bytes", dscp, len);
                }
            }
        }

        /// Rules that do not speak of lengths and DSCPs are asked once in a flow's life.
        #[test]
        fn nothing_is_narrowed_without_need(rules in prop::collection::vec(rule(), 0..12), flow in flow()) {
            let rules: Vec<ClassRule> =
                rules.into_iter().map(|rule| ClassRule { dscp: ANY_DSCP, shortest: 0, longest: u32::MAX, ..rule }).collect();
            let found = lookup(&rules, flow, 46, 100);
            prop_assert_eq!((found.same_dscp, found.shortest, found.longest), (ANY_DSCP, 0, u32::MAX));
        }
    }

    const MS: u64 = 1_000_000;

    /// A flow that sends so many packets of 1,400 bytes evenly in a second, every n-th of them on a full path: when it was
    /// found to be bulk, milliseconds.
    fn found(packets: u64, full: u64) -> Vec<u64> {
        let mut flow = Flow::NEW;
        let start = 77_777 * MS;
        let times = (0..packets).map(|packet| packet * 1000 * MS / packets);
        times
            .enumerate()
            .filter_map(|(packet, time)| {
                flow.take(start + time, 1400);
                flow.look(start + time, full != 0 && packet as u64 % full == full - 1).then_some(time / MS)
            })
            .collect()
    }

    #[test]
    fn bulk_fills_its_path() {
        assert_eq!(found(1000, 0), [], "it gets what it wants");
        assert_eq!(found(80, 1), [], "a slow path is full at once");
        assert_eq!(found(1000, 200), [], "a burst now and then");
        let often = found(1000, 4);
        assert_eq!((often[0], often.len()), (47, 2), "{often:?}");
    }
}
