//! The maps about classes of flows that the configuration fills and commands read: see [`multipath_common::classes`].

use anyhow::{Context, Result};
use bytemuck::{Zeroable, bytes_of};
use multipath_common::classes::{CARRIED_AS, ClassRule, ClassStats, MAX_CLASS_RULES, MAX_COUNTED_RULES, stats_slot};

use super::{Maps, zeroed_per_cpu};

impl Maps {
    /// The rules in order.
    pub fn class_rules(&self) -> Result<Vec<ClassRule>> {
        let rules: Result<Vec<ClassRule>, _> = self.class_rules.iter().collect();
        let mut rules = rules.context("can't read the map class_rules")?;
        rules.truncate(rules.iter().position(|rule| rule.class == 0).unwrap_or(rules.len()));
        Ok(rules)
    }

    /// Makes the rules these, in order. When one is another than before, flows that are known already are judged anew, and
    /// what has its number is counted anew. What has no room is left out.
    pub fn set_class_rules(&mut self, rules: &[ClassRule]) -> Result<()> {
        let before = self.class_rules()?;
        let entries = |rules: &[ClassRule], number: u32| -> Vec<u8> {
            rules.iter().filter(|rule| rule.rule == number).flat_map(bytes_of).copied().collect()
        };
        let is_changed = |number: &u32| entries(&before, *number) != entries(rules, *number);
        let changed: Vec<u32> = (1..MAX_COUNTED_RULES as u32).filter(is_changed).collect();
        for slot in 0..MAX_CLASS_RULES {
            let rule = rules.get(slot).copied().unwrap_or_else(ClassRule::zeroed);
            self.class_rules.set(slot as u32, rule, 0).context("can't write the map class_rules")?;
        }
        if changed.is_empty() {
            return Ok(());
        }
        // First, or flows would go on to be counted by what their number meant before.
        self.advance_automatic()?;
        changed.into_iter().try_for_each(|number| self.reset_class_stats(number))
    }

    fn reset_class_stats(&mut self, rule: u32) -> Result<()> {
        for class in 0..CARRIED_AS as u32 {
            let values = zeroed_per_cpu()?;
            self.class_stats.set(stats_slot(rule, class), values, 0).context("can't write the map class_stats")?;
        }
        Ok(())
    }

    /// What was carried for a rule (0: for none) as this class of the wire format, summed over all CPUs.
    pub fn class_stats(&self, rule: u32, class: u32) -> Result<ClassStats> {
        let values = self.class_stats.get(&stats_slot(rule, class), 0).context("can't read the map class_stats")?;
        Ok(values.iter().fold(ClassStats::zeroed(), |sum, cpu| ClassStats {
            matches: sum.matches + cpu.matches,
            packets: sum.packets + cpu.packets,
            bytes: sum.bytes + cpu.bytes,
            copies: sum.copies + cpu.copies,
            copied_bytes: sum.copied_bytes + cpu.copied_bytes,
        }))
    }
}
