//! Repeated measurements of one quantity.

use std::fmt;

use serde_json::{Value, json};

/// The values of one quantity over all repetitions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample(Vec<f64>);

impl FromIterator<f64> for Sample {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        let mut sample = Self::default();
        values.into_iter().for_each(|value| sample.add(value));
        sample
    }
}

impl Sample {
    /// Adds the value of one repetition.
    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// The middle value; of an even number the mean of the two in the middle; 0 where there is none.
    pub(crate) fn median(&self) -> f64 {
        let [low, high] = [self.0.len().saturating_sub(1) / 2, self.0.len() / 2];
        let at = |index: usize| self.0.get(index).copied().unwrap_or_default();
        f64::midpoint(at(low), at(high))
    }

    /// The smallest and the largest value.
    pub(crate) fn range(&self) -> [f64; 2] {
        [self.0.first(), self.0.last()].map(|value| value.copied().unwrap_or_default())
    }

    /// The values less a constant.
    pub(crate) fn less(&self, constant: f64) -> Self {
        Self(self.0.iter().map(|value| value - constant).collect())
    }

    /// The median for the JSON object, with one decimal.
    pub(crate) fn json(&self) -> Value {
        json!((self.median() * 10.0).round() / 10.0)
    }

    /// The same, or null where nothing was measured.
    pub(crate) fn known(&self) -> Value {
        if self.0.is_empty() { Value::Null } else { self.json() }
    }

    /// The largest value for the JSON object, with one decimal, or null where nothing was measured.
    pub(crate) fn worst(&self) -> Value {
        self.0.last().map_or(Value::Null, |value| json!((value * 10.0).round() / 10.0))
    }

    /// How many values there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Sample {
    /// `median (smallest to largest)`, right-aligned; the precision is that of all three.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(0);
        let [smallest, largest] = self.range();
        let text = format!("{:.digits$} ({smallest:.digits$} to {largest:.digits$})", self.median());
        // Not `pad`: that would cut the text to the precision.
        write!(f, "{text:>width$}", width = f.width().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::Sample;

    #[test]
    fn the_median_is_in_the_middle() {
        let mut sample = Sample::default();
        assert!(sample.median().abs() < f64::EPSILON);
        for value in [5.0, 1.0, 3.0] {
            sample.add(value);
        }
        assert!((sample.median() - 3.0).abs() < f64::EPSILON);
        sample.add(4.0);
        assert!((sample.less(1.0).median() - 2.5).abs() < f64::EPSILON);
        assert_eq!(format!("{sample:.1}"), "3.5 (1.0 to 5.0)");
    }
}
