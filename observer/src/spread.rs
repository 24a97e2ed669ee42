//! How times spread: percentiles in memory that does not grow with their number.

use std::{collections::BTreeMap, time::Duration};

/// Buckets between a power of two and the next: a percentile is less than 1 % off.
const STEPS: u32 = 6;

/// Counts of times in buckets whose width grows with the time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    buckets: BTreeMap<u16, u64>,
    count: u64,
    sum: u128,
    longest: u64,
}

impl Spread {
    /// Takes one more.
    pub fn add(&mut self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        *self.buckets.entry(bucket(nanoseconds)).or_default() += 1;
        self.count += 1;
        self.sum += u128::from(nanoseconds);
        self.longest = self.longest.max(nanoseconds);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The mean, if there are any.
    pub fn mean(&self) -> Option<Duration> {
        let mean = self.sum.checked_div(u128::from(self.count))?;
        u64::try_from(mean).ok().map(Duration::from_nanos)
    }

    /// The longest, if there are any.
    pub fn longest(&self) -> Option<Duration> {
        (self.count > 0).then(|| Duration::from_nanos(self.longest))
    }

    /// The time that this share of all does not exceed (nearest rank), if there are any.
    pub fn percentile(&self, percent: u8) -> Option<Duration> {
        let rank = (u128::from(self.count) * u128::from(percent))
            .div_ceil(100)
            .max(1);
        let mut seen = 0;
        for (bucket, count) in &self.buckets {
            seen += u128::from(*count);
            if seen >= rank {
                return Some(Duration::from_nanos(middle(*bucket).min(self.longest)));
            }
        }
        None
    }

    /// How many there are up to each time of 1, 2, 5, 10, … nanoseconds and from the one before: from the first part
    /// that holds any to the last.
    pub fn parts(&self) -> Vec<(Duration, u64)> {
        let mut parts: Vec<(Duration, u64)> = Vec::new();
        let mut ends = (0..20).flat_map(|power| {
            [1, 2, 5].map(|end| 10_u64.saturating_pow(power).saturating_mul(end))
        });
        let mut end = 0;
        for (bucket, count) in &self.buckets {
            while middle(*bucket) >= end && end < u64::MAX {
                end = ends.next().unwrap_or(u64::MAX);
                if !parts.is_empty() || middle(*bucket) < end {
                    parts.push((Duration::from_nanos(end), 0));
                }
            }
            if let Some(part) = parts.last_mut() {
                part.1 += count;
            }
        }
        parts
    }
}

/// The power of two, and the part between it and the next.
fn bucket(nanoseconds: u64) -> u16 {
    let power = u64::BITS - nanoseconds.leading_zeros();
    let bucket = match power.checked_sub(STEPS + 1) {
        Some(shift) => (u64::from(shift) << STEPS) + (nanoseconds >> shift),
        None => nanoseconds,
    };
    u16::try_from(bucket).unwrap_or(u16::MAX)
}

/// The least and the most that a bucket holds.
fn edges(bucket: u16) -> (u64, u64) {
    let bucket = u64::from(bucket);
    match (bucket >> STEPS).checked_sub(1) {
        Some(shift) if shift > 0 => {
            let least = (bucket - (shift << STEPS)) << shift;
            (least, least + ((1 << shift) - 1))
        }
        _ => (bucket, bucket),
    }
}

fn middle(bucket: u16) -> u64 {
    let (least, most) = edges(bucket);
    least + (most - least) / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn percentiles_are_nearly_exact(mut times in prop::collection::vec(any::<u64>(), 1..200), percent in 1..=100_u8) {
            let mut spread = Spread::default();
            for time in &times {
                spread.add(Duration::from_nanos(*time));
            }
            times.sort_unstable();
            let rank = (times.len() * usize::from(percent)).div_ceil(100).max(1);
            let exact = times[rank - 1] as f64;
            let found = spread.percentile(percent).unwrap().as_nanos() as f64;
            prop_assert!((found - exact).abs() <= exact / 100.0, "{found} for {exact}");
            let counted: u64 = spread.parts().iter().map(|(_, count)| count).sum();
            prop_assert_eq!(counted, times.len() as u64);
            prop_assert_eq!(spread.longest().unwrap().as_nanos(), u128::from(*times.last().unwrap()));
        }
    }

    #[test]
    fn every_bucket_holds_what_is_put_into_it() {
        for time in (0..64).flat_map(|power| [1_u64 << power, (1 << power) - 1, (1 << power) | 5]) {
            let (least, most) = edges(bucket(time));
            assert!((least..=most).contains(&time), "{time}: {least}..={most}");
        }
    }

    #[test]
    fn of_nothing_there_is_nothing() {
        let spread = Spread::default();
        assert_eq!(spread.percentile(50), None);
        assert_eq!((spread.mean(), spread.longest()), (None, None));
        assert!(spread.parts().is_empty());
    }

    #[test]
    fn parts_have_no_holes() {
        let mut spread = Spread::default();
        for microseconds in [1_500, 1_500, 9_000] {
            spread.add(Duration::from_micros(microseconds));
        }
        let counts: Vec<u64> = spread.parts().iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [2, 0, 1]);
    }
}
