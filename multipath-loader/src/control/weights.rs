//! Automatic weights, as long as nothing is measured.

use multipath_common::maps::PathSettings;

use crate::config::{Rate, Uplink};

/// The daemon's settings for the paths of each uplink, in the configuration's order.
///
/// The weight is the configured one; without it the configured rate in kbit/s, if every uplink has a rate; else all
/// weigh the same.
pub fn automatic(uplinks: &[Uplink]) -> Vec<PathSettings> {
    let all_have_rates = uplinks.iter().all(|uplink| uplink.rate.is_some());
    uplinks
        .iter()
        .map(|uplink| {
            let rate_kbps = uplink.rate.map_or(0, Rate::kbit);
            let unweighted = if all_have_rates { rate_kbps.max(1) } else { 1 };
            PathSettings { weight: uplink.weight.unwrap_or(unweighted), rate_kbps }
        })
        .collect()
}

#[cfg(test)]
mod tests {
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
            })
            .collect();
        automatic(&uplinks).iter().map(|settings| settings.weight).collect()
    }

    #[test]
    fn configured_then_rate_then_equal() {
        assert_eq!(weights(&[(Some(8), None), (Some(3), None)]), [8, 3]);
        assert_eq!(weights(&[(None, Some("8mbit")), (None, Some("3mbit"))]), [8000, 3000]);
        assert_eq!(weights(&[(None, Some("8mbit")), (None, None)]), [1, 1]);
        assert_eq!(weights(&[(Some(70), Some("8mbit")), (None, Some("3mbit"))]), [70, 3000]);
    }
}
