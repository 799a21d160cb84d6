//! Bytes over time, and what is said of them.

use multipath_tests::traffic::stream::INTERVAL_MS;

/// Seconds of a place in a series.
pub(super) const STEP: f64 = INTERVAL_MS as f64 / 1e3;

/// Bytes in each interval of [`STEP`] since the start.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Series(Vec<f64>);

impl FromIterator<f64> for Series {
    fn from_iter<T: IntoIterator<Item = f64>>(bytes: T) -> Self {
        Self(bytes.into_iter().collect())
    }
}

impl Series {
    /// Adds bytes that came evenly between two times, seconds.
    pub(super) fn spread(&mut self, start: f64, end: f64, bytes: f64) {
        let (mut at, length) = (start.max(0.0), end - start);
        while at < end {
            let index = (at / STEP + 1e-6) as usize;
            let next = ((index + 1) as f64 * STEP).min(end);
            self.0.resize(self.0.len().max(index + 1), 0.0);
            self.0[index] += bytes * (next - at) / length;
            // A rest of rounding would be a place of its own.
            at = if end - next < STEP * 1e-6 { end } else { next };
        }
    }

    /// Mbit/s of each interval.
    pub(super) fn mbps(&self) -> impl Iterator<Item = f64> {
        self.0.iter().map(|bytes| bytes * 8e-6 / STEP)
    }

    /// Mean between two times in seconds, Mbit/s. Where nothing was recorded, nothing came.
    pub(super) fn mean(&self, start: f64, end: f64) -> f64 {
        let [first, last] = [start, end].map(|time| (time / STEP).round() as usize);
        let bytes: f64 = self.0.iter().take(last).skip(first).sum();
        bytes * 8e-6 / (end - start).max(STEP)
    }

    /// The smallest mean of all windows of `length` seconds between two times: when it starts, and Mbit/s.
    pub(super) fn smallest_mean(&self, start: f64, end: f64, length: f64) -> Option<(f64, f64)> {
        let starts = (0..).map(|step| start + f64::from(step) * STEP).take_while(|at| at + length <= end + STEP / 2.0);
        starts.map(|at| (at, self.mean(at, at + length))).min_by(|one, other| one.1.total_cmp(&other.1))
    }

    /// Standard deviation by mean of the seconds between two times.
    pub(super) fn variation(&self, start: f64, end: f64) -> f64 {
        let starts = (0..).map(|second| start + f64::from(second)).take_while(|at| at + 1.0 <= end + STEP / 2.0);
        let rates: Vec<f64> = starts.map(|at| self.mean(at, at + 1.0)).collect();
        let count = rates.len().max(1) as f64;
        let mean = rates.iter().sum::<f64>() / count;
        let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
        if mean > 0.0 { variance.sqrt() / mean } else { 0.0 }
    }

    /// When the mean of half a second first reaches a rate in Mbit/s: the end of that half second.
    pub(super) fn reaches(&self, mbps: f64) -> Option<f64> {
        let ends = (5..=self.0.len()).map(|index| index as f64 * STEP);
        ends.into_iter().find(|end| self.mean(end - 0.5, *end) >= mbps)
    }

    /// From when on every window of two seconds has at least that mean, up to `end`. None: not even the last one has.
    pub(super) fn stays_above(&self, mbps: f64, end: f64) -> Option<f64> {
        let steps = ((end - 2.0) / STEP).round() as usize;
        let starts = (0..=steps).rev().map(|index| index as f64 * STEP);
        starts.take_while(|start| self.mean(*start, start + 2.0) >= mbps).last()
    }
}

/// The value below which a share (0 to 1) of the values between two times lies; none where there are none.
pub(super) fn percentile(values: &[(f64, f64)], (start, end): (f64, f64), share: f64) -> Option<f64> {
    let mut sorted: Vec<f64> =
        values.iter().filter(|(at, _)| (start..=end).contains(at)).map(|(_, value)| *value).collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len().saturating_sub(1) as f64 * share).round() as usize).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of an interval at 1 Mbit/s.
    const MBIT: f64 = 1e6 / 8.0 * STEP;

    fn ramp() -> Series {
        // Nothing for a second, then 4 Mbit/s for two and 8 for three.
        let rates = [(10, 0.0), (20, 4.0), (30, 8.0)];
        rates.into_iter().flat_map(|(count, rate)| std::iter::repeat_n(rate * MBIT, count)).collect()
    }

    fn is_near(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-6
    }

    #[test]
    fn bytes_are_spread_over_the_intervals_that_they_came_in() {
        let mut series = Series::default();
        series.spread(0.0, 0.25, 5.0);
        series.spread(0.25, 0.3, 1.0);
        assert!(series.0.iter().zip([2.0, 2.0, 2.0]).all(|(own, due)| is_near(*own, due)), "{series:?}");
        assert_eq!(series.0.len(), 3);
    }

    #[test]
    fn means_are_of_the_time_asked_for() {
        let series = ramp();
        assert!(is_near(series.mean(0.0, 6.0), 32.0 / 6.0) && is_near(series.mean(2.0, 4.0), 6.0));
        // What was not recorded counts as nothing.
        assert!(is_near(series.mean(5.0, 7.0), 4.0));
        assert_eq!(series.smallest_mean(1.0, 6.0, 2.0), Some((1.0, series.mean(1.0, 3.0))));
        assert_eq!(series.smallest_mean(5.0, 6.0, 2.0), None);
    }

    #[test]
    fn the_variation_is_of_seconds() {
        assert!(is_near(ramp().variation(1.0, 3.0), 0.0));
        // 4 and 8: two away from six.
        assert!(is_near(ramp().variation(2.0, 4.0), 2.0 / 6.0));
    }

    #[test]
    fn a_rate_is_reached_and_kept() {
        let series = ramp();
        assert!(is_near(series.reaches(3.9).unwrap(), 1.5) && is_near(series.reaches(7.9).unwrap(), 3.5));
        assert_eq!(series.reaches(9.0), None);
        assert!(
            is_near(series.stays_above(7.9, 6.0).unwrap(), 3.0) && is_near(series.stays_above(5.9, 6.0).unwrap(), 2.0)
        );
        assert_eq!(series.stays_above(9.0, 6.0), None);
    }

    #[test]
    fn percentiles_are_of_the_time_asked_for() {
        let values: Vec<(f64, f64)> = (0..=100).map(|n| (f64::from(n), f64::from(n))).collect();
        assert_eq!(percentile(&values, (50.0, 100.0), 0.5), Some(75.0));
        assert_eq!(percentile(&values, (200.0, 300.0), 0.5), None);
    }
}
