//! From the kernel's time to the world's.

use std::time::Duration;

use observer_wire::Timestamp;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// How long one comparison of the clocks holds: `CLOCK_REALTIME` is adjusted now and then.
const CHECK_EVERY: Duration = Duration::from_secs(60);

/// Compares `CLOCK_BOOTTIME` with UTC from time to time.
#[derive(Debug, Default)]
pub struct Clock {
    compared: Option<Timestamp>,
}

impl Clock {
    /// UTC minus boot time in nanoseconds, if it is time to compare the clocks, as it is at first.
    pub fn compare(&mut self) -> Option<i64> {
        let now = now();
        if self
            .compared
            .is_some_and(|compared| now.since(compared) <= CHECK_EVERY)
        {
            return None;
        }
        self.compared = Some(now);
        Some(offset())
    }
}

/// The current `CLOCK_BOOTTIME`.
pub fn now() -> Timestamp {
    Timestamp(u64::try_from(nanoseconds(clock_gettime(ClockId::Boottime))).unwrap_or(0))
}

fn offset() -> i64 {
    let before = nanoseconds(clock_gettime(ClockId::Boottime));
    let utc = nanoseconds(clock_gettime(ClockId::Realtime));
    let after = nanoseconds(clock_gettime(ClockId::Boottime));
    i64::try_from(utc - (before + after) / 2).unwrap_or(0)
}

/// A duration in nanoseconds; the largest number if it is longer.
pub fn nanoseconds_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn nanoseconds(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp as Utc;

    use super::*;

    #[test]
    fn now_maps_to_the_current_utc_time() {
        let mut clock = Clock::default();
        let offset = clock.compare().unwrap();
        let utc = Utc::from_nanosecond(i128::from(now().0) + i128::from(offset)).unwrap();
        let error = utc.duration_since(Utc::now()).unsigned_abs();
        assert!(error < Duration::from_millis(50), "{error:?}");
        assert_eq!(clock.compare(), None);
    }
}
