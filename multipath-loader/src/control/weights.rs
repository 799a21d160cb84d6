//! The weights of a peer's paths.

use super::rate::{PathRate, weights};
use crate::config::{Rate, Uplink};

/// Capacity of each path of an uplink as it is configured, kbit/s; 0 when it is not. The paths of its source ports share
/// one line.
pub fn configured_rate(uplink: &Uplink) -> u32 {
    uplink.rate.map_or(0, |rate| (Rate::kbit(rate) / uplink.flows).max(1))
}

/// The automatic weights of a peer's paths, whose uplinks these are. `measured` is what is known of them, `in_force` what
/// they have now, 0 for nothing.
///
/// The weight is the configured one. Where none is configured, the rates decide; where only some are, the others weigh
/// what their configured rates say in kbit/s, if all have one, else 1.
pub fn automatic(uplinks: &[&Uplink], measured: &[PathRate], in_force: &[u32]) -> Vec<u32> {
    if uplinks.iter().all(|uplink| uplink.weight.is_none()) {
        return weights(measured, in_force);
    }
    let all_have_rates = uplinks.iter().all(|uplink| uplink.rate.is_some());
    let unweighted = |uplink: &Uplink| if all_have_rates { configured_rate(uplink) } else { 1 };
    uplinks.iter().map(|uplink| uplink.weight.unwrap_or_else(|| unweighted(uplink))).collect()
}

#[cfg(test)]
mod tests {
    use multipath_common::health::Role;

    use super::*;
    use crate::config::Xdp;

    fn weights(uplinks: &[(Option<u32>, Option<&str>)]) -> Vec<u32> {
        let uplinks: Vec<Uplink> = uplinks
            .iter()
            .map(|&(weight, rate)| Uplink {
                name: String::new(),
                interface: String::new(),
                weight,
                rate: rate.map(|rate| rate.parse::<Rate>().unwrap()),
                xdp: Xdp::Auto,
                role: Role::Active,
                quota: None,
                flows: 1,
            })
            .collect();
        let uplinks: Vec<&Uplink> = uplinks.iter().collect();
        let measured: Vec<PathRate> = uplinks
            .iter()
            .map(|uplink| PathRate { rate_kbps: configured_rate(uplink), most_delivered_kbps: 0 })
            .collect();
        automatic(&uplinks, &measured, &vec![0; uplinks.len()])
    }

    #[test]
    fn configured_then_rate_then_equal() {
        assert_eq!(weights(&[(Some(8), None), (Some(3), None)]), [8, 3]);
        assert_eq!(weights(&[(Some(8), None), (None, None)]), [8, 1]);
        assert_eq!(weights(&[(Some(70), Some("8mbit")), (None, Some("3mbit"))]), [70, 3000]);
        let by_rate = weights(&[(None, Some("8mbit")), (None, Some("4mbit"))]);
        assert_eq!(by_rate[0], 2 * by_rate[1], "{by_rate:?}");
        let equal = weights(&[(None, None), (None, None)]);
        assert_eq!(equal[0], equal[1]);
    }

    #[test]
    fn source_ports_share_a_line() {
        let uplink = Uplink {
            name: String::new(),
            interface: String::new(),
            weight: None,
            rate: Some("8mbit".parse().unwrap()),
            xdp: Xdp::Auto,
            role: Role::Active,
            quota: None,
            flows: 4,
        };
        assert_eq!(configured_rate(&uplink), 2000);
    }
}
