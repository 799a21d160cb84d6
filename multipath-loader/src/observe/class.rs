//! The rules for classes of flows, and what each has caught, as data.

use anyhow::Result;
use multipath_common::{classes::FlowClass, wire::Class as CarriedAs};
use serde::Serialize;

use crate::{config::classes_of, dataplane::Maps};

/// A rule, or what is done without one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassStatus {
    /// Number of the rule, from 1 in the file's order; 0: packets that no rule has caught.
    pub rule: u32,
    /// Name of the rule; absent when it has none.
    pub name: Option<String>,
    /// How packets that it catches are to be carried: a [`FlowClass`].
    pub class: &'static str,
    /// The packets that it catches, with the keys of the file.
    pub catches: String,
    /// How often a flow (or a packet that differs from the flow's others in DSCP or size) was looked up and came here.
    pub lookups: u64,
    /// How they were carried: a way that was not used is absent.
    pub carried: Vec<CarriedStatus>,
}

/// What was carried for a rule in one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CarriedStatus {
    /// The way: `pin`, `aggregate` or `duplicate`.
    pub class: &'static str,
    /// Packets.
    pub packets: u64,
    /// Bytes of inner packets.
    pub bytes: u64,
    /// Packets among them that went by two paths.
    pub copies: u64,
    /// Bytes of inner packets among them that did.
    pub copied_bytes: u64,
}

/// The ways to carry packets, each with the wire format's classes that it has: what of an aggregate flow went twice has one
/// of its own there.
const WAYS: [(FlowClass, &[CarriedAs]); 3] = [
    (FlowClass::Pin, &[CarriedAs::Pin]),
    (FlowClass::Aggregate, &[CarriedAs::Aggregate, CarriedAs::AggregateDuplicate]),
    (FlowClass::Duplicate, &[CarriedAs::Duplicate]),
];

/// The rules of a tunnel in order, and behind them what is done without one.
pub fn classes(maps: &Maps) -> Result<Vec<ClassStatus>> {
    let rules = classes_of(&maps.class_rules()?);
    let else_word = if rules.is_empty() { "everything" } else { "everything else" };
    let mut classes = Vec::new();
    for (number, rule) in (1..).zip(rules) {
        classes.push(class_status(maps, number, rule.class, rule.conditions(), rule.name)?);
    }
    classes.push(class_status(maps, 0, FlowClass::Automatic, else_word.to_owned(), None)?);
    Ok(classes)
}

fn class_status(
    maps: &Maps,
    rule: u32,
    class: FlowClass,
    catches: String,
    name: Option<String>,
) -> Result<ClassStatus> {
    let mut status = ClassStatus { rule, name, class: class.name(), catches, lookups: 0, carried: Vec::new() };
    for (way, numbers) in WAYS {
        let mut carried = CarriedStatus { class: way.name(), packets: 0, bytes: 0, copies: 0, copied_bytes: 0 };
        for number in numbers {
            let counted = maps.class_stats(rule, *number as u32)?;
            status.lookups += counted.matches;
            carried.packets += counted.packets;
            carried.bytes += counted.bytes;
            carried.copies += counted.copies;
            carried.copied_bytes += counted.copied_bytes;
        }
        if carried.packets != 0 {
            status.carried.push(carried);
        }
    }
    Ok(status)
}
